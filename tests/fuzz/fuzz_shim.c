/* What the shim reads inside programs of others: an image of the tables, and DNS answers. No read outside of them (each has
 * a block of its own, so a sanitizer sees one), no endless walk; an image that is found to be broken never lets pass.
 * The first byte chooses: 0 an image made good at its head, 1 any bytes as an image, 2 a DNS answer, 3 a name to ask for. */
#include "intercept/dns.h"
#include "intercept/table.h"
#include <errno.h>
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

static void look(const struct lat_shim_image *im, const uint8_t *tail, size_t n)
{
	struct lat_shim_flow f = { .port = 443, .proto = IPPROTO_TCP };
	struct lat_shim_answer a;

	memcpy(&f, tail, n < sizeof(f) ? n : sizeof(f));
	lat_shim_judge(im, &f, &a);
	must(a.what <= LAT_SHIM_ASK, "an answer is one of four");
	if (lat_shim_find(im, &f) < 0)
		must(a.what == LAT_SHIM_DENY, "a broken image denies");
	else
		must(a.rule <= im->rule_count, "a rule is one of the image's");
	lat_shim_may_come_in(im, f.proto, f.port, &a);
}

/* A head whose parts lie inside, whatever is in them. */
static void make_good(struct lat_shim_image *im, size_t size)
{
	uint32_t room = (uint32_t)size - (uint32_t)sizeof(*im), at = sizeof(*im);

	im->magic = LAT_SHIM_MAGIC;
	im->abi = LAT_SHIM_ABI;
	im->size = (uint32_t)size;
	im->rules = at;
	im->rule_count %= room / 16 + 1;
	im->nodes = im->words = at;
	im->node_count = 1 + im->node_count % (room / sizeof(struct lat_shim_node));
	im->word_count %= room / 4 + 1;
	for (int i = 0; i < LAT_SHIM_TREES; i++) {
		im->trees[i].starts = (at + 15) & ~15u;
		im->trees[i].owners = at;
		im->trees[i].count = 1 + im->trees[i].count % (room / 32);
	}
}

static void image(const uint8_t *data, size_t size, bool good)
{
	size_t room = (size + 15) & ~(size_t)15;
	struct lat_shim_image *im = aligned_alloc(16, room ? room : 16);

	memset(im, 0, room ? room : 16);
	memcpy(im, data, size);
	if (good && room >= sizeof(*im) + 128)
		make_good(im, room);
	if (lat_shim_valid(im, room))
		look(im, data + size / 2, size - size / 2);
	free(im);
}

static void answer(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);
	struct lat_addr addrs[4];

	memcpy(copy, data, size);
	for (int family = 4; family <= 6; family += 2) {
		int n = lat_shim_dns_answer(copy, size, family, addrs, 4);

		must(n <= 4 && (n >= 0 || n == -EBADMSG || n == -ENOENT || n == -EACCES || n == -EAGAIN), "a count or a reason");
		for (int i = 0; i < n; i++)
			must(family == 6 || lat_addr_is4(&addrs[i]), "an address is of its family");
	}
	free(copy);
}

static void name(const uint8_t *data, size_t size)
{
	char *copy = malloc(size + 1);
	uint8_t *out = malloc(LAT_SHIM_DNS_QUERY);
	int n;

	memcpy(copy, data, size);
	copy[size] = '\0';
	n = lat_shim_dns_query(copy, 4, out);
	must(n == -EINVAL || (n > 16 && n <= LAT_SHIM_DNS_QUERY), "a query fits");
	free(out);
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	if (data[0] % 4 < 2)
		image(data + 1, size - 1, data[0] % 4 == 0);
	else if (data[0] % 4 == 2)
		answer(data + 1, size - 1);
	else
		name(data + 1, size - 1);
	return 0;
}
