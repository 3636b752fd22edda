/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
 * A packet and the flow table: what is known goes by its flow, what is not is judged by the tables in force (policy.bpf.h),
 * in its own direction, and what may pass makes a flow. A flow that was judged by other tables than those in force is judged
 * again in the direction of its first packet; if it is denied now, it stays in the table as a denied one, so that no later
 * packet of it, in whichever direction, is taken for the beginning of another.
 *
 * For the packet programs of a device (tc.bpf.c) and, with LATTICE_CGROUP, for those of a cgroup (cgroup.bpf.c), which say
 * in inside.bpf.h what differs. */
#ifndef LATTICE_FLOW_BPF_H
#define LATTICE_FLOW_BPF_H
#include "events.bpf.h"
#include "policy.bpf.h"
#include "inside.bpf.h"

#define PASS -1 /* TCX_NEXT, TC_ACT_UNSPEC: whoever comes next decides */
#define DROP 2  /* TCX_DROP, TC_ACT_SHOT */

/* ---- flows ---- */

static __always_inline int passes(__u32 action)
{
	return action == ACTION_ALLOW || action == ACTION_AUDIT;
}

/* How long a flow lives without a packet. */
static __always_inline __u64 patience(const struct lat_tc_flow *flow, __u8 proto)
{
	__u8 ends = flow->state & (LAT_TC_FIN_OUT | LAT_TC_FIN_IN);

	if (!passes(flow->action))
		return 120 * SECOND;
	if (proto == PROTO_TCP) {
		if (flow->state & LAT_TC_RST)
			return 10 * SECOND;
		if (ends == (LAT_TC_FIN_OUT | LAT_TC_FIN_IN))
			return 60 * SECOND;
		if (ends)
			return 3600 * SECOND;
		return flow->state & LAT_TC_REPLIED ? 432000 * SECOND : 120 * SECOND;
	}
	if (proto == PROTO_UDP)
		return flow->state & LAT_TC_REPLIED ? 180 * SECOND : 30 * SECOND;
	return proto == PROTO_ICMP || proto == PROTO_ICMPV6 ? 30 * SECOND : 600 * SECOND;
}

static __always_inline int has_ended(const struct lat_tc_flow *flow)
{
	return (flow->state & LAT_TC_RST) ||
		(flow->state & (LAT_TC_FIN_OUT | LAT_TC_FIN_IN)) == (LAT_TC_FIN_OUT | LAT_TC_FIN_IN);
}

static __always_inline void count(__u64 live, __u32 row, __u32 bytes)
{
	struct lat_tc_count *c = row ? count_of(live, row) : 0;

	if (!c)
		return;
	if (lat_constants.shared) {
		__sync_fetch_and_add(&c->packets, 1);
		__sync_fetch_and_add(&c->bytes, bytes);
	} else { /* ours alone: neither hook is interrupted by the other on one CPU */
		c->packets++;
		c->bytes += bytes;
	}
}

/* The flow was judged by other tables: once more. The state of a kept one stays as it was. */
static __always_inline void judge_again(struct __sk_buff *skb, struct packet *p, struct lat_tc_flow *flow,
	struct question *q)
{
	__u32 port = p->key.proto == PROTO_TCP || p->key.proto == PROTO_UDP ? flow->dport : 0;

	if (flow->state & LAT_TC_INSIDE) {
		flow->stamp = LAT_TC_LIVE_STAMP(q->live);
		return;
	}
	lat_judge(q, &p->key, flow->dir, port);
	if (q->asks && passes(flow->action) && flow->generation == q->generation) { /* what was answered holds */
		flow->stamp = LAT_TC_LIVE_STAMP(q->live);
		return;
	}
	after_judge(skb, p, q, flow->dir, port);
	if (q->keep && passes(flow->action) && flow->generation != q->generation) {
		flow->count_row = 0;
	} else {
		flow->rule = q->rule;
		flow->generation = q->generation;
		flow->count_row = q->count_row;
		flow->action = (__u8)q->action;
		flow->log = (__u8)q->log;
	}
	flow->stamp = LAT_TC_LIVE_STAMP(q->live);
}

