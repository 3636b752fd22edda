/* find, match, gmatch and gsub over pattern.c, as the string library has them. */
#include "lua/pattern.h"
#include "lua/runtime_impl.h"
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Bytes of plain copying or searching that cost as much as one instruction. */
#define BYTES_A_STEP 64

static void prepare(lua_State *L, struct lat_pattern_match *m, const char *s, size_t len, const char *p, size_t plen)
{
	memset(m, 0, sizeof(*m));
	m->L = L;
	m->subject = s;
	m->subject_end = s + len;
	m->pattern_end = p + plen;
}

/* Pushes capture i; capture 0 of a pattern without captures is the whole match. */
static void push_capture(struct lat_pattern_match *m, int i, const char *s, const char *e)
{
	const struct lat_pattern_capture *c = &m->capture[i];

	if (i >= m->captures) {
		if (i != 0)
			luaL_error(m->L, "invalid capture index %%%d", i + 1);
		lua_pushlstring(m->L, s, (size_t)(e - s));
	} else if (c->len == LAT_CAPTURE_POSITION) {
		lua_pushinteger(m->L, c->start - m->subject + 1);
	} else if (c->len == LAT_CAPTURE_OPEN) {
		luaL_error(m->L, "unfinished capture");
	} else {
		lua_pushlstring(m->L, c->start, (size_t)c->len);
	}
}

/* All captures; none and s not NULL: the whole match. */
static int push_captures(struct lat_pattern_match *m, const char *s, const char *e)
{
	int n = m->captures == 0 && s ? 1 : m->captures;

	luaL_checkstack(m->L, n, "too many captures");
	for (int i = 0; i < n; i++)
		push_capture(m, i, s, e);
	return n;
}

/* Zero-based start for find's and match's third argument; beyond the end: false. */
static bool start_at(lua_State *L, int index, size_t len, size_t *start)
{
	lua_Integer i = luaL_optinteger(L, index, 1);

	if (i < 0)
		i = (lua_Integer)len + i < 0 ? 1 : (lua_Integer)len + i + 1;
	if (i == 0)
		i = 1;
	if ((lua_Unsigned)(i - 1) > len)
		return false;
	*start = (size_t)(i - 1);
	return true;
}

static bool is_plain(const char *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] && strchr("^$*+?.([%-", p[i]))
			return false;
	return true;
}

static int find(lua_State *L, bool with_positions)
{
	size_t len, plen, start;
	const char *s = luaL_checklstring(L, 1, &len), *p = luaL_checklstring(L, 2, &plen), *at, *e;
	struct lat_pattern_match m;
	bool anchored;

	if (!start_at(L, 3, len, &start)) {
		luaL_pushfail(L);
		return 1;
	}
	if (with_positions && (lua_toboolean(L, 4) || is_plain(p, plen))) {
		lat_limits_charge(L, (len - start) / BYTES_A_STEP);
		at = memmem(s + start, len - start, p, plen);
		if (!at) {
			luaL_pushfail(L);
			return 1;
		}
		lua_pushinteger(L, at - s + 1);
		lua_pushinteger(L, at - s + (lua_Integer)plen);
		return 2;
	}
	anchored = *p == '^';
	prepare(L, &m, s, len, p, plen);
	for (at = s + start; at <= m.subject_end; at++) {
		e = lat_pattern_match(&m, at, p + anchored);
		if (e && with_positions) {
			lua_pushinteger(L, at - s + 1);
			lua_pushinteger(L, e - s);
			return push_captures(&m, NULL, NULL) + 2;
		}
		if (e)
			return push_captures(&m, at, e);
		if (anchored)
			break;
	}
	luaL_pushfail(L);
	return 1;
}

static int l_find(lua_State *L)
{
	return find(L, true);
}

static int l_match(lua_State *L)
{
	return find(L, false);
}

/* ---- gmatch: the iterator's place is in a userdata beside the two strings ---- */

struct place {
	size_t next;
	size_t last_end; /* end of the last match, SIZE_MAX at first: an empty match there is skipped */
};

static int next_match(lua_State *L)
{
	size_t len, plen;
	const char *s = lua_tolstring(L, lua_upvalueindex(1), &len);
	const char *p = lua_tolstring(L, lua_upvalueindex(2), &plen);
	struct place *place = lua_touserdata(L, lua_upvalueindex(3));
	struct lat_pattern_match m;

	prepare(L, &m, s, len, p, plen);
	for (size_t i = place->next; i <= len; i++) {
		const char *e = lat_pattern_match(&m, s + i, p);

		if (e && (size_t)(e - s) != place->last_end) {
			place->next = place->last_end = (size_t)(e - s);
			return push_captures(&m, s + i, e);
		}
	}
	return 0;
}

