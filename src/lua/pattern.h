/* Lua's patterns with every step charged to the instruction budget (limits.c). The library's own matcher runs inside C, where
 * the count hook does not see it, and some patterns take exponential time. Same language, same results. */
#ifndef LAT_LUA_PATTERN_H
#define LAT_LUA_PATTERN_H
#include <lauxlib.h>

#define LAT_PATTERN_CAPTURES 32

struct lat_pattern_match {
	lua_State *L;
	const char *subject, *subject_end, *pattern_end;
	unsigned depth; /* of the recursion */
	unsigned steps; /* not charged yet */
	int captures;
	struct lat_pattern_capture {
		const char *start;
		ptrdiff_t len; /* or LAT_CAPTURE_OPEN, LAT_CAPTURE_POSITION */
	} capture[LAT_PATTERN_CAPTURES];
};

#define LAT_CAPTURE_OPEN (-1)
#define LAT_CAPTURE_POSITION (-2)

/* Matches `pattern` (after an anchor) at `at`: the end of the match, or NULL. Throws on a malformed pattern, and when the
 * budget is used up. */
const char *lat_pattern_match(struct lat_pattern_match *m, const char *at, const char *pattern);

/* find, match, gmatch and gsub as in the string library. */
extern const luaL_Reg lat_pattern_functions[];

#endif
