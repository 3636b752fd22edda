/* The decision tables: for an address the longest prefix, there for (direction, protocol, port) the lowest rule number
 * among all rules whose prefix covers the address. Exact for first-match. Immutable once built; look-ups take no lock,
 * allocate nothing and may run in any thread. */
#ifndef LAT_CORE_TABLES_H
#define LAT_CORE_TABLES_H
#include "core/flow.h"

#define LAT_PROTO_ANY 255 /* 255 is reserved by IANA and never in a packet */

/* One box of match space that a rule covers. A rule with several destinations or port ranges gives several entries. */
struct lat_entry {
	struct lat_prefix prefix; /* of the remote address; a rule "to any" gives one entry per family */
	uint32_t rule;            /* 1..; lower wins */
	uint16_t port_lo, port_hi; /* inclusive, host order; 0..65535: any port, also protocols without ports */
	uint8_t dir;              /* enum lat_dir */
	uint8_t proto;            /* LAT_PROTO_ANY or the number */
};

struct lat_tables;

/* Entries in any order; they are copied. 0, -ENOMEM, -EINVAL (port_lo > port_hi, rule 0 or
 * UINT32_MAX, bad dir, family or length, an IPv4 prefix whose address is none) or -E2BIG (beyond 2^28 prefixes). Bits of
 * an address beyond the prefix length do not count. */
int lat_tables_build(const struct lat_entry *entries, size_t count, struct lat_tables **out);
/* The same, and they remember their prefixes: what lat_image_build (image.h) makes maps of. */
int lat_tables_build_for_maps(const struct lat_entry *entries, size_t count, struct lat_tables **out);
void lat_tables_free(struct lat_tables *tables);
/* The lowest matching rule number, or 0. An entry with a narrower port range than 0..65535 matches only protocols that
 * have ports (tcp, udp). */
uint32_t lat_tables_lookup(const struct lat_tables *tables, const struct lat_flow *flow);
size_t lat_tables_bytes(const struct lat_tables *tables);

#endif
