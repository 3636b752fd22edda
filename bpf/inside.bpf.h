/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
 * What the packet programs of a cgroup know beside those of a device: whose socket it is, whether the other end is a socket
 * of the same cgroup, which device it may use, and what was answered when a rule asked. For a device all this is nothing, at
 * no cost. */
#ifndef LATTICE_INSIDE_BPF_H
#define LATTICE_INSIDE_BPF_H
#include "events.bpf.h"
#include "policy.bpf.h"

#ifdef LATTICE_CGROUP

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lat_tc_answer_key);
	__type(value, struct lat_tc_answer_value);
} lat_answers SEC(".maps");

/* A route may lead a flow to another device in the middle: only lo is a place of its own. */
#define KEY_DEVICE(skb) ((skb)->ifindex == LOOPBACK ? LOOPBACK : 0)
#define IN_FRAMES(ask) 0
#define WITHOUT_POLICY 1 /* what is inside passes before the first policy, too */

static __always_inline int off_device(struct __sk_buff *skb)
{
	return lat_constants.bind && skb->ifindex != lat_constants.bind && skb->ifindex != LOOPBACK;
}

static __always_inline int is_loopback(const __u8 *a)
{
	const __u32 *w = (const __u32 *)a;

	if (w[0] || w[1])
		return 0;
	return w[2] == bpf_htonl(0xffff) ? a[12] == 127 : w[2] == 0 && w[3] == bpf_htonl(1);
}

union tuple {
	struct bpf_sock_tuple t;
	__u64 words[5]; /* whole stores: see set_wide */
};

static __always_inline __u32 make_tuple(const struct lat_tc_key *key, union tuple *t)
{
	__u32 ports = (__u32)key->local_port | (__u32)key->remote_port << 16;

	if (key->is6) {
		t->words[0] = *(const __u64 *)(key->local + 0);
		t->words[1] = *(const __u64 *)(key->local + 8);
		t->words[2] = *(const __u64 *)(key->remote + 0);
		t->words[3] = *(const __u64 *)(key->remote + 8);
		t->words[4] = ports;
		return sizeof(t->t.ipv6);
	}
	t->words[0] = PAIR(*(const __u32 *)(key->local + 12), *(const __u32 *)(key->remote + 12));
	t->words[1] = ports;
	t->words[2] = t->words[3] = t->words[4] = 0;
	return sizeof(t->t.ipv4);
}

/* Is the socket at `remote` that talks to `local` one of the cgroup? Its storage says so: no socket else has any here. ctx:
 * of any program that may look sockets up. */
#define IS_OURS(ctx, key) ({ \
	union tuple tuple_; \
	__u32 size_ = make_tuple(key, &tuple_); \
	struct bpf_sock *sk_ = (key)->proto == PROTO_TCP ? \
		bpf_sk_lookup_tcp(ctx, &tuple_.t, size_, BPF_F_CURRENT_NETNS, 0) : \
		bpf_sk_lookup_udp(ctx, &tuple_.t, size_, BPF_F_CURRENT_NETNS, 0); \
	int ours_ = 0; \
	if (sk_) { \
		ours_ = bpf_sk_storage_get(&lat_sockets, sk_, 0, 0) != 0; \
		bpf_sk_release(sk_); \
	} \
	ours_; })

static __always_inline int is_resolver(const struct lat_tc_key *key)
{
	return lat_constants.dns_port && key->remote_port == lat_constants.dns_port && !key->is6 &&
		*(const __u32 *)(key->remote + 12) == bpf_htonl(0x7f000001);
}

/* Somebody else may have the other end's port by now: a socket that went away leaves its place to whoever binds next, and
 * only a connection of TCP is over then. */
static __always_inline int may_have_changed(const struct lat_tc_flow *flow, const struct lat_tc_key *key, int begins)
{
	return (flow->state & LAT_TC_INSIDE) && (key->proto != PROTO_TCP || begins) && !is_resolver(key);
}

/* A packet of no flow: does it pass without the tables? */
__noinline int lat_inside(struct __sk_buff *skb, struct packet *p)
{
	if (!p || p->key.ifindex != LOOPBACK || (p->key.proto != PROTO_TCP && p->key.proto != PROTO_UDP))
		return 0;
	if (p->dir == DIR_OUT && is_resolver(&p->key))
		return 1;
	if (!is_loopback(p->key.local) && !is_loopback(p->key.remote))
		return 0;
	return IS_OURS(skb, &p->key);
}

/* What is written into a question is written in a call: a program that changes a word of its own stack twice is refused by 6.1
 * (cmake/Bpf.cmake). */
__noinline int lat_pass_inside(struct __sk_buff *skb, struct packet *p, struct question *q)
{
	if (!p || !q || !lat_inside(skb, p))
		return 0;
	q->inside = LAT_TC_INSIDE;
	q->action = ACTION_ALLOW;
	stat_add(LAT_TC_STAT_INSIDE);
	return 1;
}

static __always_inline int inside(struct __sk_buff *skb, struct packet *p, struct question *q)
{
	return p->key.ifindex == LOOPBACK && lat_pass_inside(skb, p, q);
}

