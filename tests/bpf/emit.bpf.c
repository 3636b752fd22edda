/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
 * For tests and the bench of events: each run puts `count` events (a template) into a ring as the enforcer's program does:
 * what does not fit is counted and told by a LOSS event before the next one that does, and a reader is woken once in a while. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "lattice_abi.h"

#define QUIET_NS 1000000ull

struct emit_state {
	__u64 count, sent, lost_total, lost, woken_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct emit_state);
} state SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lat_event);
} template SEC(".maps");

static __always_inline void send(struct lat_event *e, struct emit_state *s, __u64 now)
{
	__u64 flags = BPF_RB_NO_WAKEUP;

	if (now - s->woken_ns > QUIET_NS) {
		s->woken_ns = now;
		flags = BPF_RB_FORCE_WAKEUP;
	}
	bpf_ringbuf_submit(e, flags);
}

SEC("tc")
int lat_emit(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct emit_state *s = bpf_map_lookup_elem(&state, &zero);
	const struct lat_event *from = bpf_map_lookup_elem(&template, &zero);
	__u64 now = bpf_ktime_get_ns();

	if (!s || !from)
		return 0;
	for (__u32 i = 0; i < 256 && i < s->count; i++) {
		struct lat_event *e;

		if (s->lost) {
			e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
			if (e) {
				__builtin_memset(e, 0, sizeof(*e));
				e->kind = LAT_EVENT_LOSS;
				e->packets = s->lost;
				s->lost = 0;
				send(e, s, now);
			}
		}
		e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
		if (!e) {
			s->lost++;
			s->lost_total++;
			continue;
		}
		*e = *from;
		e->time_ns = now;
		s->sent++;
		send(e, s, now);
	}
	return 7;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
