/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
 * The maps of the tc programs (tc.bpf.c), as user space fills and reads them. Fixed widths, no holes; a change of anything
 * here is a new LAT_TC_ABI, and an agent that finds another number in the pinned `config` does not take those maps over.
 *
 * One generation of the policy is two maps: `lpm` (prefix -> what its rules say for a port) and `data` (rows of 32 bytes:
 * meta, rules, big nodes, port lists, counters). Both are put into a slot that `live` does not name; then one update of
 * `live` makes them the ones that count. A slot that is empty, and a `live` of zero, mean: deny. */
#ifndef LATTICE_TC_ABI_H
#define LATTICE_TC_ABI_H
#include "lattice_abi.h"

#define LAT_TC_ABI 2

/* The word in `live`: one aligned store, so a packet sees all of it or none. stamp changes with whatever may change a
 * verdict; a flow with another stamp is judged again. */
#define LAT_TC_LIVE_SLOT(word) ((__u32)(word) & 0xff)            /* 1 and 2: slots; 0: none */
#define LAT_TC_LIVE_OVERLAY(word) ((__u32)(word) >> 8 & 0xff)    /* row of `overlays`, 0: no temporary rules */
#define LAT_TC_LIVE_PINS(word) ((__u32)(word) >> 16 & 0xff)      /* set: ask `pins` */
#define LAT_TC_LIVE_STAMP(word) ((__u32)((word) >> 32))
#define LAT_TC_LIVE(slot, overlay, pins, stamp) \
	((__u64)(stamp) << 32 | (__u64)(pins) << 16 | (__u64)(overlay) << 8 | (slot))

#define LAT_TC_SLOTS 2
#define LAT_TC_OVERLAYS 9  /* row 0 is not used; the others in turn, so that no reader meets a write */
#define LAT_TC_OVERLAY_MOST 64
#define LAT_TC_OVERLAY_GROUP 8 /* the most for a cgroup */
#define LAT_TC_PIN_MOST 64

/* Key of `lpm`. len counts bits from `tree` on: 32 and those of the prefix. */
struct lat_tc_prefix {
	__u32 len;
	__u32 tree;    /* direction * 2 + (1 for IPv6) */
	__u32 addr[4]; /* network order; IPv4 in addr[0], the rest zero */
};

/* What a node says for the ports (tcp, udp) or protocol numbers (others) of one list. */
struct lat_tc_list {
	__u32 rule; /* of keys lo..hi, 0: none; with LAT_TC_LIST_LONG: index of its first segment, the count is hi << 16 | lo */
	__u16 lo, hi;
};
#define LAT_TC_LIST_LONG 0x80000000u
enum { LAT_TC_TCP, LAT_TC_UDP, LAT_TC_OTHER, LAT_TC_LISTS };

/* Value of `lpm`; nodes that have children are rows of `data`, too. */
struct lat_tc_node {
	struct lat_tc_list lists[LAT_TC_LISTS];
	__u32 parent; /* its row, 0: none */
	__u32 above;  /* lowest rule of all parents, 0xffffffff: none */
};

#define LAT_TC_ROW 32

/* Row 0 of `data`. Counters lie in stripes, one a CPU: rule r of stripe s is row counts_at + r * stripes + s. */
struct lat_tc_meta {
	__u32 generation;
	__u32 rule_count;
	__u32 rules_at;  /* row; two rules a row, rule 0 (the default) first */
	__u32 counts_at; /* row */
	__u32 stripes;
	__u8 keep;       /* open flows of older generations go on */
	__u8 asks;       /* somebody answers for what no rule decides: lat_answers; programs of a cgroup only */
	__u16 hosts;     /* how many spans of ports; programs of a cgroup only */
	__u32 rows;
	__u32 hosts_at;  /* row of the spans, four a row */
};

/* Ports of the host's own loopback services that rules may open: to no others leads a rule of any address. */
#define LAT_TC_HOST_MOST 64
struct lat_tc_host {
	__u16 lo, hi;
	__u8 proto; /* 255: any */
	__u8 pad[3];
};

struct lat_tc_rule {
	__u8 action; /* enum lat_action */
	__u8 log;    /* 0: an allowed flow makes no event */
	__u16 err;   /* errno for a refused call, 0: ECONNREFUSED */
	__u32 rate;  /* new flows a second by this device, 0: no limit */
	__u64 window; /* the second << 32 | new flows in it; written by the programs */
};

/* Keys first..(the next one's first - 1) belong to rule; four a row. */
struct lat_tc_segment {
	__u32 first;
	__u32 rule;
};

