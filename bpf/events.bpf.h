/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
 * What the tc programs keep beside the policy (flows, fragments, counts), and what they tell user space: the event ring. */
#ifndef LATTICE_EVENTS_BPF_H
#define LATTICE_EVENTS_BPF_H
#include "parse.bpf.h"
#include "policy.bpf.h"

#define SECOND 1000000000ull
#define LOOPBACK 1 /* of every network namespace */

#ifdef LATTICE_CGROUP /* there may be hundreds of them */
#define WAKES 1 /* nobody waits for their events: records and notices can do with the next millisecond, or the next tick */
#define MOST_FLOWS 8192
#define MOST_FRAGMENTS 256
#define RING_BYTES (256 << 10)
#else
#define WAKES LAT_TC_WAKES
#define MOST_FLOWS 262144
#define MOST_FRAGMENTS 8192
#define RING_BYTES (4 << 20)
#endif

const volatile struct lat_tc_constants lat_constants SEC(".rodata.tc");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MOST_FLOWS);
	__type(key, struct lat_tc_key);
	__type(value, struct lat_tc_flow);
} lat_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MOST_FRAGMENTS);
	__type(key, struct lat_tc_fragment);
	__type(value, struct lat_tc_fragmented);
} lat_fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LAT_TC_STAT_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} lat_stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lat_tc_told);
} lat_told SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} lat_events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lat_tc_config);
} lat_config SEC(".maps");

/* The time for ages: a load, where asking the clock is a fifth of what a packet costs. */
static __always_inline __u64 ticks(void)
{
	return bpf_jiffies64() * lat_constants.tick_ns;
}

static __always_inline void stat_add(__u32 stat)
{
	__u64 key = stat; /* a whole store: see set_wide */
	__u64 *n = bpf_map_lookup_elem(&lat_stats, &key);

	if (n)
		*n += 1;
}

/* ---- whose socket ---- */

#ifdef LATTICE_CGROUP
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct lat_tc_who);
} lat_sockets SEC(".maps");

static __always_inline struct lat_tc_who *who_of(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk)
		sk = bpf_sk_fullsock(sk);
	return sk ? bpf_sk_storage_get(&lat_sockets, sk, 0, 0) : 0;
}
#else
static __always_inline struct lat_tc_who *who_of(struct __sk_buff *skb)
{
	return 0;
}
#endif

/* ---- events ---- */

static __always_inline void send(struct lat_event *e, struct lat_tc_told *told, __u64 now)
{
	if (now - told->since_ns > LAT_TC_WAKES_NS) {
		told->since_ns = now;
		told->wakes = 0;
	}
	/* By itself the ring wakes only who has read all before this event: forced, for there may be some without a wake-up. */
	bpf_ringbuf_submit(e, told->wakes == 0 ? BPF_RB_FORCE_WAKEUP : told->wakes < WAKES ? 0 : BPF_RB_NO_WAKEUP);
	told->wakes++;
	stat_add(LAT_TC_STAT_EVENTS);
}