static __always_inline void note_end(struct __sk_buff *skb, struct packet *p, struct lat_tc_flow *flow)
{
	if (p->flags & TCP_RST)
		flow->state |= LAT_TC_RST;
	else
		flow->state &= (__u8)~LAT_TC_RST; /* it goes on: the RST was none */
	if (p->flags & TCP_FIN)
		flow->state |= p->dir == DIR_OUT ? LAT_TC_FIN_OUT : LAT_TC_FIN_IN;
	if (has_ended(flow) && !(flow->state & LAT_TC_TOLD)) {
		flow->state |= LAT_TC_TOLD;
		if (flow->log)
			lat_tell_close(skb, p, flow);
	}
}

/* A packet of a flow that is denied. */
__noinline int lat_tell_denied(struct __sk_buff *skb, struct packet *p, struct question *q, struct lat_tc_flow *flow)
{
	if (!p || !q || !flow)
		return 0;
	q->rule = flow->rule;
	q->generation = flow->generation;
	q->count_row = flow->count_row;
	q->action = flow->action;
	return lat_tell(skb, p, q, flow->dir);
}

/* A packet of a flow that the table has. NOT_OF_IT: the flow is denied now, and this packet goes the other way: where
 * nothing tells a beginning from an answer it is one of its own. */
#define NOT_OF_IT 100
static __always_inline int known(struct __sk_buff *skb, struct packet *p, struct lat_tc_flow *flow,
	struct question *q, __u64 now)
{
	__u32 dir = p->dir & 1;

	if (flow->stamp != LAT_TC_LIVE_STAMP(q->live))
		judge_again(skb, p, flow, q);
	if (!passes(flow->action) && p->key.proto != PROTO_TCP && dir != flow->dir)
		return NOT_OF_IT;
	flow->seen_ns = now;
	count(q->live, flow->count_row, skb->len);
	if (!passes(flow->action)) {
		lat_tell_denied(skb, p, q, flow);
		stat_add(LAT_TC_STAT_DENIED);
		return DROP;
	}
	flow->packets[dir]++;
	flow->bytes[dir] += skb->len;
	if (dir != flow->dir)
		flow->state |= LAT_TC_REPLIED;
	if (p->key.proto == PROTO_TCP)
		note_end(skb, p, flow);
	return PASS;
}

/* A key on the stack, written in whole words: see set_wide. */
union key_words {
	struct lat_tc_key key;
	__u64 words[6];
};

static __always_inline void copy_key(union key_words *to, const struct lat_tc_key *key)
{
	const __u64 *from = (const __u64 *)key;

	for (int i = 0; i < 5; i++)
		to->words[i] = from[i];
	to->words[5] = *(const __u32 *)(from + 5);
}

/* In a frame of its own: the stack of a program and all it calls is 512 bytes. */
__noinline int lat_make_flow(struct __sk_buff *skb, struct packet *p, struct question *q, __u64 now)
{
	union {
		struct lat_tc_flow flow;
		__u64 words[sizeof(struct lat_tc_flow) / 8];
	} f;
	union key_words k; /* 6.1 takes no key from a caller's memory */
	int in = p && p->dir != DIR_OUT;

	if (!p || !q)
		return -1;
	copy_key(&k, &p->key);
	f.words[0] = PAIR(LAT_TC_LIVE_STAMP(q->live), q->generation);
	f.words[1] = PAIR(q->rule, q->count_row);
	f.flow.start_ns = f.flow.seen_ns = now;
	f.flow.packets[DIR_OUT] = in ? 0 : 1;
	f.flow.packets[DIR_IN] = in ? 1 : 0;
	f.flow.bytes[DIR_OUT] = in ? 0 : skb->len;
	f.flow.bytes[DIR_IN] = in ? skb->len : 0;
	f.words[8] = PAIR((__u32)p->dir | (q->action & 0xff) << 8 | (q->inside & 0xff) << 16 | (q->log & 0xff) << 24,
		(__u32)p->sport | (__u32)p->dport << 16);
	if (bpf_map_update_elem(&lat_flows, &k, &f, BPF_ANY) == 0)
		stat_add(LAT_TC_STAT_FLOWS);
	return 0;
}

