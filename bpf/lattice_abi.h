/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
 * What the kernel programs and user space share. Integers are host order unless said otherwise; structs have no holes. */
#ifndef LATTICE_ABI_H
#define LATTICE_ABI_H
#include <linux/types.h>

#define LAT_ABI_VERSION 2

enum lat_event_kind {
	LAT_EVENT_VERDICT = 1, /* a flow was judged (the first packet of an allowed one, each counted packet of a denied one) */
	LAT_EVENT_CLOSE,       /* an allowed flow ended: packets and bytes of both directions */
	LAT_EVENT_LOSS         /* `packets` events before this one could not be told (ring full, or held back by a rate) */
};

/* One record of the event ring; NFLOG packets are turned into the same. */
struct lat_event {
	__u64 time_ns;    /* CLOCK_MONOTONIC (bpf_ktime_get_ns) */
	__u32 generation;
	__u32 rule;       /* 0: the default; LAT_RULE_TEMPORARY set: a temporary rule's id */
	__u8 kind;        /* enum lat_event_kind */
	__u8 action;      /* enum lat_action (src/core/flow.h): 0 deny, 1 allow, 2 drop, 4 audit */
	__u8 dir;         /* 0 out, 1 in */
	__u8 proto;
	__u16 sport;      /* source port of the flow's first packet, 0 without ports */
	__u16 dport;      /* destination port of it; icmp: type */
	__u32 ifindex;
	__u32 length;     /* bytes of the packet at the device */
	__u8 local[16];   /* network order, IPv4 as ::ffff:a.b.c.d; the node's side (source of an out flow) */
	__u8 remote[16];
	__u64 packets;    /* CLOSE: packets; LOSS: events lost; else 1 */
	__u64 bytes_out;  /* CLOSE */
	__u64 bytes_in;   /* CLOSE */
	__u64 duration_ns;/* CLOSE */
	__u32 pid;        /* whose socket it is, as the first pid namespace has it; 0: not known */
	__u32 uid;        /* of it; with pid 0: nothing */
	char comm[16];    /* of its thread, "" if not known */
};

#define LAT_RULE_TEMPORARY 0x80000000u

#endif