struct lat_tc_count {
	__u64 packets, bytes;
	__u64 refill_ns; /* of the tokens for events */
	__u32 tokens;
	__u32 unused;
};

/* A box of match space of a temporary rule, or of a name rule for a pinned address. */
struct lat_tc_box {
	__u32 rule; /* temporary: with LAT_RULE_TEMPORARY */
	__u16 lo, hi;
	__u8 proto; /* 255: any */
	__u8 dir;
	__u8 action; /* temporary */
	__u8 log;    /* temporary */
};

struct lat_tc_temp {
	struct lat_tc_box box;
	__u8 addr[16]; /* IPv4 as ::ffff:a.b.c.d */
	__u8 mask[16];
	__u32 is6;
};

struct lat_tc_overlay {
	__u32 count;
	struct lat_tc_temp temps[LAT_TC_OVERLAY_MOST];
};

/* `pins`: address -> the name rules that its names match, in order. */
struct lat_tc_pin_key {
	__u8 addr[16]; /* IPv4 mapped */
	__u32 slot;
};
struct lat_tc_pin {
	__u32 count;
	__u32 bound; /* there were more than fit: rules from this number on are not known, so they deny; 0: none */
	struct lat_tc_box boxes[LAT_TC_PIN_MOST];
};

/* `flows`: one for both directions. local is the node's side of the device. */
struct lat_tc_key {
	__u32 ifindex;
	__u16 local_port, remote_port; /* network order; ICMP echo: the id, and 0 */
	__u8 local[16];
	__u8 remote[16];
	__u8 proto;
	__u8 is6;
	__u16 unused;
};

#define LAT_TC_REPLIED 1u   /* a packet came the other way */
#define LAT_TC_FIN_OUT 2u
#define LAT_TC_FIN_IN 4u
#define LAT_TC_RST 8u
#define LAT_TC_TOLD 16u     /* its end was told */
#define LAT_TC_INSIDE 32u   /* between two sockets of the cgroup, or with its resolver: never judged */

struct lat_tc_flow {
	__u32 stamp;
	__u32 generation;
	__u32 rule;
	__u32 count_row; /* of its rule, in the generation's data; 0: none */
	__u64 start_ns; /* by the kernel's ticks: for ages only */
	__u64 seen_ns;
	__u64 packets[2]; /* by direction */
	__u64 bytes[2];
	__u8 dir;         /* of its first packet */
	__u8 action;
	__u8 state;
	__u8 log;
	__u16 sport, dport; /* of its first packet, host order; icmp: 0 and the type */
};

struct lat_tc_fragment {
	__u32 ifindex;
	__u32 id;
	__u8 src[16], dst[16];
	__u8 proto;
	__u8 dir;
	__u8 is6;
	__u8 unused;
};
struct lat_tc_fragmented {
	struct lat_tc_key key;
	__u32 unused;
	__u64 until_ns;
};

enum lat_tc_stat {
	LAT_TC_STAT_PASSED,     /* packets */
	LAT_TC_STAT_DENIED,     /* by a rule or the default */
	LAT_TC_STAT_TRUNCATED,  /* a header is not all there */
	LAT_TC_STAT_ODD,        /* not IP, source routes, too many headers, wrong lengths */
	LAT_TC_STAT_FRAGMENT,   /* a later fragment without its first */
	LAT_TC_STAT_STATE,      /* an answer to nothing */
	LAT_TC_STAT_NO_POLICY,  /* nothing was in force */
	LAT_TC_STAT_NEIGHBOUR,  /* ARP and IPv6 neighbour discovery: always passed */
	LAT_TC_STAT_RELATED,    /* ICMP errors of an allowed flow: passed */
	LAT_TC_STAT_FLOWS,      /* made */
	LAT_TC_STAT_EVENTS,     /* put into the ring */
	LAT_TC_STAT_HELD,       /* events held back by their rule's rate */
	LAT_TC_STAT_FULL,       /* events lost: the ring was full */
	LAT_TC_STAT_RATE,       /* new flows beyond their rule's rate */
	/* of a cgroup */
	LAT_TC_STAT_DEVICE,     /* on another device than the one that the sockets are bound to */
	LAT_TC_STAT_INSIDE,     /* flows between sockets of the group, and with its resolver */
	LAT_TC_STAT_ANSWERED,   /* decided by an answer of lat_answers */
	LAT_TC_STAT_CONNECT_ALLOWED, /* connect(2), and sendmsg(2) with an address */
	LAT_TC_STAT_CONNECT_DENIED,
	LAT_TC_STAT_SOCKET_DENIED,   /* socket(2) */
	LAT_TC_STAT_UNIX_DENIED,     /* connect(2) to a unix socket */
	LAT_TC_STAT_COUNT
};