/* Atomics that return what was there: kernels have them, -mcpu=v2 (cmake/Bpf.cmake says why) does not. */
static __always_inline __u64 fetch_add(__u64 *at, __u64 n)
{
	register __u64 *to asm("r1") = at;
	register __u64 value asm("r2") = n;

	asm volatile(".byte 0xdb, 0x21, 0, 0, 0x01, 0, 0, 0" : "+r"(value) : "r"(to) : "memory");
	return value;
}

static __always_inline __u64 compare_exchange(__u64 *at, __u64 was, __u64 next)
{
	register __u64 *to asm("r1") = at;
	register __u64 value asm("r2") = next;
	register __u64 found asm("r0") = was;

	asm volatile(".byte 0xdb, 0x21, 0, 0, 0xf1, 0, 0, 0" : "+r"(found) : "r"(to), "r"(value) : "memory");
	return found;
}

/* May the rule let one more new flow pass in this second? */
__noinline int lat_within_rate(struct question *q, __u64 now)
{
	struct lat_tc_rule *info;
	__u64 second, word;
	__u32 slot, row;
	void *data;

	if (!q)
		return 0;
	slot = LAT_TC_LIVE_SLOT(q->live);
	row = q->info_row;
	data = bpf_map_lookup_elem(&lat_data_slots, &slot);
	info = data ? bpf_map_lookup_elem(data, &row) : 0;
	if (!info)
		return 0;
	info += q->rule & 1;
	second = now / SECOND << 32;
	word = *(volatile __u64 *)&info->window;
	if ((word ^ second) >> 32 && compare_exchange(&info->window, word, second | 1) == word)
		return 1;
	return (__u32)fetch_add(&info->window, 1) < q->rate;
}

/* A packet of no flow: by the tables, in its own direction. other_way: there is a flow, and this is not of it. */
static __always_inline int unknown(struct __sk_buff *skb, struct packet *p, struct question *q, __u64 now,
	int other_way)
{
	if (inside(skb, p, q)) {
		lat_make_flow(skb, p, q, now);
		return PASS;
	}
	lat_judge(q, &p->key, p->dir, p->port);
	if (q->no_policy) {
		stat_add(LAT_TC_STAT_NO_POLICY);
		return DROP;
	}
	after_judge(skb, p, q, p->dir, p->port);
	count(q->live, q->count_row, skb->len);
	if (!passes(q->action)) {
		lat_tell(skb, p, q, p->dir);
		stat_add(LAT_TC_STAT_DENIED);
		return DROP;
	}
	if (q->rate && !lat_within_rate(q, now)) {
		q->action = ACTION_DENY;
		lat_tell(skb, p, q, p->dir);
		stat_add(LAT_TC_STAT_RATE);
		return DROP;
	}
	if (q->log)
		lat_tell(skb, p, q, p->dir);
	if (!p->untracked && !p->answers && !other_way)
		lat_make_flow(skb, p, q, now);
	return PASS;
}

/* In whole stores: see set_wide. */
union fragment_key {
	struct lat_tc_fragment key;
	struct {
		__u64 first, addresses[4];
		__u32 last;
	};
};

static __always_inline void fragment_key(const struct packet *p, union fragment_key *k)
{
	struct lat_tc_fragment *key = &k->key;

	k->first = PAIR(p->key.ifindex, p->fragment_id);
	set_wide(key->src, p->key.local);
	set_wide(key->dst, p->key.remote);
	k->last = (__u32)p->key.is6 << 16 | (__u32)p->dir << 8 | (p->key.is6 ? 0 : p->key.proto);
}

