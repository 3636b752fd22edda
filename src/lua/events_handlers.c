/* The handlers of a source: added, removed, put into order, listed. They run in events_batch.c. Each has a slot, which is
 * the place of its function in the box's tables. */
#include "lua/events.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Slots in the order of the handlers' words; `slot` (LAT_ORDER_MAX: none) joins with these words, as the last one. */
static int put_into_order(struct lat_events *s, size_t slot, const struct lat_order_item *joins, size_t order[LAT_ORDER_MAX])
{
	struct lat_order_item items[LAT_ORDER_MAX];
	size_t slots[LAT_ORDER_MAX], n = 0;
	int r;

	for (size_t i = 0; i < LAT_ORDER_MAX; i++) {
		const struct lat_events_handler *h = &s->handlers[i];

		if (!h->name)
			continue;
		slots[n] = i;
		items[n++] = (struct lat_order_item){ h->name, h->before, h->after };
	}
	if (joins) {
		slots[n] = slot;
		items[n++] = *joins;
	}
	r = lat_order(items, n, order);
	for (size_t i = 0; r == 0 && i < n; i++)
		order[i] = slots[order[i]];
	return r;
}

static void forget(struct lat_events_handler *h)
{
	free(h->name);
	free(h->before);
	free(h->after);
	memset(h, 0, sizeof(*h));
}

static int copy_words(struct lat_events_handler *h, const struct lat_order_item *words)
{
	memset(h, 0, sizeof(*h));
	h->before = words->before ? strdup(words->before) : NULL;
	h->after = words->after ? strdup(words->after) : NULL;
	h->name = strdup(words->name);
	if (h->name && (!words->before || h->before) && (!words->after || h->after))
		return 0;
	forget(h);
	return -ENOMEM;
}

static size_t find(const struct lat_events *s, const char *name)
{
	size_t i = 0;

	while (i < LAT_ORDER_MAX && (name ? !s->handlers[i].name || strcmp(s->handlers[i].name, name) : s->handlers[i].name != NULL))
		i++;
	return i;
}

/* Stack at entry: 1 box. Puts the two values at the top into the slot's places of the box's tables and pops them. */
static void set_slot(lua_State *L, size_t slot)
{
	lua_getiuservalue(L, 1, 1);
	lua_rawgeti(L, -1, LAT_EVENTS_BATCHES);
	lua_pushvalue(L, -3);
	lua_rawseti(L, -2, (lua_Integer)slot + 1);
	lua_rawgeti(L, -2, LAT_EVENTS_CALLS);
	lua_pushvalue(L, -5);
	lua_rawseti(L, -2, (lua_Integer)slot + 1);
	lua_pop(L, 5);
}

int lat_events_on(lua_State *L)
{
	struct lat_events *s = lat_events_check(L);
	size_t slot = find(s, NULL), order[LAT_ORDER_MAX];
	struct lat_order_item words;
	int e;

	luaL_checktype(L, 2, LUA_TTABLE);
	words.name = lat_events_text(L, 2, "name", true);
	words.before = lat_events_text(L, 2, "before", false);
	words.after = lat_events_text(L, 2, "after", false);
	luaL_argcheck(L, lua_getfield(L, 2, "call") == LUA_TFUNCTION, 2, "'call' must be a function");
	if (find(s, words.name) < LAT_ORDER_MAX)
		luaL_argerror(L, 2, lua_pushfstring(L, "there is a handler '%s' already", words.name));
	e = slot == LAT_ORDER_MAX ? -E2BIG : put_into_order(s, slot, &words, order);
	if (e == -ELOOP) {
		lua_pushnil(L);
		lua_pushfstring(L, "handler '%s': its before and after contradict those of the other handlers", words.name);
		lua_pushliteral(L, "ELOOP");
		return 3;
	}
	if (e == 0) {
		lat_events_push_batch(L, 1);
		set_slot(L, slot);
		e = copy_words(&s->handlers[slot], &words);
	}
	if (e < 0)
		return lat_push_errno(L, e, "add a handler");
	memcpy(s->order, order, ++s->handler_count * sizeof(order[0]));
	lua_pushboolean(L, true);
	return 1;
}

int lat_events_off(lua_State *L)
{
	struct lat_events *s = lat_events_check(L);
	size_t slot = find(s, luaL_checkstring(L, 2)), order[LAT_ORDER_MAX];

	if (s->draining)
		return lat_push_errno(L, EBUSY, "remove a handler from inside one");
	if (slot < LAT_ORDER_MAX) {
		forget(&s->handlers[slot]);
		put_into_order(s, LAT_ORDER_MAX, NULL, order); /* fewer words contradict nothing */
		memcpy(s->order, order, --s->handler_count * sizeof(order[0]));
		lua_pushboolean(L, false);
		lua_pushboolean(L, false);
		set_slot(L, slot);
	}
	lua_pushboolean(L, slot < LAT_ORDER_MAX);
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
	for (size_t i = 0; i < LAT_ORDER_MAX; i++)
		forget(&s->handlers[i]);
	s->handler_count = 0;
}