/* What is not yet told of lost events, and how often the reader was woken lately; per CPU. */
struct lat_tc_told {
	__u64 lost;
	__u64 since_ns;
	__u64 wakes;
};

/* So many events in so long a time may wake the reader; those beyond wait for its next look, or for the first event of the
 * next time. A wake-up costs the enforcing CPU 200 to 400 ns. */
#define LAT_TC_WAKES 16
#define LAT_TC_WAKES_NS 1000000ull

/* The pinned maps say what they are. */
struct lat_tc_config {
	__u32 abi;
	__u32 ifindex;
	__u64 netns;    /* inode */
	__u32 stripes;
	__u8 tcx;
	__u8 made_qdisc;
	__u8 pad[2];
};

/* Constants of the programs, set before they are loaded; a section of their own. */
struct lat_tc_constants {
	__u32 ether;      /* packets begin with an Ethernet header */
	__u32 stripe_mask;
	__u32 ask_mark;   /* 0: nobody asks */
	__u32 ask_word;
	__u32 event_rate; /* events a second of one rule on one CPU, 0: no limit */
	__u32 tick_ns;
	__u32 shared;     /* several CPUs use one stripe of counters */
	/* of a cgroup */
	__u32 bind;       /* device, 0: any */
	__u64 group;      /* its id */
	__u32 comm;       /* the name of a thread may be asked for: it takes CAP_PERFMON */
	__u32 dns_port;   /* network order; 0: none */
	char bind_name[16];
};

/* Whose socket it is: the value of `sockets`, which every socket of the cgroup has from its making. */
struct lat_tc_who {
	__u32 pid, uid;
	char comm[16];
};

/* `answers`: what was said when a rule (or a handler) asked. */
struct lat_tc_answer_key {
	__u8 remote[16];
	__u32 pid;    /* 0: of every process */
	__u16 port;   /* host order, 0 without ports */
	__u8 proto;
	__u8 unused;
};
struct lat_tc_answer_value {
	__u64 until_ns;   /* CLOCK_MONOTONIC */
	__u32 generation; /* which asked: of no other it is an answer */
	__u32 action;     /* enum lat_action */
};

/* A test run whose skb has this mark and cb[0] is a question: nothing is counted, kept or told, open flows are not looked
 * at, and the answer is in cb[]: rule, action, generation, enum lat_tc_stat of the reason. Both are drawn anew at each load. */
enum { LAT_TC_CB_ASK, LAT_TC_CB_RULE, LAT_TC_CB_ACTION, LAT_TC_CB_GENERATION, LAT_TC_CB_WHY };

_Static_assert(sizeof(struct lat_tc_prefix) == 24, "ABI");
_Static_assert(sizeof(struct lat_tc_node) == LAT_TC_ROW, "ABI");
_Static_assert(sizeof(struct lat_tc_meta) == LAT_TC_ROW, "ABI");
_Static_assert(sizeof(struct lat_tc_rule) * 2 == LAT_TC_ROW, "ABI");
_Static_assert(sizeof(struct lat_tc_host) * 4 == LAT_TC_ROW, "ABI");
_Static_assert(sizeof(struct lat_tc_segment) * 4 == LAT_TC_ROW, "ABI");
_Static_assert(sizeof(struct lat_tc_count) == LAT_TC_ROW, "ABI");
_Static_assert(sizeof(struct lat_tc_box) == 12, "ABI");
_Static_assert(sizeof(struct lat_tc_temp) == 48, "ABI");
_Static_assert(sizeof(struct lat_tc_pin_key) == 20, "ABI");
_Static_assert(sizeof(struct lat_tc_key) == 44, "ABI");
_Static_assert(sizeof(struct lat_tc_flow) == 72, "ABI");
_Static_assert(sizeof(struct lat_tc_fragment) == 44, "ABI");
_Static_assert(sizeof(struct lat_tc_fragmented) == 56, "ABI");
_Static_assert(sizeof(struct lat_tc_config) == 24, "ABI");
_Static_assert(sizeof(struct lat_tc_who) == 24, "ABI");
_Static_assert(sizeof(struct lat_tc_answer_key) == 24, "ABI");
_Static_assert(sizeof(struct lat_tc_answer_value) == 16, "ABI");
_Static_assert(sizeof(struct lat_tc_constants) == 64, "ABI");

#endif
