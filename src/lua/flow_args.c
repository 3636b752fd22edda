/* See flow_args.h. */
#include "lua/flow_args.h"
#include <lauxlib.h>
#include <string.h>

static lua_Integer check_field(lua_State *L, int arg, const char *key, lua_Integer unset, lua_Integer most)
{
	lua_Integer n = unset;
	int ok = 1;

	if (lua_getfield(L, arg, key) != LUA_TNIL)
		n = lua_tointegerx(L, -1, &ok);
	lua_pop(L, 1);
	if (!ok || n < 0 || n > most)
		luaL_argerror(L, arg, lua_pushfstring(L, "'%s' is not 0 to %d", key, (int)most));
	return n;
}

uint8_t lat_lua_check_dir(lua_State *L, int arg, const char *text)
{
	if (text && strcmp(text, "out") == 0)
		return LAT_DIR_OUT;
	if (!text || strcmp(text, "in") != 0)
		luaL_argerror(L, arg, "the direction is neither \"out\" nor \"in\"");
	return LAT_DIR_IN;
}

void lat_lua_check_addr(lua_State *L, int arg, const char *text, struct lat_addr *addr)
{
	if (!text || lat_addr_parse(text, addr) < 0)
		luaL_argerror(L, arg, lua_pushfstring(L, "'%s' is not an IP address", text ? text : "nil"));
}

void lat_lua_check_flow(lua_State *L, int arg, struct lat_flow *flow)
{
	luaL_checktype(L, arg, LUA_TTABLE);
	memset(flow, 0, sizeof(*flow));
	lua_getfield(L, arg, "dir");
	flow->dir = lat_lua_check_dir(L, arg, lua_tostring(L, -1));
	lua_getfield(L, arg, "addr");
	lat_lua_check_addr(L, arg, lua_tostring(L, -1), &flow->remote);
	lua_pop(L, 2);
	flow->proto = (uint8_t)check_field(L, arg, "proto", -1, UINT8_MAX);
	flow->dport = (uint16_t)check_field(L, arg, "port", 0, UINT16_MAX);
	flow->sport = (uint16_t)check_field(L, arg, "sport", 0, UINT16_MAX);
}

void lat_lua_pin_names(lua_State *L, int index, struct lat_pins *pins, const struct lat_addr *addr)
{
	lua_Integer n;

	lat_pins_expire(pins, UINT64_MAX);
	if (lua_isnil(L, index))
		return;
	n = lua_istable(L, index) ? (lua_Integer)lua_rawlen(L, index) : LAT_LUA_FLOW_NAMES + 1;
	if (n > LAT_LUA_FLOW_NAMES)
		luaL_argerror(L, 2, "'names' is no list of at most 64 names");
	for (lua_Integer i = 1; i <= n; i++) {
		char name[LAT_NAME_MAX];
		const char *text;
		size_t len;

		lua_rawgeti(L, index, i);
		text = lua_tolstring(L, -1, &len);
		if (!text || lat_name_normalize(text, len, name) < 0)
			luaL_argerror(L, 2, lua_pushfstring(L, "'%s' is no host name", text ? text : "?"));
		lat_pins_add(pins, addr, name, UINT64_MAX);
		lua_pop(L, 1);
	}
}

void lat_lua_push_verdict(lua_State *L, const struct lat_verdict *v)
{
	lua_createtable(L, 0, 6);
	lua_pushstring(L, lat_verdict_passes(v) ? "allow" : "deny");
	lua_setfield(L, -2, "verdict");
	lua_pushstring(L, lat_action_name(v->action));
	lua_setfield(L, -2, "action");
	lua_pushinteger(L, v->rule);
	lua_setfield(L, -2, "rule");
	lua_pushstring(L, v->where);
	lua_setfield(L, -2, "where");
	if (v->reason) {
		lua_pushstring(L, v->reason);
		lua_setfield(L, -2, "reason");
	}
}
