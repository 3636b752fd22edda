/* Makes a state, finds its modules, and is the door into it; see runtime.h. Limits are limits.c's. */
#include "lua/runtime_impl.h"
#include "base/edition.h"
#include "base/log.h"
#include "lua/api.h"
#include "lua/embed.h"
#include <assert.h>
#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In every liblua: "$LuaVersion: Lua 5.4.4  Copyright ...". Its header does not declare it. */
extern const char lua_ident[];

struct lat_rt *lat_rt_of(lua_State *L)
{
	return *(struct lat_rt **)lua_getextraspace(L); /* every new thread gets a copy of the main thread's */
}

enum lat_rt_kind lat_rt_kind(const struct lat_rt *rt)
{
	return rt->kind;
}

size_t lat_rt_boxes(const struct lat_rt *rt)
{
	return rt->boxes;
}

size_t lat_rt_memory(const struct lat_rt *rt)
{
	return rt->memory_used;
}

int lat_push_errno(lua_State *L, int error, const char *tried)
{
	const char *name;

	if (error < 0)
		error = -error;
	if (error == LAT_EPRO) {
		lua_pushnil(L);
		lua_pushfstring(L, "%s: %s", tried, LAT_EPRO_TEXT);
		lua_pushinteger(L, LAT_EPRO);
		return 3;
	}
	name = strerrorname_np(error);
	lua_pushnil(L);
	lua_pushfstring(L, "%s: %s", tried, strerror(error));
	lua_pushstring(L, name ? name : "EIO");
	return 3;
}

/* ---- modules ---- */

static int compare_name(const void *name, const void *row)
{
	return strcmp(name, ((const struct lat_embedded *)row)->name);
}

const struct lat_embedded *lat_embedded_find(const char *name)
{
	return bsearch(name, lat_embedded, lat_embedded_count, sizeof(lat_embedded[0]), compare_name);
}

/* Compiled code is for one release of Lua; the library that runs may be another than the one of the build. */
static bool code_fits(void)
{
	const char *have = strstr(lua_ident, "Lua 5.");
	size_t len = strlen(lat_embedded_release);

	return have && strncmp(have, lat_embedded_release, len) == 0 && have[len] == ' ';
}

static int load_embedded(lua_State *L, const struct lat_embedded *e)
{
	if (e->code_len && code_fits()) {
		if (luaL_loadbufferx(L, e->code, e->code_len, e->chunk, "b") == LUA_OK)
			return LUA_OK;
		lua_pop(L, 1);
	}
	return luaL_loadbufferx(L, e->text, e->len, e->chunk, "t");
}

static int search(lua_State *L)
{
	const char *name = luaL_checkstring(L, 1);
	const struct lat_embedded *e;

	if (lat_api_push_opener(L, name))
		return 1;
	e = strchr(name, '/') ? NULL : lat_embedded_find(name);
	if (!e) {
		lua_pushfstring(L, "no module '%s' in the binary", name);
		return 1;
	}
	if (load_embedded(L, e) != LUA_OK)
		return lua_error(L);
	lua_pushstring(L, e->chunk + 1);
	return 2;
}

/* Only the embedded modules are found: no path of the environment, no path at all. */
static void set_searcher(lua_State *L)
{
	lua_getglobal(L, "package");
	lua_pushliteral(L, "");
	lua_setfield(L, -2, "path");
	lua_pushliteral(L, "");
	lua_setfield(L, -2, "cpath");
	lua_createtable(L, 1, 0);
	lua_pushcfunction(L, search);
	lua_rawseti(L, -2, 1);
	lua_setfield(L, -2, "searchers");
	lua_pop(L, 1);
}

/* ---- the end of the loop ----
 *
 * First, before the state closes, what a script has closed is finished: luv frees a handle whose end is still pending.
 * Then the state closes and with it boxes and luv's objects, and the last finalizer ends the loop. No callback enters Lua. */

static void close_handle(uv_handle_t *handle, void *arg)
{
	if (!uv_is_closing(handle))
		uv_close(handle, NULL);
}

/* __gc of the first userdata of the state, so the last finalizer to run: boxes and luv's objects have asked for their
 * handles' end, and the callbacks that free those (luv's look into the state) must come before the state goes. */
