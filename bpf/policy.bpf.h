/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
 * The verdict of the tables in force: temporary rules first, then the lowest of the rules of the address (longest prefix,
 * then port; see src/core/tables.c, which builds the nodes) and of the names that are pinned to it, else the default.
 * What is missing or does not fit is a denial. */
#ifndef LATTICE_POLICY_BPF_H
#define LATTICE_POLICY_BPF_H
#include "parse.bpf.h"

#define NO_RULE 0xffffffffu

#ifdef LATTICE_CGROUP
#define MOST_PINS 4096
#define MOST_TEMPS LAT_TC_OVERLAY_GROUP /* each is code that the verifier reads at every start of a command */
#else
#define MOST_PINS 16384
#define MOST_TEMPS LAT_TC_OVERLAY_MOST
#endif

enum { ACTION_DENY, ACTION_ALLOW, ACTION_DROP, ACTION_ASK, ACTION_AUDIT };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lat_live SEC(".maps");

struct lat_lpm {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(key_size, sizeof(struct lat_tc_prefix)); /* types that only inner maps name are not in the BTF */
	__uint(value_size, LAT_TC_ROW);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, LAT_TC_SLOTS + 1);
	__type(key, __u32);
	__array(values, struct lat_lpm);
} lat_lpm_slots SEC(".maps");

struct lat_data {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
	__uint(key_size, 4);
	__uint(value_size, LAT_TC_ROW);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, LAT_TC_SLOTS + 1);
	__type(key, __u32);
	__array(values, struct lat_data);
} lat_data_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LAT_TC_OVERLAYS);
	__type(key, __u32);
	__type(value, struct lat_tc_overlay);
} lat_overlays SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MOST_PINS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lat_tc_pin_key);
	__type(value, struct lat_tc_pin);
} lat_pins SEC(".maps");

struct question {
	__u64 live;
	__u8 remote[16];
	__u32 is6;
	__u32 dir;
	__u32 proto;
	__u32 port;
	/* the answer */
	__u32 rule;
	__u32 generation;
	__u32 count_row;
	__u32 rate;
	__u32 action;
	__u32 log;
	__u32 keep;
	__u32 no_policy;
	__u32 info_row;
	__u32 asks;   /* what counts is what somebody answers */
	__u32 err;
	__u32 inside; /* no table is asked: see LAT_TC_INSIDE */
	__u32 unused;
	/* while it is looked for */
	__u32 opaque;
	__u32 best;
	__u32 row;
	__u32 which;
	__u32 key;
	__u32 list_rule;
	__u32 list_lo;
	__u32 list_hi;
	__u32 above;
	__u32 list_first;
	__u32 list_count;
};

/* The number, as one that the verifier knows nothing of. Without CAP_PERFMON it wants each pointer sum to have the same
 * bounds on every way to it, which one of known numbers has not. (Loops over arrays are unrolled for the same reason.) */
static __always_inline __u32 opaque(struct question *q, __u32 n)
{
	*(volatile __u32 *)&q->opaque = n;
	return *(volatile __u32 *)&q->opaque;
}

/* The rule of the key in the list of segments that q names, 0: none, or negative: broken. Where the search is, is in q:
 * else each step doubles the ways that the verifier follows. */
__noinline int lat_list_find(struct question *q)
{
	struct lat_tc_segment *segments;
	__u32 row, slot, first, count;
	void *data;

	if (!q)
		return -1;
	slot = LAT_TC_LIVE_SLOT(q->live);
	data = bpf_map_lookup_elem(&lat_data_slots, &slot);
	if (!data)
		return -1;
	*(volatile __u32 *)&q->list_first = q->list_rule & ~LAT_TC_LIST_LONG;
	*(volatile __u32 *)&q->list_count = q->list_hi << 16 | q->list_lo;
#pragma unroll
	for (int i = 0; i < 18; i++) {
		__u32 middle;

		count = *(volatile __u32 *)&q->list_count;
		if (count <= 1)
			break;
		middle = *(volatile __u32 *)&q->list_first + count / 2;
		*(volatile __u32 *)&q->list_count = count - count / 2;
		row = middle / 4;
		segments = bpf_map_lookup_elem(data, &row);
		if (!segments)
			return -1;
		if (segments[middle & 3].first <= q->key)
			*(volatile __u32 *)&q->list_first = middle;
	}
	if (*(volatile __u32 *)&q->list_count > 1)
		return -1;
	first = *(volatile __u32 *)&q->list_first;
	row = first / 4;
	segments = bpf_map_lookup_elem(data, &row);
	return segments ? (int)segments[first & 3].rule : -1;
}

