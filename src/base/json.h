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

struct lat_json {
	char *begin, *at, *end;
	bool full;  /* something did not fit: the text is useless */
	bool comma; /* the next value needs one before it */
};

void lat_json_init(struct lat_json *json, char *buf, size_t size);
/* Opens an object or array ('{' or '['); key NULL at the top and in arrays. */
void lat_json_open(struct lat_json *json, const char *key, char bracket);
void lat_json_close(struct lat_json *json, char bracket);
void lat_json_string(struct lat_json *json, const char *key, const char *text);
void lat_json_bytes(struct lat_json *json, const char *key, const char *text, size_t len);
void lat_json_uint(struct lat_json *json, const char *key, uint64_t value);
void lat_json_int(struct lat_json *json, const char *key, int64_t value);
void lat_json_bool(struct lat_json *json, const char *key, bool value);
/* Ends the text with a NUL that does not count. Its length, or -ENOSPC. */
int lat_json_end(struct lat_json *json);

#endif