/* Fragments after this one go the way it went. */
__noinline int lat_remember(struct packet *p, __u64 now)
{
	union fragment_key key;
	union {
		struct lat_tc_fragmented value;
		union key_words flow;
	} v;

	if (!p)
		return -1;
	fragment_key(p, &key);
	copy_key(&v.flow, &p->key);
	v.value.until_ns = now + 30 * SECOND;
	return (int)bpf_map_update_elem(&lat_fragments, &key, &v, BPF_ANY);
}

/* Makes the key of a later fragment that of its flow, if its first fragment passed: 1. */
__noinline int lat_remembered(struct packet *p, __u64 now)
{
	union fragment_key key;
	struct lat_tc_fragmented *first;

	if (!p)
		return 0;
	fragment_key(p, &key);
	first = bpf_map_lookup_elem(&lat_fragments, &key);
	if (!first || first->until_ns <= now)
		return 0;
	__builtin_memcpy(&p->key, &first->key, sizeof(p->key));
	return 1;
}

/* A later fragment: as its flow. */
static __always_inline int later(struct __sk_buff *skb, struct packet *p, struct question *q, __u64 now)
{
	struct lat_tc_flow *flow = lat_remembered(p, now) ? bpf_map_lookup_elem(&lat_flows, &p->key) : 0;

	int verdict = flow ? known(skb, p, flow, q, now) : NOT_OF_IT;

	if (verdict != NOT_OF_IT)
		return verdict;
	stat_add(LAT_TC_STAT_FRAGMENT);
	return DROP;
}

/* An ICMP error passes if the flow that it is about may; else it is judged as any packet. */
static __always_inline int related(struct packet *p, struct question *q, __u64 now)
{
	struct lat_tc_flow *flow = bpf_map_lookup_elem(&lat_flows, &p->quote);

	if (!flow || !passes(flow->action) || now - flow->seen_ns > patience(flow, p->quote.proto))
		return 0;
	if (flow->stamp == LAT_TC_LIVE_STAMP(q->live))
		return 1;
	lat_judge(q, &p->quote, flow->dir, p->quote.proto == PROTO_TCP || p->quote.proto == PROTO_UDP ? flow->dport : 0);
	return passes(q->action) || (q->keep && flow->generation != q->generation);
}

/* ---- the programs ---- */

/* A question instead of a packet: see tc_abi.h. */
__noinline int lat_answer(struct __sk_buff *skb, struct packet *p, struct question *q, int kind)
{
	__u32 why = LAT_TC_STAT_PASSED;
	int verdict = PASS;

	if (!p || !q)
		return DROP;
	q->action = ACTION_DENY;
	if (kind < 0) {
		why = (__u32)-kind;
		verdict = DROP;
	} else if (kind == IS_NEIGHBOUR) {
		q->action = ACTION_ALLOW;
		why = LAT_TC_STAT_NEIGHBOUR;
	} else {
		lat_judge(q, &p->key, p->dir, p->port);
		if (q->no_policy)
			why = LAT_TC_STAT_NO_POLICY;
		else if (!passes(q->action))
			why = LAT_TC_STAT_DENIED;
		verdict = passes(q->action) ? PASS : DROP;
	}
	skb->cb[LAT_TC_CB_RULE] = q->rule;
	skb->cb[LAT_TC_CB_ACTION] = q->action;
	skb->cb[LAT_TC_CB_GENERATION] = q->generation;
	skb->cb[LAT_TC_CB_WHY] = why;
	return verdict;
}

static __always_inline int by_flow(struct __sk_buff *skb, struct packet *p, struct question *q, __u64 now)
{
	struct lat_tc_flow *flow = p->untracked ? 0 : bpf_map_lookup_elem(&lat_flows, &p->key);
	int other_way = 0, verdict;

	if (flow && may_have_changed(flow, &p->key, p->begins))
		flow = 0;
	if (flow && now - flow->seen_ns <= patience(flow, p->key.proto)) {
		if (!p->begins || (p->dir == flow->dir && !has_ended(flow) && passes(flow->action))) {
			verdict = known(skb, p, flow, q, now);
			if (verdict != NOT_OF_IT)
				return verdict;
		}
		other_way = p->dir != flow->dir && !has_ended(flow) && passes(flow->action);
	}
	return unknown(skb, p, q, now, other_way);
}

