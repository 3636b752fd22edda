/* The matcher; see pattern.h. A backtracking one: an item of the pattern is tried at the subject, the rest by recursion where
 * there is a choice, by the loop in `rest` where there is none. */
#include "lua/pattern.h"
#include "lua/runtime_impl.h"
#include <ctype.h>
#include <stdbool.h>
#include <string.h>

#define MAX_DEPTH 200
#define CHARGE_EVERY 1000

static const char *rest(struct lat_pattern_match *m, const char *s, const char *p);

static void step(struct lat_pattern_match *m)
{
	if (++m->steps == CHARGE_EVERY) {
		m->steps = 0;
		lat_limits_charge(m->L, CHARGE_EVERY);
	}
}

/* One past the single-character item at p ("a", "%d", "[...]", "."). */
static const char *item_end(struct lat_pattern_match *m, const char *p)
{
	char c = *p++;

	if (c == '%') {
		if (p == m->pattern_end)
			luaL_error(m->L, "malformed pattern (ends with '%%')");
		return p + 1;
	}
	if (c != '[')
		return p;
	if (p < m->pattern_end && *p == '^')
		p++;
	do { /* a ']' that comes first stands for itself */
		if (p == m->pattern_end)
			luaL_error(m->L, "malformed pattern (missing ']')");
		if (*p++ == '%') {
			if (p == m->pattern_end)
				luaL_error(m->L, "malformed pattern (missing ']')");
			p++;
		}
	} while (p == m->pattern_end || *p != ']');
	return p + 1;
}

static bool in_class(int c, int letter)
{
	bool yes;

	switch (tolower(letter)) {
	case 'a': yes = isalpha(c); break;
	case 'c': yes = iscntrl(c); break;
	case 'd': yes = isdigit(c); break;
	case 'g': yes = isgraph(c); break;
	case 'l': yes = islower(c); break;
	case 'p': yes = ispunct(c); break;
	case 's': yes = isspace(c); break;
	case 'u': yes = isupper(c); break;
	case 'w': yes = isalnum(c); break;
	case 'x': yes = isxdigit(c); break;
	default: return letter == c;
	}
	return isupper(letter) ? !yes : yes;
}

/* set: "[...]" from its '[' up to (not including) end. */
static bool in_set(int c, const char *set, const char *end)
{
	const char *p = set + 1, *last = end - 1; /* at ']' */
	bool wanted = true;

	if (*p == '^') {
		wanted = false;
		p++;
	}
	while (p < last) {
		if (*p == '%') {
			if (in_class(c, (unsigned char)p[1]))
				return wanted;
			p += 2;
		} else if (p[1] == '-' && p + 2 < last) {
			if ((unsigned char)p[0] <= c && c <= (unsigned char)p[2])
				return wanted;
			p += 3;
		} else {
			if ((unsigned char)*p == c)
				return wanted;
			p++;
		}
	}
	return !wanted;
}

/* Does the item at p (ending at end) take the character at s? */
static bool takes(struct lat_pattern_match *m, const char *s, const char *p, const char *end)
{
	int c;

	step(m);
	if (s >= m->subject_end)
		return false;
	c = (unsigned char)*s;
	switch (*p) {
	case '.':
		return true;
	case '%':
		return in_class(c, (unsigned char)p[1]);
	case '[':
		return in_set(c, p, end);
	default:
		return (unsigned char)*p == c;
	}
}

static const char *longest(struct lat_pattern_match *m, const char *s, const char *p, const char *end)
{
	ptrdiff_t n = 0;

	while (takes(m, s + n, p, end))
		n++;
	for (; n >= 0; n--) {
		const char *r = rest(m, s + n, end + 1);

		if (r)
			return r;
	}
	return NULL;
}

static const char *shortest(struct lat_pattern_match *m, const char *s, const char *p, const char *end)
{
	for (;; s++) {
		const char *r = rest(m, s, end + 1);

		if (r)
			return r;
		if (!takes(m, s, p, end))
			return NULL;
	}
}

/* %bxy: from x to the y that balances it. */
static const char *balanced(struct lat_pattern_match *m, const char *s, const char *p)
{
	int depth = 1;

	if (m->pattern_end - p < 2)
		luaL_error(m->L, "malformed pattern (missing arguments to '%%b')");
	if (s >= m->subject_end || *s != p[0])
		return NULL;
	while (++s < m->subject_end) {
		step(m);
		if (*s == p[1]) {
			if (--depth == 0)
				return s + 1;
		} else if (*s == p[0]) {
			depth++;
		}
	}
	return NULL;
}

