/* The limits of a stay behind the door: instructions, wall clock, memory.
 *
 * A count hook sees every STEP instructions of a thread. When a limit trips, it stays tripped: the hook raises and is set to
 * every single instruction on the running thread and on the main thread, so that a script's pcall or coroutine gets no
 * further than its next instruction. The hook does not run inside C functions: those that could take long charge for
 * themselves (policy_std.c, pattern.c), and the allocator looks at the clock when a large block is asked for. It does not
 * run inside itself either, nor in what Lua calls while it raises: an xpcall handler (policy_std.c stands in front of it).
 *
 * Few instructions can take long, too: one may copy a million arguments. So a timer of the kernel sends a signal to this very
 * thread at the deadline, and its handler sets the hook to the next instruction, as lua_sethook allows.
 *
 * A count is a thread's own: where scripts can make coroutines (TRUSTED states) the limits are for accidents, not for
 * enemies. POLICY states have none.
 *
 * Memory: the allocator refuses what would go beyond the cap; Lua collects, asks again, and then raises its memory error.
 * That is not sticky: what was freed may be used, and the instruction budget bounds how often it can be tried. */
#include "lua/runtime_impl.h"
#include "base/clock.h"
#include <lauxlib.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STEP 1000
#define LARGE_BLOCK (256u << 10)
#define LATE_SIGNAL (SIGRTMIN + 7) /* nobody else's here; a thread that never armed one gets none */

static void over_budget(lua_State *L, lua_Debug *ar);

const char *lat_limits_text(enum lat_rt_why why)
{
	static const char *const text[] = {
		[LAT_RT_ERROR] = "failed",
		[LAT_RT_INSTRUCTIONS] = "stopped: it used up its instruction budget (an endless loop?)",
		[LAT_RT_DEADLINE] = "stopped: it ran longer than its time limit",
		[LAT_RT_MEMORY] = "stopped: it wanted more memory than its limit",
		[LAT_RT_STOPPED] = "stopped: interrupted",
	};
	_Static_assert(sizeof(text) / sizeof(text[0]) == LAT_RT_WHY_COUNT, "a text for each reason");

	return text[why];
}

/* The innermost Lua line of a thread. Allocates nothing: also called from inside the allocator. */
static void note_where(struct lat_rt *rt, lua_State *L)
{
	lua_Debug ar;

	rt->where[0] = '\0';
	for (int level = 0; lua_getstack(L, level, &ar); level++) {
		lua_getinfo(L, "Sl", &ar);
		if (ar.currentline > 0) {
			snprintf(rt->where, sizeof(rt->where), "%s:%d", ar.short_src, ar.currentline);
			return;
		}
	}
}

static void trip(struct lat_rt *rt, lua_State *L, enum lat_rt_why why)
{
	if (!rt->tripped) {
		rt->tripped = why;
		note_where(rt, L);
	}
	lua_sethook(L, over_budget, LUA_MASKCOUNT, 1);
	lua_sethook(rt->L, over_budget, LUA_MASKCOUNT, 1);
	luaL_error(L, "%s%s%s", rt->where, rt->where[0] ? ": " : "", lat_limits_text(rt->tripped));
}

static void check(struct lat_rt *rt, lua_State *L, uint64_t steps)
{
	if (rt->tripped)
		trip(rt, L, rt->tripped);
	if (atomic_load_explicit(&rt->stop, memory_order_relaxed))
		trip(rt, L, LAT_RT_STOPPED);
	if (rt->limits.instructions) {
		if (rt->instructions_left <= steps)
			trip(rt, L, LAT_RT_INSTRUCTIONS);
		rt->instructions_left -= steps;
	}
	if (rt->deadline_ns && lat_now_ns() >= rt->deadline_ns)
		trip(rt, L, LAT_RT_DEADLINE);
}

static void over_budget(lua_State *L, lua_Debug *ar)
{
	struct lat_rt *rt = lat_rt_of(L);

	/* A coroutine of an earlier stay that tripped is still at one instruction: back to the normal pace. */
	if (!rt->tripped && lua_gethookcount(L) == 1)
		lua_sethook(L, over_budget, LUA_MASKCOUNT, STEP);
	check(rt, L, STEP);
}

void lat_limits_charge(lua_State *L, uint64_t steps)
{
	struct lat_rt *rt = lat_rt_of(L);

	if (rt->armed)
		check(rt, L, steps);
}

void lat_rt_stop(struct lat_rt *rt, bool stop)
{
	atomic_store(&rt->stop, stop);
}

