/* lattice.loop: timers, descriptor watches and signals on the state's one libuv loop; and luv on the same loop.
 *
 * A handle is a box. While it is active the registry holds its box under the handle's address, so a script may drop its own
 * reference; the callback is the box's user value. libuv frees the handle's memory only in its close callback. */
#include "lua/api.h"
#include "lua/runtime_impl.h"
#include <luv/luv.h>
#include <signal.h>
#include <stdlib.h>

struct handle {
	struct lat_rt *rt;
	union {
		uv_handle_t any;
		uv_timer_t timer;
		uv_poll_t poll;
		uv_signal_t signal;
	};
	bool once; /* a timer that closes when it fires */
	int value; /* events of a watch, number of a signal */
};

static void free_handle(uv_handle_t *any)
{
	free(any->data);
}

static void close_handle(void *object)
{
	struct handle *h = object;
	lua_State *L = h->rt->L;

	if (lua_checkstack(L, 1)) { /* the key exists or not: setting nil allocates nothing */
		lua_pushnil(L);
		lua_rawsetp(L, LUA_REGISTRYINDEX, h);
	}
	uv_close(&h->any, free_handle);
}

static const struct lat_box_type timer_type = { "lattice.loop.Timer", close_handle };
static const struct lat_box_type watch_type = { "lattice.loop.Watch", close_handle };
static const struct lat_box_type signal_type = { "lattice.loop.Signal", close_handle };

/* ---- callbacks ---- */

static int deliver(lua_State *L)
{
	struct handle *h = lua_touserdata(L, 1);

	lua_rawgetp(L, LUA_REGISTRYINDEX, h);
	lua_getiuservalue(L, -1, 1);
	lua_insert(L, -2);
	if (h->once)
		lat_box_close(L, lua_touserdata(L, -1)); /* h is gone with the next turn of the loop */
	if (h->any.type == UV_POLL) {
		lua_pushboolean(L, h->value & UV_READABLE);
		lua_pushboolean(L, h->value & UV_WRITABLE);
		lua_call(L, 3, 0);
	} else {
		lua_call(L, 1, 0);
	}
	return 0;
}

static void enter(struct handle *h)
{
	struct lat_rt *rt = h->rt;
	struct lat_rt_error err;

	if (lat_rt_enter(rt, deliver, h, &err) < 0)
		lat_rt_callback_failed(rt, &err);
}

static void on_timer(uv_timer_t *timer)
{
	enter(timer->data);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	struct handle *h = poll->data;

	/* An error on the descriptor: the script finds out by reading it. */
	h->value = status < 0 ? UV_READABLE | UV_WRITABLE : events;
	enter(h);
}

static void on_signal(uv_signal_t *signal, int number)
{
	enter(signal->data);
}

/* ---- making handles ---- */

static uv_loop_t *loop_of(lua_State *L)
{
	uv_loop_t *loop = lat_rt_loop(lat_rt_of(L));

	if (!loop)
		luaL_error(L, "this state has no loop");
	return loop;
}

/* Pushes the box and returns a zeroed handle that nobody owns yet; `init` follows, then adopt. */
static struct handle *new_handle(lua_State *L, const struct lat_box_type *type)
{
	struct handle *h;

	lat_box_new(L, type);
	h = calloc(1, sizeof(*h));
	if (!h)
		luaL_error(L, "out of memory");
	h->rt = lat_rt_of(L);
	return h;
}

/* After a successful uv_*_init: the box at the top owns the handle, the registry holds the box. fn: stack index. */
static void adopt(lua_State *L, struct handle *h, int fn)
{
	h->any.data = h;
	lat_box_fill(L, lua_touserdata(L, -1), h);
	lua_pushvalue(L, fn);
	lua_setiuservalue(L, -2, 1);
	lua_pushvalue(L, -1);
	lua_rawsetp(L, LUA_REGISTRYINDEX, h);
}

/* uv errors are negative errno on Linux. The box at the top is closed if it was filled. */
static int fail(lua_State *L, int r, const char *tried)
{
	lat_box_close(L, lua_touserdata(L, -1));
	return lat_push_errno(L, r, tried);
}

static int l_timer(lua_State *L)
{
	lua_Integer ms = luaL_checkinteger(L, 1), again = luaL_optinteger(L, 3, 0);
	uv_loop_t *loop = loop_of(L);
	struct handle *h;

	luaL_argcheck(L, ms >= 0, 1, "milliseconds expected");
	luaL_checktype(L, 2, LUA_TFUNCTION);
	luaL_argcheck(L, again >= 0, 3, "milliseconds expected");
	h = new_handle(L, &timer_type);
	uv_timer_init(loop, &h->timer);
	h->once = again == 0;
	adopt(L, h, 2);
	uv_update_time(loop);
	uv_timer_start(&h->timer, on_timer, (uint64_t)ms, (uint64_t)again);
	return 1;
}

static int l_defer(lua_State *L)
{
	luaL_checktype(L, 1, LUA_TFUNCTION);
	lua_settop(L, 1);
	lua_pushinteger(L, 0);
	lua_insert(L, 1);
	l_timer(L);
	return 0;
}

static int l_watch(lua_State *L)
{
	static const char *const names[] = { "r", "w", "rw", NULL };
	static const int events[] = { UV_READABLE, UV_WRITABLE, UV_READABLE | UV_WRITABLE };
	int fd = (int)luaL_checkinteger(L, 1), r;
	int which = luaL_checkoption(L, 2, NULL, names);
	uv_loop_t *loop = loop_of(L);
	struct handle *h;

	luaL_checktype(L, 3, LUA_TFUNCTION);
	h = new_handle(L, &watch_type);
	r = uv_poll_init(loop, &h->poll, fd);
	if (r < 0) {
		free(h);
		return fail(L, r, "watch a descriptor");
	}
	adopt(L, h, 3);
	r = uv_poll_start(&h->poll, events[which], on_poll);
	return r < 0 ? fail(L, r, "watch a descriptor") : 1;
}

