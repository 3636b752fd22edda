/* Whatever bytes a program puts into a record, the line is one line, valid JSON and valid UTF-8 for a strict parser, and
 * text that was valid comes back unchanged. */
#include "base/json.h"
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int ok)
{
	if (!ok)
		abort();
}

static void small_buffer(const char *text, size_t size, size_t room)
{
	char *buf = malloc(room ? room : 1);
	struct lat_json j;

	lat_json_init(&j, buf, room);
	lat_json_open(&j, NULL, '{');
	lat_json_bytes(&j, "k", text, size);
	lat_json_int(&j, "n", -(int64_t)size);
	lat_json_close(&j, '}');
	must(lat_json_end(&j) < (int)room);
	free(buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data;
	size_t room;
	struct lat_json j;
	json_t *root, *want;
	char *buf;
	int n;

	size = size > 4096 ? 4096 : size;
	room = 6 * size + 64;
	buf = malloc(room);
	lat_json_init(&j, buf, room);
	lat_json_open(&j, NULL, '{');
	lat_json_bytes(&j, "k", text, size);
	lat_json_close(&j, '}');
	n = lat_json_end(&j);
	must(n > 0);
	for (int i = 0; i < n; i++)
		must((unsigned char)buf[i] >= 0x20 && buf[i] != 0x7f);
	root = json_loadb(buf, (size_t)n, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, NULL);
	must(root != NULL);
	want = json_stringn(text, size); /* NULL: not valid UTF-8 */
	if (want)
		must(json_equal(want, json_object_get(root, "k")));
	json_decref(want);
	json_decref(root);
	free(buf);
	for (room = 0; room < 24; room++)
		small_buffer(text, size, room);
	small_buffer(text, size, size);
	return 0;
}
