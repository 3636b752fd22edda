/* What wireguard-go says over its control socket (any text), what it leads to against another such text, and that back as
 * text: it must read what we write. */
#include "kernel/wireguard.h"
#include <stdlib.h>
#include <string.h>

#define must(what)                                                                                 \
	do {                                                                                       \
		if (!(what))                                                                       \
			abort();                                                                   \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool read_state(const uint8_t *data, size_t size, struct lat_wg *wg)
{
	char *text = malloc(size + 1);
	int r;

	must(text);
	memcpy(text, data, size);
	text[size] = 0;
	r = lat_wg_uapi_parse(text, wg);
	free(text);
	return r == 0;
}

/* What a set says is, but for its first line and its ends, what a get would say. */
static void read_back(const struct lat_wg *diff)
{
	char *text = lat_wg_uapi_format(diff), *all;
	struct lat_wg again = { 0 };
	size_t removed = 0;

	must(text && strncmp(text, "set=1\n", 6) == 0);
	all = malloc(strlen(text) + 16);
	must(all);
	strcpy(all, text + 6);
	strcpy(all + strlen(all) - 1, "errno=0\n\n");
	must(lat_wg_uapi_parse(all, &again) == 0);
	for (size_t i = 0; i < diff->count; i++)
		removed += diff->peers[i].remove;
	must(again.count == diff->count && removed <= diff->count);
	for (size_t i = 0; i < diff->count; i++)
		must(again.peers[i].allowed_count == diff->peers[i].allowed_count);
	lat_wg_wipe(&again);
	free(all);
	free(text);
}

static bool each_once(const struct lat_wg *wg)
{
	for (size_t i = 0; i < wg->count; i++) {
		for (size_t j = 0; j < i; j++) {
			if (memcmp(wg->peers[i].key, wg->peers[j].key, LAT_WG_KEY) == 0)
				return false;
		}
	}
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *zero = memchr(data, 0, size);
	size_t first = zero ? (size_t)(zero - data) : size;
	struct lat_wg now = { 0 }, wanted = { 0 }, diff = { 0 };

	if (read_state(data, first, &now)) {
		if (zero && read_state(zero + 1, size - first - 1, &wanted) && lat_wg_diff(&now, &wanted, &diff) == 0)
			read_back(&diff);
		lat_wg_wipe(&diff);
		lat_wg_wipe(&wanted);
		must(lat_wg_diff(&now, &now, &diff) == 0 && (diff.count == 0 || !each_once(&now)));
		lat_wg_wipe(&diff);
	}
	lat_wg_wipe(&now);
	return 0;
}