/* What nearly all packets are: one in the middle of an open flow that the tables in force have judged. 0: the long way.
 * No calls of our own here, and nothing is written that is not looked at: this is what a packet costs. */
static __always_inline int open_flow(struct __sk_buff *skb, struct lat_tc_key *key, int dir, __u64 live, __u64 now)
{
	struct lat_tc_flow *flow;
	__u8 flags;

	if (!plain_key(skb, key, dir, lat_constants.ether, &flags) || (flags & (TCP_SYN | TCP_FIN | TCP_RST)))
		return 0;
	key->ifindex = KEY_DEVICE(skb);
	flow = bpf_map_lookup_elem(&lat_flows, key);
	if (!flow || flow->stamp != LAT_TC_LIVE_STAMP(live) || !passes(flow->action) || (flow->state & LAT_TC_RST) ||
		now - flow->seen_ns > patience(flow, key->proto) || may_have_changed(flow, key, 0))
		return 0;
	flow->seen_ns = now;
	count(live, flow->count_row, skb->len);
	flow->packets[dir]++;
	flow->bytes[dir] += skb->len;
	if (dir != flow->dir)
		flow->state |= LAT_TC_REPLIED;
	stat_add(LAT_TC_STAT_PASSED);
	return 1;
}

static __always_inline int guard(struct __sk_buff *skb, int dir)
{
	struct packet p __attribute__((aligned(8))); /* cleared by whole words: see set_wide */
	struct question q;
	int ask = lat_constants.ask_mark && skb->mark == lat_constants.ask_mark && skb->cb[LAT_TC_CB_ASK] == lat_constants.ask_word;
	__u32 zero = 0;
	__u64 *live = bpf_map_lookup_elem(&lat_live, &zero), word = live ? *(volatile __u64 *)live : 0, now;
	int kind, verdict;

	now = ticks();
	if (!ask && !off_device(skb) && open_flow(skb, &p.key, dir, word, now))
		return PASS;
	__builtin_memset(&p, 0, sizeof(p)); /* and what the short way wrote */
	__builtin_memset(&q, 0, sizeof(q));
	p.dir = (__u8)dir;
	p.key.ifindex = KEY_DEVICE(skb);
	kind = lat_parse(skb, &p, IN_FRAMES(ask));
	q.live = word;
	p.quote.is6 = p.key.is6;
	if (ask)
		return lat_answer(skb, &p, &q, kind);
	if (kind == IS_NEIGHBOUR && lat_goes_on(skb, &p))
		kind = IS_FLOW;
	if (kind == IS_NEIGHBOUR) {
		stat_add(LAT_TC_STAT_NEIGHBOUR);
		return PASS;
	}
	if (kind < 0) {
		stat_add((__u32)-kind);
		return DROP;
	}
	if (off_device(skb)) {
		lat_tell(skb, &p, &q, dir);
		stat_add(LAT_TC_STAT_DEVICE);
		return DROP;
	}
	if (!LAT_TC_LIVE_SLOT(q.live) && !WITHOUT_POLICY) {
		stat_add(LAT_TC_STAT_NO_POLICY);
		return DROP;
	}
	if (kind == IS_LATER) {
		verdict = later(skb, &p, &q, now);
	} else if (kind == IS_ERROR && related(&p, &q, now)) {
		stat_add(LAT_TC_STAT_RELATED);
		return PASS;
	} else {
		verdict = by_flow(skb, &p, &q, now);
	}
	if (verdict == PASS) {
		stat_add(LAT_TC_STAT_PASSED);
		if (p.first)
			lat_remember(&p, now);
	}
	return verdict;
}

#endif