/* In the thread that runs the state, between any two machine instructions. */
static void late(int number, siginfo_t *info, void *context)
{
	struct lat_rt *rt = info->si_code == SI_TIMER ? info->si_value.sival_ptr : NULL;

	(void)number;
	(void)context;
	if (rt && rt->has_timer)
		lua_sethook(rt->L, over_budget, LUA_MASKCOUNT, 1);
}

static void catch_late(void)
{
	struct sigaction act = { .sa_sigaction = late, .sa_flags = SA_SIGINFO | SA_RESTART };

	sigaction(LATE_SIGNAL, &act, NULL);
}

/* Without a timer (the user's signals are used up) the hook still looks every STEP instructions. */
static void start_timer(struct lat_rt *rt)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = LATE_SIGNAL };
	struct itimerspec at = { .it_value = { (time_t)(rt->deadline_ns / LAT_NS_PER_SEC),
					 (long)(rt->deadline_ns % LAT_NS_PER_SEC) } };
	sigset_t set;

	pthread_once(&once, catch_late);
	event.sigev_value.sival_ptr = rt;
	event._sigev_un._tid = gettid();
	if (timer_create(CLOCK_MONOTONIC, &event, &rt->timer) < 0)
		return;
	sigemptyset(&set);
	sigaddset(&set, LATE_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &set, &rt->signals);
	rt->has_timer = true;
	timer_settime(rt->timer, TIMER_ABSTIME, &at, NULL);
}

/* A signal that is on its way is handled before the call returns: it is this thread's. */
static void stop_timer(struct lat_rt *rt)
{
	if (!rt->has_timer)
		return;
	timer_delete(rt->timer);
	rt->has_timer = false;
	pthread_sigmask(SIG_SETMASK, &rt->signals, NULL);
}

void lat_limits_arm(struct lat_rt *rt)
{
	rt->tripped = LAT_RT_ERROR;
	rt->where[0] = '\0';
	rt->instructions_left = rt->limits.instructions;
	rt->deadline_ns = rt->limits.deadline_ms
		? lat_now_ns() + rt->limits.deadline_ms * LAT_NS_PER_MS
		: 0;
	rt->armed = rt->limits.instructions || rt->limits.deadline_ms;
	if (rt->armed)
		lua_sethook(rt->L, over_budget, LUA_MASKCOUNT, STEP);
	if (rt->deadline_ns)
		start_timer(rt);
}

void lat_limits_disarm(struct lat_rt *rt)
{
	stop_timer(rt);
	if (rt->armed)
		lua_sethook(rt->L, NULL, 0, 0);
	rt->armed = false;
}

int lat_limits_uncounted(lua_State *L)
{
	struct lat_rt *rt = lat_rt_of(L);
	int status;

	/* Without a timer nothing else would keep the deadline. The signal may have come just before the hook went. */
	if (L == rt->L && rt->has_timer && !rt->tripped) {
		lua_sethook(L, NULL, 0, 0);
		if (lat_now_ns() >= rt->deadline_ns)
			lua_sethook(L, over_budget, LUA_MASKCOUNT, 1);
	}
	status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
	if (rt->armed)
		lua_sethook(L, over_budget, LUA_MASKCOUNT, 1); /* which returns to its pace */
	return status == LUA_OK ? lua_gettop(L) : lua_error(L);
}

void *lat_limits_alloc(void *arg, void *block, size_t old_size, size_t new_size)
{
	struct lat_rt *rt = arg;
	size_t old = block ? old_size : 0; /* without a block, old_size is a type tag */
	void *p;

	if (new_size == 0) {
		lat_arena_free(&rt->arena, block, old_size);
		rt->memory_used -= old;
		return NULL;
	}
	if (new_size > old) {
		size_t more = new_size - old;

		if (rt->limits.memory && (more > rt->limits.memory || rt->memory_used > rt->limits.memory - more)) {
			if (rt->inside && rt->L)
				note_where(rt, rt->L);
			return NULL;
		}
		if (more > LARGE_BLOCK && rt->armed && rt->deadline_ns && lat_now_ns() >= rt->deadline_ns) {
			/* The memory error that Lua makes of this is the deadline's. */
			if (!rt->tripped) {
				rt->tripped = LAT_RT_DEADLINE;
				note_where(rt, rt->L);
			}
			lua_sethook(rt->L, over_budget, LUA_MASKCOUNT, 1);
			return NULL;
		}
	}
	p = lat_arena_resize(&rt->arena, block, old, new_size);
	if (p)
		rt->memory_used += new_size - old;
	return p;
}
