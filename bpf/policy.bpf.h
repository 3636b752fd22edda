/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
 * The verdict of the tables in force: temporary rules first, then the lowest of the rules of the address (longest prefix,
 * then port; see src/core/tables.c, which builds the nodes) and of the names that are pinned to it, else the default.
 * What is missing or does not fit is a denial. */
#ifndef LATTICE_POLICY_BPF_H
#define LATTICE_POLICY_BPF_H
#include "parse.bpf.h"

#define NO_RULE 0xffffffffu
#define MOST_PARENTS 132

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
	__uint(max_entries, 16384);
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
};

/* The rule of the key in a list of segments, 0: none, or negative: broken. */
__noinline int lat_list_find(__u32 slot, __u32 first, __u32 count, __u32 key)
{
	void *data = bpf_map_lookup_elem(&lat_data_slots, &slot);
	struct lat_tc_segment *segments;
	__u32 row;

	if (!data)
		return -1;
	for (int i = 0; i < 18 && count > 1; i++) {
		__u32 half = count / 2;

		row = (first + half) / 4;
		segments = bpf_map_lookup_elem(data, &row);
		if (!segments)
			return -1;
		if (segments[(first + half) & 3].first <= key)
			first += half;
		count -= half;
	}
	if (count > 1)
		return -1;
	row = first / 4;
	segments = bpf_map_lookup_elem(data, &row);
	return segments ? (int)segments[first & 3].rule : -1;
}

static __always_inline int list_of(__u32 proto)
{
	return proto == PROTO_TCP ? LAT_TC_TCP : proto == PROTO_UDP ? LAT_TC_UDP : LAT_TC_OTHER;
}

/* The lowest rule of the address's prefixes, 0: none, or negative: broken. */
__noinline int lat_static(struct question *q)
{
	struct lat_tc_prefix prefix = { .len = 64 };
	__u32 slot, best = NO_RULE, key, which;
	struct lat_tc_node *node;
	void *lpm, *data;

	if (!q)
		return -1;
	slot = LAT_TC_LIVE_SLOT(q->live);
	lpm = bpf_map_lookup_elem(&lat_lpm_slots, &slot);
	data = bpf_map_lookup_elem(&lat_data_slots, &slot);
	if (!lpm || !data)
		return -1;
	prefix.tree = q->dir * 2 + (q->is6 ? 1 : 0);
	if (q->is6) {
		prefix.len = 160;
		set_v6((__u8 *)prefix.addr, (__u32 *)q->remote);
	} else {
		prefix.addr[0] = *(__u32 *)(q->remote + 12);
	}
	node = bpf_map_lookup_elem(lpm, &prefix);
	if (!node)
		return 0;
	which = (__u32)list_of(q->proto);
	key = which == LAT_TC_OTHER ? q->proto : q->port;
	for (int i = 0; i < MOST_PARENTS; i++) {
		struct lat_tc_list *list = &node->lists[which < LAT_TC_LISTS ? which : LAT_TC_OTHER];
		__u32 rule = list->rule, parent;

		if (rule & LAT_TC_LIST_LONG) {
			int found = lat_list_find(slot, rule & ~LAT_TC_LIST_LONG, (__u32)list->hi << 16 | list->lo, key);

			if (found < 0)
				return -1;
			rule = (__u32)found;
		} else if (key < list->lo || key > list->hi) {
			rule = 0;
		}
		if (rule && rule < best)
			best = rule;
		parent = node->parent;
		if (!parent || best < node->above)
			return best == NO_RULE ? 0 : (int)best;
		node = bpf_map_lookup_elem(data, &parent);
		if (!node)
			return -1;
	}
	return -1;
}

static __always_inline int in_box(const struct lat_tc_box *box, const struct question *q)
{
	if (box->dir != q->dir || (box->proto != 255 && box->proto != q->proto))
		return 0;
	if (q->proto == PROTO_TCP || q->proto == PROTO_UDP)
		return q->port >= box->lo && q->port <= box->hi;
	return box->lo == 0 && box->hi == 0xffff;
}

/* The lowest rule of the names that are pinned to the address, 0: none, or negative: not known. */
__noinline int lat_named(struct question *q)
{
	struct lat_tc_pin_key key = { .slot = 0 };
	struct lat_tc_pin *pin;

	if (!q)
		return -1;
	set_v6(key.addr, (__u32 *)q->remote);
	key.slot = LAT_TC_LIVE_SLOT(q->live);
	pin = bpf_map_lookup_elem(&lat_pins, &key);
	if (!pin)
		return 0;
	for (__u32 i = 0; i < LAT_TC_PIN_MOST; i++) {
		if (i >= pin->count)
			break;
		if (in_box(&pin->boxes[i], q))
			return (int)pin->boxes[i].rule;
	}
	return pin->bound ? -1 : 0;
}

/* The first temporary rule that matches; sets the answer. 1: found. */
__noinline int lat_temporary(struct question *q)
{
	struct lat_tc_overlay *overlay;
	__u32 row;

	if (!q)
		return 0;
	row = LAT_TC_LIVE_OVERLAY(q->live);
	overlay = bpf_map_lookup_elem(&lat_overlays, &row);
	if (!overlay)
		return 0;
	for (__u32 i = 0; i < LAT_TC_OVERLAY_MOST; i++) {
		struct lat_tc_temp *t = &overlay->temps[i];
		__u32 *a = (__u32 *)t->addr, *m = (__u32 *)t->mask, *r = (__u32 *)q->remote;

		if (i >= overlay->count)
			break;
		if (t->is6 != q->is6 || ((r[0] & m[0]) ^ a[0]) || ((r[1] & m[1]) ^ a[1]) ||
			((r[2] & m[2]) ^ a[2]) || ((r[3] & m[3]) ^ a[3]) || !in_box(&t->box, q))
			continue;
		q->rule = t->box.rule;
		q->action = t->box.action;
		q->log = t->box.log;
		q->count_row = 0;
		return 1;
	}
	return 0;
}

/* Fills the answer of q. Zeroes in it are a denial by nobody. */
__noinline int lat_judge(struct question *q)
{
	__u32 slot, row = 0, rule;
	struct lat_tc_meta *meta;
	struct lat_tc_rule *info;
	int by_prefix, by_name = 0;
	void *data;

	if (!q)
		return -1;
	q->rule = q->generation = q->count_row = q->rate = q->log = q->keep = 0;
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
	q->rate = info->rate;
	q->count_row = meta->counts_at + rule * meta->stripes;
	q->no_policy = 0;
	return 0;
}

#endif
