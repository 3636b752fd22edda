/* Bytes become entries and flows: the tables must agree with a linear scan, whatever the entries are. */
#include "core/tables.h"
#include "../support/flowgen.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define MOST 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *at, *end;
};

static uint8_t take(struct input *in)
{
	return in->at < in->end ? *in->at++ : 0;
}

static uint16_t take16(struct input *in)
{
	uint16_t hi = take(in);

	return (uint16_t)(hi << 8 | take(in));
}

/* The first byte says which bytes of the address follow; the others repeat it, so that prefixes nest. */
static struct lat_addr take_addr(struct input *in, bool is4)
{
	uint8_t fill = take(in), raw[16];
	uint16_t given = is4 ? (uint16_t)(take(in) << 12) : take16(in);
	struct lat_addr a;

	for (unsigned i = 0; i < 16; i++)
		raw[i] = given & (0x8000 >> i) ? take(in) : fill;
	if (is4)
		lat_addr_from4(&a, raw);
	else
		lat_addr_from6(&a, raw);
	return a;
}

static struct lat_entry take_entry(struct input *in)
{
	uint8_t flags = take(in);
	struct lat_entry e = { .rule = 1u + (take(in) & 63), .dir = flags & 1, .port_hi = UINT16_MAX };

	e.prefix.family = flags & 2 ? 4 : 6;
	e.prefix.addr = take_addr(in, flags & 2);
	e.prefix.len = take(in);
	e.proto = flags & 4 ? LAT_PROTO_ANY : flags & 8 ? IPPROTO_TCP : take(in);
	if (flags & 16) {
		e.port_lo = take16(in);
		e.port_hi = flags & 32 ? take16(in) : e.port_lo;
	}
	return e;
}

static bool entry_ok(const struct lat_entry *e)
{
	return e->port_lo <= e->port_hi && e->prefix.len <= (e->prefix.family == 4 ? 32 : 128);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	struct lat_entry entries[MOST] = { 0 };
	struct lat_tables *t = NULL;
	size_t count = take(&in) % MOST;
	bool all_ok = true;
	int r;

	for (size_t i = 0; i < count; i++) {
		entries[i] = take_entry(&in);
		all_ok &= entry_ok(&entries[i]);
	}
	r = lat_tables_build(entries, count, &t);
	if (r != (all_ok ? 0 : -EINVAL)) {
		fprintf(stderr, "built: %d\n", r);
		abort();
	}
	for (unsigned i = 0; r == 0 && i < 64; i++) {
		uint8_t flags = take(&in);
		struct lat_flow f = { .dir = flags & 1, .remote = take_addr(&in, flags & 2) };

		f.proto = flags & 4 ? IPPROTO_UDP : flags & 8 ? IPPROTO_TCP : take(&in);
		f.dport = take16(&in);
		if (count && flags & 16) {
			const struct lat_entry *e = &entries[flags >> 5];

			if ((flags >> 5) < count) {
				f.remote = e->prefix.addr;
				f.dport = flags & 4 ? e->port_hi : e->port_lo;
				f.dir = e->dir;
			}
		}
		if (lat_tables_lookup(t, &f) != gen_scan(entries, count, &f)) {
			fprintf(stderr, "flow %u: tables %u, scan %u\n", i, lat_tables_lookup(t, &f),
				gen_scan(entries, count, &f));
			abort();
		}
	}
	lat_tables_free(t);
	return 0;
}
