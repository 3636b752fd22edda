/* The kernel's table of tracked connections of our network namespace, over NETLINK_NETFILTER: list those that carry a
 * mark, change the mark of one. Each call is synchronous and may take long where the table is large: off the loop. */
#ifndef LAT_KERNEL_CONNTRACK_H
#define LAT_KERNEL_CONNTRACK_H
#include "base/addr.h"
#include <stdint.h>

struct lat_conntrack_end {
	struct lat_addr src, dst;
	uint16_t sport, dport; /* host order; 0 for protocols without ports */
};

struct lat_conntrack {
	struct lat_conntrack_end orig, reply; /* as it was opened, and what its replies look like (behind NAT) */
	uint64_t packets[2], bytes[2];        /* orig, reply; 0 unless net.netfilter.nf_conntrack_acct is on */
	uint32_t mark;
	uint16_t zone;
	uint8_t family, proto;                /* 4 or 6 */
	uint8_t icmp_type, icmp_code;         /* of icmp */
	uint16_t icmp_id;
};

/* Calls fn for each connection with (mark & mask) != 0, until it returns other than 0. 0, that value, or negative errno. */
int lat_conntrack_list(uint32_t mask, int (*fn)(void *ctx, const struct lat_conntrack *ct), void *ctx);
/* Changes the bits of `mask` only. 0, or negative errno; -ENOENT: it is gone already. */
int lat_conntrack_remark(const struct lat_conntrack *ct, uint32_t value, uint32_t mask);

#endif