/* %f[set]: between a character outside and one inside of the set. */
static bool at_frontier(struct lat_pattern_match *m, const char *s, const char *set, const char *end)
{
	int before = s == m->subject ? '\0' : (unsigned char)s[-1];
	int after = s == m->subject_end ? '\0' : (unsigned char)*s;

	return !in_set(before, set, end) && in_set(after, set, end);
}

/* %1..%9: the text of an earlier capture again. */
static const char *again(struct lat_pattern_match *m, const char *s, char digit)
{
	int i = digit - '1';
	ptrdiff_t len;

	if (i < 0 || i >= m->captures || m->capture[i].len == LAT_CAPTURE_OPEN)
		luaL_error(m->L, "invalid capture index %%%d", i + 1);
	len = m->capture[i].len;
	/* A position capture has no text; as in the library, nothing equals it. */
	if (len < 0 || m->subject_end - s < len || memcmp(m->capture[i].start, s, (size_t)len) != 0)
		return NULL;
	m->steps += (unsigned)(len / 64 < CHARGE_EVERY - 1 - m->steps ? len / 64 : 0);
	return s + len;
}

static const char *open_capture(struct lat_pattern_match *m, const char *s, const char *p, ptrdiff_t kind)
{
	const char *r;

	if (m->captures >= LAT_PATTERN_CAPTURES)
		luaL_error(m->L, "too many captures");
	m->capture[m->captures].start = s;
	m->capture[m->captures].len = kind;
	m->captures++;
	r = rest(m, s, p);
	if (!r)
		m->captures--;
	return r;
}

static const char *close_capture(struct lat_pattern_match *m, const char *s, const char *p)
{
	int i = m->captures - 1;
	const char *r;

	while (i >= 0 && m->capture[i].len != LAT_CAPTURE_OPEN)
		i--;
	if (i < 0)
		luaL_error(m->L, "invalid pattern capture");
	m->capture[i].len = s - m->capture[i].start;
	r = rest(m, s, p);
	if (!r)
		m->capture[i].len = LAT_CAPTURE_OPEN;
	return r;
}

/* The '%' items that are no character class. Returns true if p is one; then *s and *p are behind it, *s NULL: no match. */
static bool special(struct lat_pattern_match *m, const char **s, const char **p)
{
	const char *at = *p + 1, *end;

	if (at == m->pattern_end)
		return false;
	if (*at == 'b') {
		*s = balanced(m, *s, at + 1);
		*p = at + 3;
		return true;
	}
	if (*at == 'f') {
		at++;
		if (at == m->pattern_end || *at != '[')
			luaL_error(m->L, "missing '[' after '%%f' in pattern");
		end = item_end(m, at);
		if (!at_frontier(m, *s, at, end))
			*s = NULL;
		*p = end;
		return true;
	}
	if (isdigit((unsigned char)*at)) {
		*s = again(m, *s, *at);
		*p = at + 1;
		return true;
	}
	return false;
}

static const char *walk(struct lat_pattern_match *m, const char *s, const char *p)
{
	while (s && p != m->pattern_end) {
		const char *end, *r;

		if (*p == '(')
			return p + 1 < m->pattern_end && p[1] == ')'
				? open_capture(m, s, p + 2, LAT_CAPTURE_POSITION)
				: open_capture(m, s, p + 1, LAT_CAPTURE_OPEN);
		if (*p == ')')
			return close_capture(m, s, p + 1);
		if (*p == '$' && p + 1 == m->pattern_end)
			return s == m->subject_end ? s : NULL;
		if (*p == '%' && special(m, &s, &p))
			continue;
		end = item_end(m, p);
		switch (end < m->pattern_end ? *end : '\0') {
		case '*':
			return longest(m, s, p, end);
		case '+':
			return takes(m, s, p, end) ? longest(m, s + 1, p, end) : NULL;
		case '-':
			return shortest(m, s, p, end);
		case '?':
			if (takes(m, s, p, end)) {
				r = rest(m, s + 1, end + 1);
				if (r)
					return r;
			}
			p = end + 1;
			break;
		default:
			s = takes(m, s, p, end) ? s + 1 : NULL;
			p = end;
		}
	}
	return s;
}

static const char *rest(struct lat_pattern_match *m, const char *s, const char *p)
{
	const char *r;

	step(m);
	if (++m->depth > MAX_DEPTH)
		luaL_error(m->L, "pattern too complex");
	r = walk(m, s, p);
	m->depth--;
	return r;
}

const char *lat_pattern_match(struct lat_pattern_match *m, const char *at, const char *pattern)
{
	m->captures = 0;
	m->depth = 0;
	return rest(m, at, pattern);
}
