/* Random entries and flows for the decision tables, and the linear scan that is the truth about them. Used by the unit
 * test, the fuzz target and the benchmark. */
#ifndef LAT_TEST_FLOWGEN_H
#define LAT_TEST_FLOWGEN_H
#include "core/tables.h"
#include <string.h>

static inline uint64_t gen_next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static inline uint32_t gen_below(uint64_t *state, uint32_t n)
{
	return (uint32_t)(gen_next(state) % n);
}

/* Few distinct bytes, so that prefixes nest, touch and repeat. */
static inline uint8_t gen_byte(uint64_t *state)
{
	static const uint8_t bytes[] = { 0, 1, 10, 42, 127, 128, 192, 254, 255 };

	return gen_below(state, 8) ? bytes[gen_below(state, sizeof(bytes))] : (uint8_t)gen_next(state);
}

static inline struct lat_addr gen_addr(uint64_t *state, bool is4)
{
	struct lat_addr a;
	uint8_t b[16];

	for (unsigned i = 0; i < 16; i++)
		b[i] = gen_byte(state);
	if (is4) {
		lat_addr_from4(&a, b);
		return a;
	}
	b[0] = gen_below(state, 2) ? 0x20 : 0xfd;
	lat_addr_from6(&a, b);
	if (gen_below(state, 3) == 0) /* the lower half differs in its last bytes only */
		memset(a.b + 2, 0, 12);
	return a;
}

static inline void gen_mask(struct lat_prefix *p)
{
	unsigned first = p->len + (p->family == 4 ? 96u : 0u);

	for (unsigned bit = first; bit < 128; bit++)
		p->addr.b[bit / 8] &= (uint8_t)~(0x80 >> bit % 8);
}

static inline struct lat_prefix gen_prefix(uint64_t *state)
{
	static const uint8_t len4[] = { 0, 8, 16, 24, 32, 32, 31, 9, 1 };
	static const uint8_t len6[] = { 0, 8, 32, 48, 64, 65, 96, 127, 128, 128 };
	bool is4 = gen_below(state, 2);
	struct lat_prefix p = { .addr = gen_addr(state, is4), .family = is4 ? 4 : 6 };

	p.len = is4 ? len4[gen_below(state, sizeof(len4))] : len6[gen_below(state, sizeof(len6))];
	if (gen_below(state, 4) == 0)
		p.len = (uint8_t)gen_below(state, is4 ? 33 : 129);
	gen_mask(&p);
	return p;
}

static inline uint16_t gen_port(uint64_t *state)
{
	static const uint16_t ports[] = { 0, 1, 22, 53, 80, 443, 444, 1023, 1024, 8080, 65534, 65535 };

	return gen_below(state, 4) ? ports[gen_below(state, 12)] : (uint16_t)gen_next(state);
}

static inline uint8_t gen_proto(uint64_t *state)
{
	static const uint8_t protos[] = { IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6, 47, 0, 254 };

	return protos[gen_below(state, gen_below(state, 3) ? 2 : 7)];
}

static inline struct lat_entry gen_entry(uint64_t *state, uint32_t rules)
{
	struct lat_entry e = { .prefix = gen_prefix(state), .rule = 1 + gen_below(state, rules), .port_hi = UINT16_MAX };

	e.dir = (uint8_t)gen_below(state, LAT_DIR_COUNT);
	e.proto = gen_below(state, 4) ? gen_proto(state) : LAT_PROTO_ANY;
	if (gen_below(state, 4)) {
		e.port_lo = gen_port(state);
		e.port_hi = gen_below(state, 2) ? e.port_lo : gen_port(state);
		if (e.port_hi < e.port_lo) {
			uint16_t swap = e.port_lo;

			e.port_lo = e.port_hi;
			e.port_hi = swap;
		}
	}
	return e;
}

/* Half of the flows aim at an entry: inside its prefix or one beside it, at an edge of its ports. */
static inline struct lat_flow gen_flow(uint64_t *state, const struct lat_entry *entries, size_t count)
{
	const struct lat_entry *e = count ? &entries[gen_below(state, (uint32_t)count)] : NULL;
	struct lat_flow f = { .remote = gen_addr(state, gen_below(state, 2)), .dport = gen_port(state) };

	f.dir = (uint8_t)gen_below(state, LAT_DIR_COUNT);
	f.proto = gen_proto(state);
	if (!e || gen_below(state, 2))
		return f;
	unsigned bits = e->prefix.len + (e->prefix.family == 4 ? 96u : 0u);
	struct lat_addr inside = e->prefix.addr, noise = gen_addr(state, false);
	bool ones = gen_below(state, 3) == 0, plain = gen_below(state, 3) == 0;

	for (unsigned bit = bits; bit < 128; bit++) {
		uint8_t mask = (uint8_t)(0x80 >> bit % 8);

		if (ones || (!plain && (noise.b[bit / 8] & mask)))
			inside.b[bit / 8] |= mask;
	}
	if (bits && gen_below(state, 5) == 0) { /* just outside */
		unsigned bit = bits - 1;

		inside.b[bit / 8] ^= (uint8_t)(0x80 >> bit % 8);
	}
	f.remote = inside;
	f.dir = gen_below(state, 8) ? e->dir : f.dir;
	f.proto = e->proto == LAT_PROTO_ANY || gen_below(state, 8) == 0 ? f.proto : e->proto;
	f.dport = (uint16_t)((gen_below(state, 2) ? e->port_lo : e->port_hi) + gen_below(state, 3) - 1);
	return f;
}

static inline bool gen_entry_matches(const struct lat_entry *e, const struct lat_flow *f)
{
	bool any_port = e->port_lo == 0 && e->port_hi == UINT16_MAX;
	bool has_ports = f->proto == IPPROTO_TCP || f->proto == IPPROTO_UDP;

	if (e->dir != f->dir || (e->proto != LAT_PROTO_ANY && e->proto != f->proto))
		return false;
	if (!any_port && (!has_ports || f->dport < e->port_lo || f->dport > e->port_hi))
		return false;
	return lat_prefix_contains(&e->prefix, &f->remote);
}

static inline uint32_t gen_scan(const struct lat_entry *entries, size_t count, const struct lat_flow *f)
{
	uint32_t best = 0;

	for (size_t i = 0; i < count; i++)
		if ((!best || entries[i].rule < best) && gen_entry_matches(&entries[i], f))
			best = entries[i].rule;
	return best;
}

#endif