static int l_signal(lua_State *L)
{
	static const char *const names[] = { "SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGCHLD",
		"SIGWINCH", "SIGPIPE", NULL };
	static const int numbers[] = { SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGCHLD, SIGWINCH,
		SIGPIPE };
	int which = luaL_checkoption(L, 1, NULL, names), r;
	uv_loop_t *loop = loop_of(L);
	struct handle *h;

	luaL_checktype(L, 2, LUA_TFUNCTION);
	h = new_handle(L, &signal_type);
	r = uv_signal_init(loop, &h->signal);
	if (r < 0) {
		free(h);
		return fail(L, r, "watch a signal");
	}
	h->value = numbers[which];
	adopt(L, h, 2);
	r = uv_signal_start(&h->signal, on_signal, numbers[which]);
	return r < 0 ? fail(L, r, "watch a signal") : 1;
}

/* ---- running ---- */

static int run(lua_State *L, uv_run_mode mode)
{
	struct lat_rt *rt = lat_rt_of(L);
	uv_loop_t *loop = loop_of(L);
	int more;

	if (rt->running)
		return luaL_error(L, "the loop is running already");
	lat_rt_wait_begin(L);
	rt->running = true;
	more = uv_run(loop, mode);
	rt->running = false;
	lat_rt_wait_end(L);
	if (rt->callback_error) {
		lua_pushfstring(L, "%s\n%s", rt->callback_error->text, rt->callback_error->trace);
		free(rt->callback_error);
		rt->callback_error = NULL;
		return lua_error(L);
	}
	lua_pushboolean(L, more);
	return 1;
}

static const char *const mode_names[] = { "default", "once", "nowait", NULL };
static const uv_run_mode modes[] = { UV_RUN_DEFAULT, UV_RUN_ONCE, UV_RUN_NOWAIT };

static int l_run(lua_State *L)
{
	return run(L, modes[luaL_checkoption(L, 1, "default", mode_names)]);
}

static int l_stop(lua_State *L)
{
	uv_stop(loop_of(L));
	return 0;
}

/* ---- luv ---- */

/* luv's callbacks come with function and arguments on the stack. Trusted states only, so nothing can run out. */
static int luv_enter(lua_State *L, int nargs, int nresults, int flags)
{
	struct lat_rt *rt = lat_rt_of(L);
	bool was_inside = rt->inside;
	int base = lua_gettop(L) - nargs, status;
	struct lat_rt_error err;

	if (rt->ending) {
		lua_settop(L, base - 1);
		return -LUA_ERRRUN;
	}
	lua_pushcfunction(L, lat_rt_add_traceback);
	lua_insert(L, base);
	rt->inside = true;
	status = lua_pcall(L, nargs, nresults, base);
	rt->inside = was_inside;
	lua_remove(L, base);
	if (status == LUA_OK)
		return nresults == LUA_MULTRET ? lua_gettop(L) - base + 1 : nresults;
	lat_rt_describe(rt, L, status, &err);
	lua_pop(L, 1);
	lat_rt_callback_failed(rt, &err);
	return -status;
}

int lat_open_luv(lua_State *L)
{
	/* Threads get states that look at the environment's paths; walk meets handles that are not luv's; the loop is ours
	 * to close. */
	static const char *const absent[] = { "new_work", "new_thread", "walk", "loop_close" };

	luv_set_loop(L, loop_of(L));
	luv_set_callback(L, luv_enter);
	luaopen_luv(L);
	lua_pushcfunction(L, l_run); /* luv's own would keep the door shut while callbacks come */
	lua_setfield(L, -2, "run");
	for (size_t i = 0; i < sizeof(absent) / sizeof(absent[0]); i++) {
		lua_pushnil(L);
		lua_setfield(L, -2, absent[i]);
	}
	return 1;
}

static const struct lat_api_function functions[] = {
	{ "run", l_run, "mode?: \"default\"|\"once\"|\"nowait\"", "boolean more",
		"Run callbacks until nothing is active or stop() is called; an error in one ends it and is thrown." },
	{ "stop", l_stop, "", "", "Make run() return after this turn." },
	{ "timer", l_timer, "ms: integer, fn: fun(timer: lattice.loop.Timer), repeat_ms?: integer",
		"lattice.loop.Timer", "Call fn in ms, and then every repeat_ms if that is given." },
	{ "defer", l_defer, "fn: fun()", "", "Call fn in the next turn of the loop." },
	{ "watch", l_watch,
		"fd: integer, events: \"r\"|\"w\"|\"rw\", fn: fun(watch: lattice.loop.Watch, readable: boolean, "
		"writable: boolean)",
		"lattice.loop.Watch?, string? error, string? code",
		"Call fn whenever the descriptor is ready; close the watch before the descriptor." },
	{ "signal", l_signal, "name: string, fn: fun(signal: lattice.loop.Signal)",
		"lattice.loop.Signal?, string? error, string? code",
		"Call fn when the signal (\"SIGHUP\", \"SIGTERM\" ...) comes." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.loop.Timer", "A timer; closed when it fired unless it repeats.", &timer_type, NULL, NULL },
	{ "lattice.loop.Watch", "A watched descriptor.", &watch_type, NULL, NULL },
	{ "lattice.loop.Signal", "A watched signal.", &signal_type, NULL, NULL },
	{ 0 },
};

const struct lat_api lat_api_loop = {
	.name = "lattice.loop",
	.doc = "Timers, descriptors and signals on this state's loop.",
	.functions = functions,
	.classes = classes,
};