static int l_gmatch(lua_State *L)
{
	size_t len, start;
	struct place *place;

	luaL_checklstring(L, 1, &len);
	luaL_checkstring(L, 2);
	if (!start_at(L, 3, len, &start))
		start = len + 1;
	lua_settop(L, 2);
	place = lua_newuserdatauv(L, sizeof(*place), 0);
	*place = (struct place){ start, SIZE_MAX };
	lua_pushcclosure(L, next_match, 3);
	return 1;
}

/* ---- gsub ---- */

/* Replacement text at index 3 with %0 .. %9. Nothing of ours is on the stack above the buffer while it grows. */
static void add_text(struct lat_pattern_match *m, luaL_Buffer *b, const char *s, const char *e)
{
	size_t len;
	const char *text = lua_tolstring(m->L, 3, &len), *end = text + len;

	lat_limits_charge(m->L, len / BYTES_A_STEP);
	while (text < end) {
		const char *percent = memchr(text, '%', (size_t)(end - text));

		if (!percent)
			percent = end;
		luaL_addlstring(b, text, (size_t)(percent - text));
		if (percent == end)
			return;
		text = percent + 2;
		if (percent + 1 < end && percent[1] == '%') {
			luaL_addchar(b, '%');
		} else if (percent + 1 < end && percent[1] == '0') {
			luaL_addlstring(b, s, (size_t)(e - s));
		} else if (percent + 1 < end && percent[1] >= '1' && percent[1] <= '9') {
			const struct lat_pattern_capture *c = &m->capture[percent[1] - '1'];

			if (percent[1] - '1' < m->captures && c->len >= 0) {
				luaL_addlstring(b, c->start, (size_t)c->len);
			} else {
				push_capture(m, percent[1] - '1', s, e);
				luaL_addvalue(b);
			}
		} else {
			luaL_error(m->L, "invalid use of '%%' in replacement string");
		}
	}
}

/* Adds what replaces the match s..e. Returns whether that was something else than the match itself. */
static bool add_replacement(struct lat_pattern_match *m, luaL_Buffer *b, const char *s, const char *e, int type)
{
	lua_State *L = m->L;

	if (type == LUA_TFUNCTION) {
		lua_pushvalue(L, 3);
		lua_call(L, push_captures(m, s, e), 1);
	} else if (type == LUA_TTABLE) {
		push_capture(m, 0, s, e);
		lua_gettable(L, 3);
	} else {
		add_text(m, b, s, e);
		return true;
	}
	if (!lua_toboolean(L, -1)) {
		lua_pop(L, 1);
		luaL_addlstring(b, s, (size_t)(e - s));
		return false;
	}
	if (!lua_isstring(L, -1))
		luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
	luaL_addvalue(b);
	return true;
}

static int l_gsub(lua_State *L)
{
	size_t len, plen;
	const char *s = luaL_checklstring(L, 1, &len), *p = luaL_checklstring(L, 2, &plen);
	const char *at = s, *last_end = NULL, *end = s + len;
	int type = lua_type(L, 3);
	lua_Integer most = luaL_optinteger(L, 4, (lua_Integer)len + 1), n = 0;
	bool anchored = *p == '^', changed = false;
	struct lat_pattern_match m;
	luaL_Buffer b;

	if (type != LUA_TNUMBER && type != LUA_TSTRING && type != LUA_TFUNCTION && type != LUA_TTABLE)
		return luaL_typeerror(L, 3, "string/function/table");
	if (type == LUA_TNUMBER)
		luaL_tolstring(L, 3, NULL), lua_replace(L, 3);
	lat_limits_charge(L, len / BYTES_A_STEP);
	prepare(L, &m, s, len, p, plen);
	luaL_buffinit(L, &b);
	while (n < most) {
		const char *e = lat_pattern_match(&m, at, p + anchored);

		if (e && e != last_end) {
			n++;
			changed = add_replacement(&m, &b, at, e, type) || changed;
			at = last_end = e;
		} else if (at < end) {
			luaL_addchar(&b, *at++);
		} else {
			break;
		}
		if (anchored)
			break;
	}
	luaL_addlstring(&b, at, (size_t)(end - at));
	luaL_pushresult(&b);
	if (!changed)
		lua_pushvalue(L, 1);
	lua_pushinteger(L, n);
	return 2;
}

const luaL_Reg lat_pattern_functions[] = {
	{ "find", l_find }, { "match", l_match }, { "gmatch", l_gmatch }, { "gsub", l_gsub }, { NULL, NULL },
};
