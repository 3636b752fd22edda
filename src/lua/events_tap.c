/* The tap of a source: records as the kernel wrote them, for one who reads them elsewhere (a run's supervisor); bounded, and what
 * does not fit is counted. And the end of a source whose flows nobody holds any more. */
#include "lua/events.h"
#include "lua/tc.h"
#include <stdlib.h>

#define TAP_MOST 65536
#define MOST_OPEN 8192

void lat_events_tap_take(struct lat_events *s, const struct lat_event *e)
{
	if (!s->tap)
		return;
	if (s->tap_count < s->tap_most)
		s->tap[s->tap_count++] = *e;
	else
		s->tap_lost++;
}

int lat_events_tap(lua_State *L)
{
	struct lat_events *s = lat_events_check(L);
	lua_Integer most = luaL_checkinteger(L, 2);
	struct lat_event *tap;

	luaL_argcheck(L, most >= 1 && most <= TAP_MOST, 2, "1 to 65536 expected");
	tap = calloc((size_t)most, sizeof(*tap));
	if (!tap)
		return luaL_error(L, "out of memory");
	free(s->tap);
	s->tap = tap;
	s->tap_most = (unsigned)most;
	s->tap_count = 0;
	return 0;
}

int lat_events_taken(lua_State *L)
{
	static const char digits[] = "0123456789abcdef";
	struct lat_events *s = lat_events_check(L);
	const unsigned char *bytes = (const unsigned char *)s->tap;
	size_t n = s->tap_count * sizeof(*s->tap);
	luaL_Buffer b;
	char *to = luaL_buffinitsize(L, &b, 2 * n + 1);

	for (size_t i = 0; i < n; i++) {
		*to++ = digits[bytes[i] >> 4];
		*to++ = digits[bytes[i] & 15];
	}
	luaL_pushresultsize(&b, 2 * n);
	lua_pushinteger(L, s->tap_count);
	lua_pushinteger(L, (lua_Integer)s->tap_lost);
	s->tap_count = 0;
	s->tap_lost = 0;
	return 3;
}

static bool same_flow(const struct lat_flow *a, const struct lat_flow *b)
{
	return a->sport == b->sport && a->dport == b->dport && a->proto == b->proto && a->dir == b->dir &&
	       lat_addr_equal(&a->remote, &b->remote) && lat_addr_equal(&a->local, &b->local);
}

static void tell_end(struct lat_events *s, const struct lat_tc_key *key, const struct lat_tc_flow *flow, size_t known)
{
	struct lat_event e;
	struct lat_flow f;

	if (!lat_filter_end_of(key, flow, &e))
		return;
	lat_event_flow(&e, &f);
	for (size_t i = 0; i < known; i++)
		if (same_flow(&s->ends[i], &f))
			return;
	lat_events_take(s, &e);
}

/* Sockets of the dead go on ending meanwhile: what was open in the table may have been told since. Nothing here throws. */
int lat_events_ends(lua_State *L)
{
	struct lat_events *s = lat_events_check(L);
	struct lat_tc_engine *engine = lat_box_check(L, 2, &lat_tc_engine_type);
	struct lat_tc_key *keys = calloc(MOST_OPEN, sizeof(*keys));
	struct lat_tc_flow *flows = calloc(MOST_OPEN, sizeof(*flows));
	int n = keys && flows && engine->filter ? lat_tc_flows(engine->filter->tc[0], keys, flows, MOST_OPEN) : 0;
	size_t known;

	if (!s->draining) {
		s->ends = n > 0 ? calloc((size_t)n * 2, sizeof(*s->ends)) : NULL;
		s->ends_room = s->ends ? (size_t)n * 2 : 0;
		s->ends_count = 0;
		lat_events_take_last(s);
		known = s->ends_count;
		s->ends_room = 0;
		for (int i = 0; i < n; i++)
			tell_end(s, &keys[i], &flows[i], known);
		free(s->ends);
		s->ends = NULL;
	}
	free(keys);
	free(flows);
	return 0;
}