static int end_loop(lua_State *L)
{
	struct lat_rt *rt = lat_rt_of(L);

	if (rt->has_loop) {
		uv_walk(&rt->loop, close_handle, NULL);
		while (uv_run(&rt->loop, UV_RUN_DEFAULT)) {
		}
		uv_loop_close(&rt->loop);
		rt->has_loop = false;
	}
	return 0;
}

static void note_closing(uv_handle_t *handle, void *closing)
{
	*(bool *)closing |= uv_is_closing(handle);
}

static void finish_closing(struct lat_rt *rt)
{
	bool closing;

	for (int turns = 0; turns < 16; turns++) {
		closing = false;
		uv_walk(&rt->loop, note_closing, &closing);
		if (!closing)
			return;
		uv_run(&rt->loop, UV_RUN_NOWAIT);
	}
}

static void guard_loop(lua_State *L)
{
	static const char key;

	lua_newuserdatauv(L, 0, 0);
	lua_createtable(L, 0, 1);
	lua_pushcfunction(L, end_loop);
	lua_setfield(L, -2, "__gc");
	lua_setmetatable(L, -2);
	lua_rawsetp(L, LUA_REGISTRYINDEX, &key);
}

static int open_state(lua_State *L)
{
	lua_pushboolean(L, 1);
	lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
	if (lat_rt_of(L)->kind == LAT_RT_POLICY) {
		luaL_requiref(L, LUA_LOADLIBNAME, luaopen_package, 1);
		set_searcher(L);
		return lat_policy_std_open(L);
	}
	guard_loop(L);
	luaL_openlibs(L);
	set_searcher(L);
	return 0;
}

/* ---- the door ---- */

static int to_text(lua_State *L)
{
	luaL_tolstring(L, 1, NULL);
	return 1;
}

/* The message handler: always leaves a string, with the traceback behind a line of its own. */
int lat_rt_add_traceback(lua_State *L)
{
	if (lua_type(L, 1) != LUA_TSTRING) {
		const char *type = luaL_typename(L, 1);

		lua_pushcfunction(L, to_text); /* __tostring is the script's: it may fail or answer nonsense */
		lua_pushvalue(L, 1);
		if (lua_pcall(L, 1, 1, 0) != LUA_OK || lua_type(L, -1) != LUA_TSTRING)
			lua_pushfstring(L, "(error object is a %s value)", type);
		lua_replace(L, 1);
	}
	luaL_traceback(L, L, lua_tostring(L, 1), 1);
	return 1;
}

/* "file:line" at the start of a message. */
static void copy_where(const char *text, char *where, size_t size)
{
	const char *colon = strchr(text, ':'), *end;

	where[0] = '\0';
	if (!colon)
		return;
	end = colon + 1 + strspn(colon + 1, "0123456789");
	if (end == colon + 1 || *end != ':' || memchr(text, '\n', (size_t)(end - text)) ||
		(size_t)(end - text) >= size)
		return;
	memcpy(where, text, (size_t)(end - text));
	where[end - text] = '\0';
}

void lat_rt_describe(struct lat_rt *rt, lua_State *L, int status, struct lat_rt_error *err)
{
	const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "unknown error";
	const char *trace = strstr(text, "\nstack traceback:");
	int length = trace ? (int)(trace - text) : (int)strlen(text);

	memset(err, 0, sizeof(*err));
	err->why = rt->tripped ? rt->tripped : status == LUA_ERRMEM ? LAT_RT_MEMORY : LAT_RT_ERROR;
	if (trace)
		snprintf(err->trace, sizeof(err->trace), "%s", trace + 1);
	if (err->why != LAT_RT_ERROR) {
		/* What the script made of it does not matter: it was stopped. */
		snprintf(err->where, sizeof(err->where), "%s", rt->where);
		snprintf(err->text, sizeof(err->text), "%s%s%s", rt->where, rt->where[0] ? ": " : "",
			lat_limits_text(err->why));
		return;
	}
	snprintf(err->text, sizeof(err->text), "%.*s", length, text);
	copy_where(err->text, err->where, sizeof(err->where));
}

