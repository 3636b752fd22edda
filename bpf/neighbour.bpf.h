/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
 * Neighbour discovery passes without a rule, for without it nothing else does; but it is between neighbours: what the host
 * would route on, as any other packet, is judged as one. The host's own table says which that is. */
#ifndef LATTICE_NEIGHBOUR_BPF_H
#define LATTICE_NEIGHBOUR_BPF_H
#include "parse.bpf.h"

/* struct bpf_fib_lookup in whole words: see set_wide. */
union fib {
	struct bpf_fib_lookup lookup;
	__u64 words[8];
};
_Static_assert(sizeof(struct bpf_fib_lookup) == 64, "family, then the device, the ends, and what is told");

/* Would the host send this packet, which came to it, on to another device? Not one that it sends itself, nor one to a multicast
 * or link-local address, which no router passes on. Forwarding switched off is no, and so is an address of its own. */
__noinline int lat_goes_on(struct __sk_buff *skb, struct packet *p)
{
	union fib fib;
	long r;

	if (!p || p->dir != DIR_IN || !p->key.is6 || p->key.local[0] == 0xff)
		return 0;
	if (p->key.local[0] == 0xfe && (p->key.local[1] & 0xc0) == 0x80)
		return 0;
	fib.words[0] = 10 /* AF_INET6 */ | (__u64)PROTO_ICMPV6 << 8;
	fib.words[1] = skb->ifindex;
	fib.words[2] = *(const __u64 *)(p->key.remote + 0);
	fib.words[3] = *(const __u64 *)(p->key.remote + 8);
	fib.words[4] = *(const __u64 *)(p->key.local + 0);
	fib.words[5] = *(const __u64 *)(p->key.local + 8);
	fib.words[6] = fib.words[7] = 0;
	r = bpf_fib_lookup(skb, &fib.lookup, sizeof(fib), 0);
	return r != BPF_FIB_LKUP_RET_NOT_FWDED && r != BPF_FIB_LKUP_RET_FWD_DISABLED && r != BPF_FIB_LKUP_RET_BLACKHOLE &&
		r != BPF_FIB_LKUP_RET_UNREACHABLE && r != BPF_FIB_LKUP_RET_PROHIBIT;
}

#endif