/* What q looks for in the node: into q. 0, or negative. A value of a map only: with other memory the verifier allows no sums. */
static __always_inline int take_node(struct question *q, const struct lat_tc_node *node)
{
	__u32 which = *(volatile __u32 *)&q->which;
	const struct lat_tc_list *list;

	if (which >= LAT_TC_LISTS)
		return -1;
	list = &node->lists[which];
	q->list_rule = list->rule;
	q->list_lo = list->lo;
	q->list_hi = list->hi;
	q->row = node->parent;
	q->above = node->above;
	return 0;
}

/* Takes the rule of the list in q into q->best. 1: the parent may know a lower one; 0: done; negative: broken. What the walk
 * knows is in q, where the verifier follows nothing: so each step looks to it like the one before. */
static __always_inline int node_rule(struct question *q)
{
	__u32 rule = q->list_rule;

	if (rule & LAT_TC_LIST_LONG) {
		int found = lat_list_find(q);

		if (found < 0)
			return -1;
		rule = (__u32)found;
	} else if (q->key < q->list_lo || q->key > q->list_hi) {
		rule = 0;
	}
	if (rule && rule < q->best)
		q->best = rule;
	return q->row && q->best >= q->above;
}

/* The same for the node in row q->row. */
__noinline int lat_parent_rule(struct question *q)
{
	struct lat_tc_node *node;
	__u32 slot, row;
	void *data;

	if (!q)
		return -1;
	slot = LAT_TC_LIVE_SLOT(q->live);
	row = q->row;
	data = bpf_map_lookup_elem(&lat_data_slots, &slot);
	node = data ? bpf_map_lookup_elem(data, &row) : 0;
	return node && take_node(q, node) == 0 ? node_rule(q) : -1;
}

/* At most as many parents as there are prefix lengths (129), and the root. No loop: the verifier would follow it for ever when it
 * looks at what a processor may do ahead of a branch. */
#define UP if (more <= 0) goto end; more = lat_parent_rule(q)
#define UP_11 UP; UP; UP; UP; UP; UP; UP; UP; UP; UP; UP
#define UP_44 UP_11; UP_11; UP_11; UP_11
#define UP_132 UP_44; UP_44; UP_44

/* The lowest rule of the address's prefixes, 0: none, or negative: broken. */
__noinline int lat_static(struct question *q)
{
	union {
		struct lat_tc_prefix prefix;
		__u64 words[3];
	} k;
	struct lat_tc_node *node;
	__u32 slot;
	void *lpm;
	int more;

	if (!q)
		return -1;
	slot = LAT_TC_LIVE_SLOT(q->live);
	lpm = bpf_map_lookup_elem(&lat_lpm_slots, &slot);
	if (!lpm)
		return -1;
	if (q->is6) {
		k.words[0] = PAIR(160, q->dir * 2 + 1);
		k.words[1] = *(__u64 *)(q->remote + 0);
		k.words[2] = *(__u64 *)(q->remote + 8);
	} else {
		k.words[0] = PAIR(64, q->dir * 2);
		k.words[1] = PAIR(*(__u32 *)(q->remote + 12), 0);
		k.words[2] = 0;
	}
	node = bpf_map_lookup_elem(lpm, &k);
	if (!node)
		return 0;
	q->best = NO_RULE;
	q->which = q->proto == PROTO_TCP ? LAT_TC_TCP : q->proto == PROTO_UDP ? LAT_TC_UDP : LAT_TC_OTHER;
	if (q->which == LAT_TC_OTHER)
		q->key = q->proto;
	else
		q->key = q->port;
	more = take_node(q, node) < 0 ? -1 : node_rule(q);
	UP_132;
end:
	if (more)
		return -1;
	return q->best == NO_RULE ? 0 : (int)q->best;
}

static __always_inline int in_box(const struct lat_tc_box *box, const struct question *q)
{
	if (box->dir != q->dir || (box->proto != 255 && box->proto != q->proto))
		return 0;
	if (q->proto == PROTO_TCP || q->proto == PROTO_UDP)
		return q->port >= box->lo && q->port <= box->hi;
	return box->lo == 0 && box->hi == 0xffff;
}

/* Whom the verifier reads is short: what is in it stands in each program, and is read at every start of a command. */
#define BOXES 8

/* The rule of the first of some boxes that matches, 0: none. */
__noinline int lat_boxes(struct question *q, __u32 from)
{
	struct lat_tc_pin_key key = { .slot = 0 };
	__u32 found = BOXES;
	struct lat_tc_pin *pin;
	struct lat_tc_box *boxes;

	if (!q)
		return -1;
	set_wide(key.addr, q->remote);
	key.slot = LAT_TC_LIVE_SLOT(q->live);
	pin = bpf_map_lookup_elem(&lat_pins, &key);
	if (!pin)
		return 0;
	from &= LAT_TC_PIN_MOST - BOXES;
	boxes = &pin->boxes[from];
#pragma unroll
	for (__u32 i = 0; i < BOXES; i++) {
		if (from + i >= pin->count)
			break;
		if (in_box(&boxes[i], q)) {
			found = i;
			break;
		}
	}
	found = opaque(q, found);
	return found < BOXES ? (int)boxes[found].rule : 0;
}

