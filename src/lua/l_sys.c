/* lattice.sys: small facts about this process and host. */
#include "lua/api.h"
#include "base/clock.h"
#include "lua/runtime_impl.h"
#include <jansson.h>
#include <unistd.h>

static int l_isatty(lua_State *L)
{
	lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
	return 1;
}

static int l_clock(lua_State *L)
{
	lua_pushinteger(L, (lua_Integer)lat_now_ns());
	return 1;
}

static int l_uid(lua_State *L)
{
	lua_pushinteger(L, geteuid());
	return 1;
}

static int l_pid(lua_State *L)
{
	lua_pushinteger(L, getpid());
	return 1;
}

static int l_version(lua_State *L)
{
	lua_createtable(L, 0, 4);
	lua_pushliteral(L, LATTICE_VERSION);
	lua_setfield(L, -2, "version");
	lua_pushliteral(L, LATTICE_EDITION);
	lua_setfield(L, -2, "edition");
	lua_createtable(L, 0, 3);
	lua_pushliteral(L, LUA_VERSION_MAJOR "." LUA_VERSION_MINOR "." LUA_VERSION_RELEASE);
	lua_setfield(L, -2, "lua");
	lua_pushstring(L, uv_version_string());
	lua_setfield(L, -2, "libuv");
	lua_pushliteral(L, JANSSON_VERSION);
	lua_setfield(L, -2, "jansson");
	lua_setfield(L, -2, "libraries");
	return 1;
}

/* limited(limits, fn, ...): the limits of a policy's state around one call in this one. A call inside such a call has the
 * outer limits. */
static int l_limited(lua_State *L)
{
	struct lat_rt *rt = lat_rt_of(L);
	struct lat_rt_limits saved = rt->limits;
	struct lat_rt_error *err;
	int status, base;

	luaL_checktype(L, 1, LUA_TTABLE);
	luaL_checktype(L, 2, LUA_TFUNCTION);
	if (rt->armed) {
		lua_pushboolean(L, 1);
		lua_replace(L, 1);
		lua_call(L, lua_gettop(L) - 2, LUA_MULTRET);
		return lua_gettop(L);
	}
	if (L != rt->L)
		return luaL_error(L, "not in a coroutine");
	lua_getfield(L, 1, "instructions");
	lua_getfield(L, 1, "ms");
	lua_getfield(L, 1, "memory");
	rt->limits.instructions = (uint64_t)luaL_optinteger(L, -3, 0);
	rt->limits.deadline_ms = (uint32_t)luaL_optinteger(L, -2, 0);
	rt->limits.memory = (size_t)luaL_optinteger(L, -1, 0);
	if (rt->limits.memory)
		rt->limits.memory += rt->memory_used;
	lua_pop(L, 3);
	lua_pushcfunction(L, lat_rt_add_traceback);
	lua_replace(L, 1);
	base = 1;
	lat_limits_arm(rt);
	status = lua_pcall(L, lua_gettop(L) - 2, LUA_MULTRET, base);
	lat_limits_disarm(rt);
	rt->limits = saved;
	if (status == LUA_OK && !rt->tripped) {
		lua_pushboolean(L, 1);
		lua_replace(L, 1);
		return lua_gettop(L);
	}
	if (status == LUA_OK)
		lua_pushliteral(L, "");
	err = lua_newuserdatauv(L, sizeof(*err), 0);
	lua_insert(L, -2);
	lat_rt_describe(rt, L, status, err);
	rt->tripped = LAT_RT_ERROR;
	lua_pushboolean(L, 0);
	lua_pushstring(L, err->text);
	return 2;
}

static const struct lat_api_function functions[] = {
	{ "isatty", l_isatty, "fd: integer", "boolean", "Whether the descriptor is a terminal." },
	{ "clock", l_clock, "", "integer", "Monotonic nanoseconds, for intervals." },
	{ "uid", l_uid, "", "integer", "The effective user id." },
	{ "pid", l_pid, "", "integer", "The id of this process." },
	{ "limited", l_limited, "limits: { instructions?: integer, ms?: integer, memory?: integer }, fn: function, ...: any",
		"boolean ok, any ...",
		"Call fn; over a limit, or at an error, false and a text. memory: bytes beyond what the state holds now." },
	{ "version", l_version, "", "table", "{ version, edition, libraries = { name = version } }" },
	{ 0 },
};

const struct lat_api lat_api_sys = {
	.name = "lattice.sys",
	.doc = "Small facts about this process and host.",
	.functions = functions,
};