int lat_rt_enter(struct lat_rt *rt, lua_CFunction deliver, void *ctx, struct lat_rt_error *err)
{
	lua_State *L = rt->L;
	int top = lua_gettop(L), status;
	struct lat_rt_error own;

	assert(!rt->inside);
	if (rt->ending) {
		if (err)
			*err = (struct lat_rt_error){ .why = LAT_RT_ERROR, .text = "the state is closing" };
		return -ECANCELED;
	}
	if (!lua_checkstack(L, LUA_MINSTACK)) {
		if (err)
			*err = (struct lat_rt_error){ .why = LAT_RT_MEMORY, .text = "out of memory" };
		return -ENOMEM;
	}
	rt->inside = true;
	lua_pushcfunction(L, lat_rt_add_traceback);
	lua_pushcfunction(L, deliver);
	lua_pushlightuserdata(L, ctx);
	lat_limits_arm(rt);
	status = lua_pcall(L, 1, 0, top + 1);
	lat_limits_disarm(rt);
	rt->inside = false;
	/* A script that caught its own trip and returned has still been stopped. */
	if (status == LUA_OK && !rt->tripped) {
		lua_settop(L, top);
		return 0;
	}
	if (status == LUA_OK)
		lua_pushliteral(L, "");
	if (!err)
		err = &own;
	lat_rt_describe(rt, L, status, err);
	lua_settop(L, top);
	return err->why == LAT_RT_MEMORY ? -ENOMEM : err->why == LAT_RT_ERROR ? -EPROTO : -ETIME;
}

void lat_rt_wait_begin(lua_State *L)
{
	struct lat_rt *rt = lat_rt_of(L);

	if (L != rt->L)
		luaL_error(L, "the loop runs on the main thread, not in a coroutine");
	assert(rt->inside);
	lat_limits_disarm(rt);
	rt->inside = false;
}

void lat_rt_wait_end(lua_State *L)
{
	struct lat_rt *rt = lat_rt_of(L);

	assert(!rt->inside);
	rt->inside = true;
	lat_limits_arm(rt);
}

void lat_rt_callback_failed(struct lat_rt *rt, const struct lat_rt_error *err)
{
	if (rt->ending)
		return;
	if (rt->running && !rt->callback_error) {
		rt->callback_error = malloc(sizeof(*err));
		if (rt->callback_error) {
			*rt->callback_error = *err;
			uv_stop(&rt->loop);
			return;
		}
	}
	lat_error("%s\n%s", err->text, err->trace);
}

/* ---- life ---- */

void lat_rt_set_limits(struct lat_rt *rt, const struct lat_rt_limits *limits)
{
	rt->limits = *limits;
}

uv_loop_t *lat_rt_loop(struct lat_rt *rt)
{
	if (rt->kind != LAT_RT_TRUSTED)
		return NULL;
	if (!rt->has_loop && uv_loop_init(&rt->loop) == 0)
		rt->has_loop = true;
	return rt->has_loop ? &rt->loop : NULL;
}

static int run_opener(lua_State *L)
{
	lua_pop(L, 1);
	return open_state(L);
}

static int panic(lua_State *L)
{
	lat_error("Lua error outside the door: %s", lua_tostring(L, -1));
	abort();
}

int lat_rt_new(enum lat_rt_kind kind, const struct lat_rt_limits *limits, struct lat_rt **out)
{
	struct lat_rt *rt = calloc(1, sizeof(*rt));
	struct lat_rt_error err;
	int r;

	if (!rt)
		return -ENOMEM;
	rt->kind = kind;
	rt->L = lua_newstate(lat_limits_alloc, rt);
	if (!rt->L) {
		lat_arena_end(&rt->arena);
		free(rt);
		return -ENOMEM;
	}
	lua_atpanic(rt->L, panic);
	*(struct lat_rt **)lua_getextraspace(rt->L) = rt;
	r = lat_rt_enter(rt, run_opener, NULL, &err);
	if (r < 0) {
		lat_error("cannot open a Lua state: %s", err.text);
		lat_rt_free(rt);
		return r;
	}
	if (limits)
		rt->limits = *limits;
	*out = rt;
	return 0;
}

void lat_rt_free(struct lat_rt *rt)
{
	if (!rt)
		return;
	assert(!rt->inside);
	rt->ending = true;
	if (rt->has_loop)
		finish_closing(rt);
	lua_close(rt->L);
	lat_arena_end(&rt->arena);
	free(rt->callback_error);
	free(rt);
}
