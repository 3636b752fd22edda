/* What the files of the runtime share (runtime.c, limits.c, policy_std.c, box.c, loader.c); nobody else includes this. */
#ifndef LAT_LUA_RUNTIME_IMPL_H
#define LAT_LUA_RUNTIME_IMPL_H
#include "lua/arena.h"
#include "lua/runtime.h"
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

struct lat_rt {
	lua_State *L;
	enum lat_rt_kind kind;
	struct lat_rt_limits limits;
	bool inside;            /* somebody is behind the door */
	bool ending;            /* lat_rt_free has begun: the door stays shut */
	/* limits.c */
	struct lat_arena arena;
	size_t memory_used;
	uint64_t instructions_left;
	uint64_t deadline_ns;   /* 0: none */
	bool armed;             /* a stay with limits is going on */
	volatile bool has_timer; /* a signal comes at the deadline */
	timer_t timer;
	sigset_t signals;       /* of the thread, to be put back */
	atomic_bool stop;       /* asked from outside, see lat_rt_stop */
	enum lat_rt_why tripped; /* LAT_RT_ERROR: not tripped */
	char where[128];        /* of the trip */
	/* box.c */
	size_t boxes;
	/* the loop, if made */
	uv_loop_t loop;
	bool has_loop;
	bool running;                        /* loop.run() is on the stack */
	struct lat_rt_error *callback_error; /* of a callback in it, for loop.run() to throw */
};

/* runtime.c: the message handler, and what it left at the top of L's stack made into an error. */
int lat_rt_add_traceback(lua_State *L);
void lat_rt_describe(struct lat_rt *rt, lua_State *L, int status, struct lat_rt_error *err);
/* An error in a callback from the loop: ends loop.run(), which throws it; without loop.run() it is logged. */
void lat_rt_callback_failed(struct lat_rt *rt, const struct lat_rt_error *err);

/* l_loop.c: luv on the state's loop. */
int lat_open_luv(lua_State *L);

/* limits.c */
void *lat_limits_alloc(void *rt, void *block, size_t old_size, size_t new_size);
void lat_limits_arm(struct lat_rt *rt);
void lat_limits_disarm(struct lat_rt *rt);
/* Charges `steps` instructions for work inside C; throws when the budget is used up or the deadline passed. */
void lat_limits_charge(lua_State *L, uint64_t steps);
/* Calls the function at index 1 with the rest, without a count of its instructions: only for our own code, whose work the
 * amount of data bounds. (Lua calls out at every instruction while it counts.) The deadline and the memory limit hold. */
int lat_limits_uncounted(lua_State *L);
const char *lat_limits_text(enum lat_rt_why why);

/* policy_std.c: opens the bounded standard library. */
int lat_policy_std_open(lua_State *L);

#endif
