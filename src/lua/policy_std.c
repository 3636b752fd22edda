/* The standard library of a POLICY state: nothing that acts on the host, nothing that runs unbounded inside C where the
 * count hook cannot see it, no bytecode, no finalizers (hooks do not run in them), no coroutines (each starts a count of its
 * own, and a limit's error leaves one without hooks for its __close methods).
 *
 * Our own policy modules live in the same state: they read files by io.open, which is left, for reading only; the words
 * that an author's text sees are fewer still (lua/lattice/policy). */
#include "lua/pattern.h"
#include "lua/runtime_impl.h"
#include <lauxlib.h>
#include <lualib.h>
#include <stdint.h>
#include <string.h>

#define MAX_SPAN 10000000

/* Calls upvalue 1 with all arguments. */
static int call_original(lua_State *L)
{
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_insert(L, 1);
	lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
	return lua_gettop(L);
}

/* table.*: with metamethods of a script a length can be anything, and C would count to it. */
static int plain_table(lua_State *L)
{
	luaL_checktype(L, 1, LUA_TTABLE);
	if (lua_getmetatable(L, 1))
		return luaL_argerror(L, 1, "a table without metatable expected in a policy");
	return call_original(L);
}

static int table_move(lua_State *L)
{
	lua_Integer from = luaL_checkinteger(L, 2), to = luaL_checkinteger(L, 3);

	if (to >= from && (lua_Unsigned)to - (lua_Unsigned)from > MAX_SPAN)
		return luaL_argerror(L, 3, "the range is too long");
	if (to >= from)
		lat_limits_charge(L, (uint64_t)(to - from));
	return plain_table(L);
}

static int string_rep(lua_State *L)
{
	lua_Integer n = luaL_checkinteger(L, 2);

	if (n > MAX_SPAN)
		return luaL_argerror(L, 2, "too many repetitions");
	if (n > 0)
		lat_limits_charge(L, (uint64_t)n / 8); /* a short copy each */
	return call_original(L);
}

/* Upvalue 1: the script's handler. A limit's error calls it from inside the hook, where no hook runs: not then. */
static int guarded_handler(lua_State *L)
{
	if (lat_rt_of(L)->tripped)
		return 1;
	return call_original(L);
}

static int guarded_xpcall(lua_State *L)
{
	luaL_checktype(L, 2, LUA_TFUNCTION);
	lua_pushvalue(L, 2);
	lua_pushcclosure(L, guarded_handler, 1);
	lua_replace(L, 2);
	return call_original(L);
}

/* A finalizer runs without hooks, so nothing could stop it. Lua looks for __gc only here. */
static int safe_setmetatable(lua_State *L)
{
	if (lua_type(L, 2) == LUA_TTABLE) {
		lua_pushliteral(L, "__gc");
		if (lua_rawget(L, 2) != LUA_TNIL)
			return luaL_argerror(L, 2, "__gc is not available in a policy");
		lua_pop(L, 1);
	}
	return call_original(L);
}

/* load(chunk, name, mode, env): text only, whatever mode says. */
static int text_load(lua_State *L)
{
	bool has_env = lua_gettop(L) >= 4;

	lua_settop(L, 4);
	lua_pushliteral(L, "t");
	lua_replace(L, 3);
	if (!has_env)
		lua_settop(L, 3);
	return call_original(L);
}

/* where(level): the function that runs at the level, and its line (-1: not Lua's); nothing beyond the last. What the words ask
 * for each rule: getinfo makes a table of it. */
static int debug_where(lua_State *L)
{
	lua_Integer level = luaL_checkinteger(L, 1);
	lua_Debug ar;

	if (level < 0 || level > INT32_MAX || !lua_getstack(L, (int)level, &ar))
		return 0;
	lua_getinfo(L, "fl", &ar);
	lua_pushinteger(L, ar.currentline);
	return 2;
}

static int read_only_open(lua_State *L)
{
	const char *mode = luaL_optstring(L, 2, "r");

	if (strcmp(mode, "r") != 0 && strcmp(mode, "rb") != 0)
		return luaL_argerror(L, 2, "a policy state only reads files");
	return call_original(L);
}

