/* The tap of a source: records as the kernel wrote them, for one who reads them elsewhere (a run's supervisor). Bounded; what does
 * not fit is counted. */
#include "lua/events.h"
#include <stdlib.h>

#define TAP_MOST 65536

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

int lat_events_drain(lua_State *L)
{
	struct lat_events *s = lat_events_check(L);

	if (!s->draining)
		lat_events_take_last(s);
	return 0;
}
