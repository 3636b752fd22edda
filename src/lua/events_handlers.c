/* The handlers of a source: added, put into order, listed. They run in events_batch.c. */
#include "lua/events.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int lat_events_on(lua_State *L)
{
	struct lat_events *s = lat_events_check(L);
	struct lat_order_item items[LAT_ORDER_MAX + 1];
	size_t slot = s->handler_count, order[LAT_ORDER_MAX];
	struct lat_events_handler *h = &s->handlers[slot];
	int e;

	luaL_checktype(L, 2, LUA_TTABLE);
	for (size_t i = 0; i < slot; i++)
		items[i] = (struct lat_order_item){ s->handlers[i].name, s->handlers[i].before, s->handlers[i].after };
	items[slot].name = lat_events_text(L, 2, "name", true);
	items[slot].before = lat_events_text(L, 2, "before", false);
	items[slot].after = lat_events_text(L, 2, "after", false);
	luaL_argcheck(L, lua_getfield(L, 2, "call") == LUA_TFUNCTION, 2, "'call' must be a function");
	for (size_t i = 0; i < slot; i++)
		if (strcmp(items[i].name, items[slot].name) == 0)
			luaL_argerror(L, 2, lua_pushfstring(L, "there is a handler '%s' already", items[slot].name));
	e = slot == LAT_ORDER_MAX ? -E2BIG : lat_order(items, slot + 1, order);
	if (e == -ELOOP) {
		lua_pushnil(L);
		lua_pushfstring(L, "handler '%s': its before and after contradict those of the other handlers",
			items[slot].name);
		lua_pushliteral(L, "ELOOP");
		return 3;
	}
	if (e < 0)
		return lat_push_errno(L, e, "add a handler");
	lua_getiuservalue(L, 1, 1);
	lua_rawgeti(L, -1, LAT_EVENTS_CALLS);
	lua_pushvalue(L, -3);
	lua_rawseti(L, -2, (lua_Integer)slot + 1);
	lua_rawgeti(L, -2, LAT_EVENTS_BATCHES);
	lat_events_push_batch(L, 1);
	lua_rawseti(L, -2, (lua_Integer)slot + 1);
	memset(h, 0, sizeof(*h));
	h->name = strdup(items[slot].name);
	h->before = items[slot].before ? strdup(items[slot].before) : NULL;
	h->after = items[slot].after ? strdup(items[slot].after) : NULL;
	if (!h->name || (items[slot].before && !h->before) || (items[slot].after && !h->after)) {
		free(h->name);
		free(h->before);
		free(h->after);
		return lat_push_errno(L, ENOMEM, "add a handler");
	}
	memcpy(s->order, order, (slot + 1) * sizeof(order[0]));
	s->handler_count++;
	lua_pushboolean(L, true);
	return 1;
}

int lat_events_handlers(lua_State *L)
{
	struct lat_events *s = lat_events_check(L);

	lua_createtable(L, (int)s->handler_count, 0);
	for (size_t i = 0; i < s->handler_count; i++) {
		const struct lat_events_handler *h = &s->handlers[s->order[i]];

		lua_createtable(L, 0, 3);
		lua_pushstring(L, h->name);
		lua_setfield(L, -2, "name");
		lua_pushinteger(L, h->trips);
		lua_setfield(L, -2, "trips");
		lua_pushboolean(L, h->gone);
		lua_setfield(L, -2, "dropped");
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	return 1;
}

void lat_events_forget_handlers(struct lat_events *s)
{
	for (size_t i = 0; i < s->handler_count; i++) {
		free(s->handlers[i].name);
		free(s->handlers[i].before);
		free(s->handlers[i].after);
	}
	s->handler_count = 0;
}