struct wrap {
	const char *name;
	lua_CFunction with; /* NULL: removed */
};

static void wrap_all(lua_State *L, const struct wrap *w)
{
	for (; w->name; w++) {
		if (w->with) {
			lua_getfield(L, -1, w->name);
			lua_pushcclosure(L, w->with, 1);
		} else {
			lua_pushnil(L);
		}
		lua_setfield(L, -2, w->name);
	}
}

/* Keeps only `names` of the table on top of the stack. */
static void keep_only(lua_State *L, const char *const *names)
{
	lua_newtable(L);
	for (; *names; names++) {
		lua_getfield(L, -2, *names);
		lua_setfield(L, -2, *names);
	}
	lua_replace(L, -2);
}

static const struct wrap base[] = {
	{ "setmetatable", safe_setmetatable }, { "load", text_load }, { "xpcall", guarded_xpcall },
	{ "loadfile", NULL }, { "dofile", NULL }, { "collectgarbage", NULL }, { 0 },
};
static const struct wrap strings[] = { { "rep", string_rep }, { "dump", NULL }, { 0 } };
static const struct wrap tables[] = {
	{ "move", table_move }, { "insert", plain_table }, { "remove", plain_table },
	{ "sort", plain_table }, { "concat", plain_table }, { "unpack", plain_table }, { 0 },
};
static const struct wrap files[] = { { "open", read_only_open }, { 0 } };
static const char *const file_words[] = { "open", "type", NULL };
/* The policy words tell file and line of what called them; policy text itself sees no debug (lua/lattice/policy/env.lua). */
static const char *const debug_words[] = { "getinfo", NULL };
static const char *const os_words[] = { "time", "clock", "date", "getenv", NULL };

static void open_wrapped(lua_State *L, const char *name, lua_CFunction open, const struct wrap *with)
{
	luaL_requiref(L, name, open, 1);
	wrap_all(L, with);
	lua_pop(L, 1);
}

static void open_kept(lua_State *L, const char *name, lua_CFunction open, const char *const *words,
	const struct wrap *with)
{
	luaL_requiref(L, name, open, 0);
	keep_only(L, words);
	if (with)
		wrap_all(L, with);
	lua_pushvalue(L, -1);
	lua_setglobal(L, name);
	lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
	lua_insert(L, -2);
	lua_setfield(L, -2, name);
	lua_pop(L, 1);
}

int lat_policy_std_open(lua_State *L)
{
	luaL_requiref(L, LUA_GNAME, luaopen_base, 1);
	wrap_all(L, base);
	lua_pop(L, 1);
	open_wrapped(L, LUA_TABLIBNAME, luaopen_table, tables);
	luaL_requiref(L, LUA_STRLIBNAME, luaopen_string, 1);
	wrap_all(L, strings);
	luaL_setfuncs(L, lat_pattern_functions, 0);
	lua_pop(L, 1);
	luaL_requiref(L, LUA_UTF8LIBNAME, luaopen_utf8, 1);
	luaL_requiref(L, LUA_MATHLIBNAME, luaopen_math, 1);
	lua_pop(L, 2);
	open_kept(L, LUA_IOLIBNAME, luaopen_io, file_words, files);
	open_kept(L, LUA_OSLIBNAME, luaopen_os, os_words, NULL);
	lua_getglobal(L, LUA_LOADLIBNAME);
	lua_pushnil(L);
	lua_setfield(L, -2, "loadlib");
	lua_pop(L, 1);
	open_kept(L, LUA_DBLIBNAME, luaopen_debug, debug_words, NULL);
	lua_getglobal(L, LUA_DBLIBNAME);
	lua_pushcfunction(L, debug_where);
	lua_setfield(L, -2, "where");
	lua_pop(L, 1);
	/* ("x"):find is the same for everybody: nobody swaps the functions behind it. */
	lua_pushliteral(L, "");
	lua_getmetatable(L, -1);
	lua_pushliteral(L, "locked");
	lua_setfield(L, -2, "__metatable");
	lua_pop(L, 2);
	return 0;
}
