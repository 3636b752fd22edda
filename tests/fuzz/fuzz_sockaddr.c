/* Copies of sockaddrs and texts of addresses from a hostile program: no read beyond the length, and what is accepted goes
 * round unchanged. The first byte chooses between the two. */
#include "base/addr.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "does not hold: %s\n", what);
	abort();
}

static void sockaddr_bytes(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1); /* its own block: a sanitizer sees a read beyond it */
	struct sockaddr_storage ss;
	struct lat_addr a = { { 0 } }, b;
	uint16_t port = 0, port2;

	memcpy(copy, data, size);
	if (lat_addr_from_sockaddr((struct sockaddr *)copy, (socklen_t)size, &a, &port) == 0) {
		must(size >= sizeof(struct sockaddr_in), "an accepted sockaddr is long enough");
		for (int six = 0; six < 2; six++) {
			socklen_t len = lat_addr_to_sockaddr(&a, port, six, &ss);

			must(lat_addr_from_sockaddr((struct sockaddr *)&ss, len, &b, &port2) == 0, "it goes back");
			must(lat_addr_equal(&a, &b) && port == port2, "it is the same");
		}
	}
	free(copy);
}

static void text(const uint8_t *data, size_t size)
{
	char *copy = malloc(size + 1), round[LAT_ADDR_TEXT], endpoint[LAT_ENDPOINT_TEXT], again[LAT_ADDR_TEXT + 5];
	struct lat_prefix p, q;
	struct lat_addr a, b;

	memcpy(copy, data, size);
	copy[size] = '\0';
	if (lat_addr_parse(copy, &a) == 0) {
		must(lat_addr_parse(lat_addr_format(&a, round, sizeof(round)), &b) == 0, "an address reads back");
		must(lat_addr_equal(&a, &b), "and is the same");
		must(strlen(lat_endpoint_format(&a, 65535, endpoint, sizeof(endpoint))) > 8, "an endpoint fits");
		(void)lat_addr_is_private(&a);
	}
	if (lat_prefix_parse(copy, &p) == 0) {
		must(p.family == 4 ? p.len <= 32 : p.family == 6 && p.len <= 128, "a length fits the family");
		must((p.family == 4) == lat_addr_is4(&p.addr), "the family is the address's");
		must(lat_prefix_contains(&p, &p.addr), "a prefix contains its own address");
		snprintf(again, sizeof(again), "%s/%u", lat_addr_format(&p.addr, round, sizeof(round)), p.len);
		must(lat_prefix_parse(again, &q) == 0 && q.len == p.len && q.family == p.family &&
			lat_addr_equal(&p.addr, &q.addr), "a prefix reads back");
	}
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	if (data[0] & 1)
		text(data + 1, size - 1);
	else
		sockaddr_bytes(data + 1, size - 1);
	return 0;
}
