/* See json.h. */
#include "base/json.h"
#include <errno.h>
#include <string.h>

void lat_json_init(struct lat_json *j, char *buf, size_t size)
{
	*j = (struct lat_json){ .begin = buf, .at = buf, .end = buf + size };
}

static void put(struct lat_json *j, const char *text, size_t len)
{
	if (len > (size_t)(j->end - j->at)) {
		j->full = true;
		return;
	}
	memcpy(j->at, text, len);
	j->at += len;
}

static void put1(struct lat_json *j, char c)
{
	if (j->at == j->end)
		j->full = true;
	else
		*j->at++ = c;
}

/* What stands before a value. */
static void lead(struct lat_json *j, const char *key, size_t len)
{
	char *at = j->at;

	if (len + 4 > (size_t)(j->end - at)) {
		j->full = true;
		return;
	}
	if (j->comma)
		*at++ = ',';
	j->comma = true;
	if (key) {
		*at++ = '"';
		memcpy(at, key, len);
		at += len;
		*at++ = '"';
		*at++ = ':';
	}
	j->at = at;
}

void lat_json_raw(struct lat_json *j, const char *text, size_t len, bool comma)
{
	put(j, text, len);
	j->comma = comma;
}

void lat_json_put_open(struct lat_json *j, const char *key, size_t key_len, char bracket)
{
	lead(j, key, key_len);
	put1(j, bracket);
	j->comma = false;
}

void lat_json_close(struct lat_json *j, char bracket)
{
	put1(j, bracket);
	j->comma = true;
}

/* Length of the well-formed UTF-8 character at s (RFC 3629), its code point in *code; 0: none. */
static size_t utf8(const unsigned char *s, size_t left, uint32_t *code)
{
	unsigned char lo = 0x80, hi = 0xbf;
	uint32_t c = s[0];
	size_t n;

	if (c >= 0xc2 && c <= 0xdf) {
		n = 2;
		c &= 0x1f;
	} else if (c >= 0xe0 && c <= 0xef) {
		n = 3;
		lo = c == 0xe0 ? 0xa0 : 0x80; /* no overlong form */
		hi = c == 0xed ? 0x9f : 0xbf; /* no surrogate */
		c &= 0x0f;
	} else if (c >= 0xf0 && c <= 0xf4) {
		n = 4;
		lo = c == 0xf0 ? 0x90 : 0x80;
		hi = c == 0xf4 ? 0x8f : 0xbf; /* nothing beyond U+10FFFF */
		c &= 0x07;
	} else {
		return 0;
	}
	if (n > left || s[1] < lo || s[1] > hi)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	*code = c;
	return n;
}

static bool misleads(uint32_t c)
{
	return c < 0xa0 || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c == 0xfeff;
}

static void put_escaped(struct lat_json *j, uint32_t c)
{
	static const char hex[] = "0123456789abcdef";
	char u[6] = { '\\', 'u', hex[c >> 12 & 15], hex[c >> 8 & 15], hex[c >> 4 & 15], hex[c & 15] };

	switch (c) {
	case '"':
	case '\\':
		put(j, (char[]){ '\\', (char)c }, 2);
		break;
	case '\n':
		put(j, "\\n", 2);
		break;
	case '\t':
		put(j, "\\t", 2);
		break;
	default:
		put(j, u, sizeof(u));
	}
}

/* Stands in a string as it is. */
static const bool plain[256] = { [' ' ... '!'] = true, ['#' ... '['] = true, [']' ... '~'] = true };

static void put_text(struct lat_json *j, const char *text, size_t len)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t i = 0;

	while (i < len && !j->full) {
		size_t run = i, n;
		uint32_t c;

		while (run < len && plain[s[run]])
			run++;
		put(j, text + i, run - i);
		i = run;
		if (i == len)
			break;
		n = s[i] < 0x80 ? 0 : utf8(s + i, len - i, &c);
		if (n && !misleads(c))
			put(j, text + i, n);
		else
			put_escaped(j, n ? c : s[i]);
		i += n ? n : 1;
	}
}

void lat_json_put_bytes(struct lat_json *j, const char *key, size_t key_len, const char *text, size_t len)
{
	lead(j, key, key_len);
	put1(j, '"');
	put_text(j, text, len);
	put1(j, '"');
}

static void put_digits(struct lat_json *j, bool minus, uint64_t v)
{
	char digits[21];
	size_t at = sizeof(digits);

	do {
		digits[--at] = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	if (minus)
		digits[--at] = '-';
	put(j, digits + at, sizeof(digits) - at);
}

void lat_json_put_number(struct lat_json *j, const char *key, size_t key_len, bool minus, uint64_t value)
{
	lead(j, key, key_len);
	put_digits(j, minus, value);
}

void lat_json_put_numbered(struct lat_json *j, const char *key, size_t key_len, const char *before,
	const char *between, uint64_t number)
{
	lead(j, key, key_len);
	put1(j, '"');
	put_text(j, before, strlen(before));
	put_text(j, between, strlen(between));
	put_digits(j, false, number);
	put1(j, '"');
}

void lat_json_bool(struct lat_json *j, const char *key, bool value)
{
	lead(j, key, lat_json_len(key));
	put(j, value ? "true" : "false", value ? 4 : 5);
}

int lat_json_end(struct lat_json *j)
{
	if (j->full || j->at == j->end)
		return -ENOSPC;
	*j->at = '\0';
	return (int)(j->at - j->begin);
}
