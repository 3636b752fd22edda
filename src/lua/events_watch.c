/* Who watches: Source:watch(filter, fn). What each gets of a batch is events_batch.c's. */
#include "lua/events.h"
#include <errno.h>
#include <string.h>

static int choice_field(lua_State *L, const char *key, const char *zero, const char *one)
{
	const char *text = lat_events_text(L, 2, key, false);

	if (!text)
		return -1;
	if (strcmp(text, one) != 0 && strcmp(text, zero) != 0)
		luaL_argerror(L, 2, lua_pushfstring(L, "'%s' is \"%s\" or \"%s\"", key, zero, one));
	return strcmp(text, one) == 0;
}

static lua_Integer number_field(lua_State *L, const char *key, lua_Integer fallback, lua_Integer max)
{
	lua_Integer value;
	int is;

	if (lua_getfield(L, 2, key) == LUA_TNIL)
		return fallback;
	value = lua_tointegerx(L, -1, &is);
	if (!is || value < 0 || value > max)
		luaL_argerror(L, 2, lua_pushfstring(L, "'%s' must be an integer from 0 to %I", key, max));
	return value;
}

static bool flag_field(lua_State *L, const char *key)
{
	lua_getfield(L, 2, key);
	return lua_toboolean(L, -1);
}

static struct lat_events_filter check_filter(lua_State *L)
{
	struct lat_events_filter f = {
		.verdict = choice_field(L, "verdict", "deny", "allow"),
		.dir = choice_field(L, "dir", "out", "in"),
		.proto = (int)number_field(L, "proto", -1, 255),
		.port = (int)number_field(L, "port", -1, 65535),
		.rule = number_field(L, "rule", -1, UINT32_MAX),
		.closes = flag_field(L, "closes"),
		.losses = flag_field(L, "losses"),
	};
	const char *addr = lat_events_text(L, 2, "addr", false);

	f.has_addr = addr != NULL;
	if (addr && lat_prefix_parse(addr, &f.addr) < 0)
		luaL_argerror(L, 2, lua_pushfstring(L, "'%s' is no address or prefix", addr));
	return f;
}

/* Upvalues: source, slot, and the number of the watcher: the slot may be another's by now. */
static int stop_watch(lua_State *L)
{
	struct lat_box *box = lat_box_any(L, lua_upvalueindex(1), &lat_events_type);
	size_t slot = (size_t)lua_tointeger(L, lua_upvalueindex(2));
	struct lat_events *s = box->object;

	if (!s || s->watchers[slot].serial != (uint64_t)lua_tointeger(L, lua_upvalueindex(3)))
		return 0;
	lua_getiuservalue(L, lua_upvalueindex(1), 1);
	lua_rawgeti(L, -1, LAT_EVENTS_WATCHES);
	lua_pushboolean(L, false);
	lua_rawseti(L, -2, (lua_Integer)slot + 1);
	s->watchers[slot].used = false;
	return 0;
}

/* Gives the newest `last` of the kept events that the filter lets pass. Stack: the function at index 3. */
static void give_last(lua_State *L, struct lat_events *s, const struct lat_events_filter *f, uint64_t last)
{
	uint64_t first = lat_pump_first(s->pump), end = lat_pump_next(s->pump), at = end;

	for (uint64_t found = 0; at > first && found < last;)
		found += lat_events_matches(f, lat_pump_at(s->pump, --at));
	for (; at < end && !s->closing; at++) {
		const struct lat_event *e = lat_pump_at(s->pump, at);

		if (!lat_events_matches(f, e))
			continue;
		lua_pushvalue(L, 3);
		lat_events_push_event(L, s, e);
		lua_call(L, 1, 0);
		lat_box_check(L, 1, &lat_events_type); /* it may have closed the source */
	}
}

int lat_events_watch(lua_State *L)
{
	struct lat_events *s = lat_events_check(L);
	struct lat_events_filter f;
	uint64_t last;
	size_t slot = 0;

	luaL_checktype(L, 2, LUA_TTABLE);
	luaL_checktype(L, 3, LUA_TFUNCTION);
	lua_settop(L, 3);
	f = check_filter(L);
	last = (uint64_t)number_field(L, "last", 0, UINT32_MAX);
	lua_settop(L, 3);
	if (last)
		give_last(L, s, &f, last);
	while (slot < LAT_EVENTS_WATCHERS && s->watchers[slot].used)
		slot++;
	if (slot == LAT_EVENTS_WATCHERS)
		return lat_push_errno(L, EMFILE, "watch events: too many watch already");
	lua_pushvalue(L, 1);
	lua_pushinteger(L, (lua_Integer)slot);
	lua_pushinteger(L, (lua_Integer)++s->watch_serial);
	lua_pushcclosure(L, stop_watch, 3);
	lua_getiuservalue(L, 1, 1);
	lua_rawgeti(L, -1, LAT_EVENTS_WATCHES);
	lua_pushvalue(L, 3);
	lua_rawseti(L, -2, (lua_Integer)slot + 1);
	lua_pop(L, 2);
	s->watchers[slot] = (struct lat_events_watcher){ .used = true, .serial = s->watch_serial,
		.next = lat_pump_next(s->pump), .filter = f };
	return 1;
}
