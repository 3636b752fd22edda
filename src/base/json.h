/* Writes JSON text into a buffer of fixed size: no allocation, no tree, one pass. Keys are literals of ours and are written
 * as they are; string values may hold anything.
 *
 * In strings every byte below 0x20, 0x7f, '"' and '\' is escaped, and so is what UTF-8 does not allow (each such byte b as
 * \u00bb) and what could mislead the eye or a terminal (C1 controls, line and paragraph separators, bidirectional
 * overrides). The text is therefore always valid UTF-8 on a single line. */
#ifndef LAT_BASE_JSON_H
#define LAT_BASE_JSON_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct lat_json {
	char *begin, *at, *end;
	bool full;  /* something did not fit: the text is useless */
	bool comma; /* the next value needs one before it */
};

void lat_json_init(struct lat_json *json, char *buf, size_t size);
/* Text that is JSON already, or parts of it: a literal, from which the commas around it follow. */
void lat_json_raw(struct lat_json *json, const char *text, size_t len, bool comma);
#define lat_json_literal(json, text, comma) lat_json_raw(json, text, sizeof(text) - 1, comma)

/* What the functions below are made of; key_len is a constant where they are used. */
void lat_json_put_open(struct lat_json *json, const char *key, size_t key_len, char bracket);
void lat_json_put_bytes(struct lat_json *json, const char *key, size_t key_len, const char *text, size_t len);
void lat_json_put_number(struct lat_json *json, const char *key, size_t key_len, bool minus, uint64_t value);
void lat_json_put_numbered(struct lat_json *json, const char *key, size_t key_len, const char *before,
	const char *between, uint64_t number);

static inline size_t lat_json_len(const char *key)
{
	return key ? strlen(key) : 0;
}

/* Opens an object or array ('{' or '['); key NULL at the top and in arrays. */
static inline void lat_json_open(struct lat_json *json, const char *key, char bracket)
{
	lat_json_put_open(json, key, lat_json_len(key), bracket);
}

void lat_json_close(struct lat_json *json, char bracket);

static inline void lat_json_bytes(struct lat_json *json, const char *key, const char *text, size_t len)
{
	lat_json_put_bytes(json, key, lat_json_len(key), text, len);
}

static inline void lat_json_string(struct lat_json *json, const char *key, const char *text)
{
	lat_json_put_bytes(json, key, lat_json_len(key), text, strlen(text));
}

/* A string: both texts and then the number in decimal. */
static inline void lat_json_numbered(struct lat_json *json, const char *key, const char *before, const char *between,
	uint64_t number)
{
	lat_json_put_numbered(json, key, lat_json_len(key), before, between, number);
}

static inline void lat_json_uint(struct lat_json *json, const char *key, uint64_t value)
{
	lat_json_put_number(json, key, lat_json_len(key), false, value);
}

static inline void lat_json_int(struct lat_json *json, const char *key, int64_t value)
{
	lat_json_put_number(json, key, lat_json_len(key), value < 0, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

void lat_json_bool(struct lat_json *json, const char *key, bool value);
/* Ends the text with a NUL that does not count. Its length, or -ENOSPC. */
int lat_json_end(struct lat_json *json);

#endif
