/* lattice.sys: small facts about this process and host. */
#include "lua/api.h"
#include "base/clock.h"
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

static const struct lat_api_function functions[] = {
	{ "isatty", l_isatty, "fd: integer", "boolean", "Whether the descriptor is a terminal." },
	{ "clock", l_clock, "", "integer", "Monotonic nanoseconds, for intervals." },
	{ "uid", l_uid, "", "integer", "The effective user id." },
	{ "pid", l_pid, "", "integer", "The id of this process." },
	{ "version", l_version, "", "table", "{ version, edition, libraries = { name = version } }" },
	{ 0 },
};

const struct lat_api lat_api_sys = {
	.name = "lattice.sys",
	.doc = "Small facts about this process and host.",
	.functions = functions,
};