/* The lowest rule of the names that are pinned to the address, 0: none, or negative: not known. */
__noinline int lat_named(struct question *q)
{
	struct lat_tc_pin_key key = { .slot = 0 };
	struct lat_tc_pin *pin;
	__u32 count, bound;
	int found = 0;

	if (!q)
		return -1;
	set_wide(key.addr, q->remote);
	key.slot = LAT_TC_LIVE_SLOT(q->live);
	pin = bpf_map_lookup_elem(&lat_pins, &key);
	if (!pin)
		return 0;
	count = pin->count;
	bound = pin->bound;
#define SOME(n) if ((n) * BOXES >= count) goto end; found = lat_boxes(q, (n) * BOXES); if (found) goto end
	SOME(0); SOME(1); SOME(2); SOME(3); SOME(4); SOME(5); SOME(6); SOME(7);
	_Static_assert(LAT_TC_PIN_MOST == 8 * BOXES, "all of them");
end:
	return found || !bound ? found : -1;
}

/* The first temporary rule that matches; sets the answer. 1: found. */
__noinline int lat_temporary(struct question *q)
{
	__u32 found = MOST_TEMPS, row;
	struct lat_tc_overlay *overlay;

	if (!q)
		return 0;
	row = LAT_TC_LIVE_OVERLAY(q->live);
	overlay = bpf_map_lookup_elem(&lat_overlays, &row);
	if (!overlay)
		return 0;
#pragma unroll
	for (__u32 i = 0; i < MOST_TEMPS; i++) {
		const struct lat_tc_temp *t = &overlay->temps[i];
		const __u32 *r = (__u32 *)q->remote, *a = (__u32 *)t->addr, *m = (__u32 *)t->mask;

		if (i >= overlay->count)
			break;
		if (t->is6 != q->is6 || ((r[0] & m[0]) ^ a[0]) || ((r[1] & m[1]) ^ a[1]) ||
			((r[2] & m[2]) ^ a[2]) || ((r[3] & m[3]) ^ a[3]) || !in_box(&t->box, q))
			continue;
		found = i;
		break;
	}
	found = opaque(q, found);
	if (found >= MOST_TEMPS)
		return 0;
	q->rule = overlay->temps[found].box.rule;
	q->action = overlay->temps[found].box.action;
	q->log = overlay->temps[found].box.log;
	q->count_row = 0;
	return 1;
}

/* Judges the flow of key by the tables in force, as one of direction dir to the given port: fills q. Zeroes in its answer are
 * a denial by nobody. */
__noinline int lat_judge(struct question *q, struct lat_tc_key *key, __u32 dir, __u32 port)
{
	__u32 slot, row = 0, rule;
	struct lat_tc_meta *meta;
	struct lat_tc_rule *info;
	int by_prefix, by_name = 0;
	void *data;

	if (!q || !key)
		return -1;
	set_v6(q->remote, (__u32 *)key->remote);
	q->is6 = key->is6;
	q->dir = dir;
	q->proto = key->proto;
	q->port = port;
	q->rule = q->generation = q->count_row = q->rate = q->log = q->keep = q->asks = q->err = 0;
	q->action = ACTION_DENY;
	q->no_policy = 1;
	slot = LAT_TC_LIVE_SLOT(q->live);
	data = slot ? bpf_map_lookup_elem(&lat_data_slots, &slot) : 0;
	meta = data ? bpf_map_lookup_elem(data, &row) : 0;
	if (!meta)
		return -1;
	q->generation = meta->generation;
	q->keep = meta->keep;
	if (LAT_TC_LIVE_OVERLAY(q->live) && lat_temporary(q)) {
		q->no_policy = 0;
		return 0;
	}
	by_prefix = lat_static(q);
	if (LAT_TC_LIVE_PINS(q->live))
		by_name = lat_named(q);
	if (by_prefix < 0 || by_name < 0)
		return -1;
	rule = (__u32)by_prefix;
	if (by_name && (!rule || (__u32)by_name < rule))
		rule = (__u32)by_name;
	if (rule > meta->rule_count)
		return -1;
	row = meta->rules_at + rule / 2;
	info = bpf_map_lookup_elem(data, &row);
	if (!info)
		return -1;
	info += rule & 1;
	q->rule = rule;
	q->action = info->action;
	q->log = info->log;
	q->err = info->err;
	q->asks = info->action == ACTION_ASK || (!rule && meta->asks);
	q->rate = info->rate;
	q->info_row = row;
	q->count_row = meta->counts_at + rule * meta->stripes;
	q->no_policy = 0;
	return 0;
}

#endif