/* Room for one event, behind one that tells of those lost before it. NULL: there is none, and it is counted. */
static __always_inline struct lat_event *event_begin(struct lat_tc_told *told, __u64 now)
{
	struct lat_event *e;

	if (told->lost) {
		e = bpf_ringbuf_reserve(&lat_events, sizeof(*e), 0);
		if (e) {
			__builtin_memset(e, 0, sizeof(*e));
			e->time_ns = now;
			e->kind = LAT_EVENT_LOSS;
			e->packets = told->lost;
			told->lost = 0;
			send(e, told, now);
		}
	}
	e = bpf_ringbuf_reserve(&lat_events, sizeof(*e), 0);
	if (!e) {
		told->lost++;
		stat_add(LAT_TC_STAT_FULL);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time_ns = now;
	return e;
}

/* The counters of a rule on this CPU. */
static __always_inline struct lat_tc_count *count_of(__u64 live, __u32 row)
{
	__u64 key = LAT_TC_LIVE_SLOT(live);
	void *data = bpf_map_lookup_elem(&lat_data_slots, &key);

	key = row + (bpf_get_smp_processor_id() & lat_constants.stripe_mask);
	return data ? bpf_map_lookup_elem(data, &key) : 0;
}

/* May the rule make one more event now? */
static __always_inline int has_token(struct lat_tc_count *count, __u64 now)
{
	__u64 since;

	if (!lat_constants.event_rate || !count)
		return 1;
	since = now - count->refill_ns;
	if (since >= SECOND) {
		count->refill_ns = now;
		count->tokens = lat_constants.event_rate;
	}
	if (!count->tokens)
		return 0;
	count->tokens--;
	return 1;
}

/* Whose socket it is, as words of our own: what the storage gave is looked at once and at once, or 6.1 forgets on the stack
 * that it was a pointer. */
struct whose {
	__u64 words[3];
};
_Static_assert(sizeof(struct whose) == sizeof(struct lat_tc_who), "the same");
_Static_assert(__builtin_offsetof(struct lat_event, pid) == 96 && sizeof(struct lat_event) == 120, "words");

static __always_inline void copy_who(struct whose *to, const struct lat_tc_who *who)
{
	to->words[0] = to->words[1] = to->words[2] = 0;
	if (!who)
		return;
	to->words[0] = ((const volatile __u64 *)who)[0];
	to->words[1] = ((const volatile __u64 *)who)[1];
	to->words[2] = ((const volatile __u64 *)who)[2];
}

static __always_inline void set_who(struct lat_event *e, const struct whose *whose)
{
	((__u64 *)e)[12] = whose->words[0];
	((__u64 *)e)[13] = whose->words[1];
	((__u64 *)e)[14] = whose->words[2];
}

/* sport and dport are those of the flow's first packet. */
static __always_inline void tell(struct packet *p, struct question *q, __u32 dir, __u32 device, __u32 length,
	const struct whose *whose)
{
	__u32 zero = 0;
	struct lat_tc_told *told = bpf_map_lookup_elem(&lat_told, &zero);
	struct lat_event *e;
	__u16 sport, dport;
	__u64 now;

	if (!told || !p || !q)
		return;
	sport = *(volatile __u16 *)&p->sport; /* values to choose from: of addresses the verifier allows no choice */
	dport = *(volatile __u16 *)&p->dport;
	now = bpf_ktime_get_ns();
	if (q->count_row && !has_token(count_of(q->live, q->count_row), now)) {
		told->lost++;
		stat_add(LAT_TC_STAT_HELD);
		return;
	}
	e = event_begin(told, now);
	if (!e)
		return;
	e->generation = q->generation;
	e->rule = q->rule;
	e->kind = LAT_EVENT_VERDICT;
	e->action = (__u8)q->action;
	e->dir = (__u8)dir;
	e->proto = p->key.proto;
	e->sport = dir == p->dir ? sport : dport;
	e->dport = dir == p->dir ? dport : sport;
	e->ifindex = device;
	e->length = length;
	set_v6(e->local, (__u32 *)p->key.local);
	set_v6(e->remote, (__u32 *)p->key.remote);
	e->packets = 1;
	set_who(e, whose);
	send(e, told, now);
}

/* A verdict on a packet. */
__noinline int lat_tell(struct __sk_buff *skb, struct packet *p, struct question *q, __u32 dir)
{
	struct whose whose;

	if (!p)
		return 0;
	copy_who(&whose, who_of(skb));
	tell(p, q, dir, skb->ifindex, skb->len, &whose);
	return 0;
}

__noinline int lat_tell_close(struct __sk_buff *skb, struct packet *p, struct lat_tc_flow *flow)
{
	__u32 zero = 0;
	struct lat_tc_told *told = bpf_map_lookup_elem(&lat_told, &zero);
	struct whose whose;
	struct lat_event *e;
	__u64 now;

	if (!told || !p || !flow)
		return 0;
	copy_who(&whose, who_of(skb));
	now = bpf_ktime_get_ns();
	e = event_begin(told, now);
	if (!e)
		return 0;
	e->generation = flow->generation;
	e->rule = flow->rule;
	e->kind = LAT_EVENT_CLOSE;
	e->action = flow->action;
	e->dir = flow->dir;
	e->proto = p->key.proto;
	e->sport = flow->sport;
	e->dport = flow->dport;
	e->ifindex = skb->ifindex;
	set_v6(e->local, (__u32 *)p->key.local);
	set_v6(e->remote, (__u32 *)p->key.remote);
	e->packets = flow->packets[0] + flow->packets[1];
	e->bytes_out = flow->bytes[DIR_OUT];
	e->bytes_in = flow->bytes[DIR_IN];
	e->duration_ns = ticks() - flow->start_ns;
	set_who(e, &whose);
	send(e, told, now);
	return 0;
}

#endif