/* What the tables leave to somebody: what he said, or ask, which is a denial. */
__noinline int lat_answered(struct question *q, __u32 port, __u32 pid)
{
	union {
		struct lat_tc_answer_key key;
		__u64 words[3];
	} k;
	struct lat_tc_answer_value *v;
	__u64 now = bpf_ktime_get_ns();

	if (!q)
		return 0;
	k.words[0] = *(__u64 *)(q->remote + 0);
	k.words[1] = *(__u64 *)(q->remote + 8);
	k.words[2] = PAIR(pid, port | q->proto << 16);
	v = pid ? bpf_map_lookup_elem(&lat_answers, &k) : 0;
	if (!v || v->until_ns <= now || v->generation != q->generation) {
		k.words[2] = PAIR(0, port | q->proto << 16);
		v = bpf_map_lookup_elem(&lat_answers, &k);
	}
	if (!v || v->until_ns <= now || v->generation != q->generation) {
		q->action = ACTION_ASK;
		return 0;
	}
	q->action = v->action == ACTION_ALLOW ? ACTION_ALLOW : ACTION_DENY;
	stat_add(LAT_TC_STAT_ANSWERED);
	return 1;
}

/* Is the port in the span with that number? One a call: without CAP_PERFMON each condition is two ways to follow. */
__noinline int lat_in_span(struct question *q, __u32 row, __u32 which)
{
	struct lat_tc_host *host;
	__u32 slot, lo, hi, proto;
	void *data;

	if (!q)
		return 0;
	slot = LAT_TC_LIVE_SLOT(q->live);
	data = bpf_map_lookup_elem(&lat_data_slots, &slot);
	host = data ? bpf_map_lookup_elem(data, &row) : 0;
	if (!host)
		return 0;
	host += which & 3;
	lo = host->lo;
	hi = host->hi;
	proto = host->proto;
	if (q->port < lo || q->port > hi)
		return 0;
	return proto == 255 || proto == q->proto;
}

__noinline int lat_in_row(struct question *q, __u32 row)
{
	if (lat_in_span(q, row, 0) || lat_in_span(q, row, 1) || lat_in_span(q, row, 2))
		return 1;
	return lat_in_span(q, row, 3);
}

/* Is it a port of the host's own loopback services that a rule names? */
__noinline int lat_is_host(struct question *q)
{
	__u32 slot, row = 0, first, rows;
	struct lat_tc_meta *meta;
	int found = 0;
	void *data;

	if (!q)
		return 0;
	slot = LAT_TC_LIVE_SLOT(q->live);
	data = bpf_map_lookup_elem(&lat_data_slots, &slot);
	meta = data ? bpf_map_lookup_elem(data, &row) : 0;
	if (!meta)
		return 0;
	first = meta->hosts_at;
	rows = (meta->hosts + 3u) / 4; /* a span that is not used is of no protocol that has ports */
#define ROW(n) if ((n) >= rows) goto end; found = lat_in_row(q, first + (n)); if (found) goto end
	ROW(0); ROW(1); ROW(2); ROW(3); ROW(4); ROW(5); ROW(6); ROW(7);
	ROW(8); ROW(9); ROW(10); ROW(11); ROW(12); ROW(13); ROW(14); ROW(15);
	_Static_assert(LAT_TC_HOST_MOST == 16 * 4, "all of them");
end:
	return found;
}

/* Rules of any address lead nobody to the host's own services by the way. */
__noinline int lat_only_hosts(struct question *q)
{
	if (!q || q->action == ACTION_DENY || q->action == ACTION_DROP || lat_is_host(q))
		return 0;
	q->rule = q->count_row = q->asks = q->rate = 0;
	q->action = ACTION_DENY;
	return 0;
}

static __always_inline int only_outside(struct packet *p)
{
	return p->dir == DIR_OUT && p->key.ifindex == LOOPBACK && is_loopback(p->key.remote);
}

/* After the tables: what they say does not open the host's own services by the way, and may be a question. */
__noinline int lat_after_judge(struct __sk_buff *skb, struct packet *p, struct question *q, __u32 dir, __u32 port)
{
	struct whose whose;

	if (!p || !q || q->no_policy)
		return 0;
	if (only_outside(p))
		lat_only_hosts(q);
	if (q->asks && dir == DIR_OUT) {
		copy_who(&whose, who_of(skb));
		lat_answered(q, port, (__u32)whose.words[0]);
	} else if (q->asks) {
		q->action = q->rule ? ACTION_ASK : q->action; /* nobody is asked of what comes in */
	}
	return 0;
}

static __always_inline void after_judge(struct __sk_buff *skb, struct packet *p, struct question *q, __u32 dir, __u32 port)
{
	lat_after_judge(skb, p, q, dir, port);
}

/* A group's sockets send and get; they pass nothing on. */
static __always_inline int lat_goes_on(struct __sk_buff *skb, struct packet *p)
{
	return 0;
}

#else
#include "neighbour.bpf.h"

#define KEY_DEVICE(skb) ((skb)->ifindex)
#define IN_FRAMES(ask) (lat_constants.ether || (ask)) /* a question comes with an Ethernet header, whatever the device has */
#define WITHOUT_POLICY 0

static __always_inline int off_device(struct __sk_buff *skb)
{
	return 0;
}

static __always_inline int inside(struct __sk_buff *skb, struct packet *p, struct question *q)
{
	return 0;
}

static __always_inline int may_have_changed(const struct lat_tc_flow *flow, const struct lat_tc_key *key, int begins)
{
	return 0;
}

static __always_inline void after_judge(struct __sk_buff *skb, struct packet *p, struct question *q, __u32 dir, __u32 port)
{
}

#endif
#endif
