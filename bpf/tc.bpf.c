/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
 * The packet filter of the ebpf enforcer: one program for what leaves a device, one for what enters it. Loaded without an
 * expected attach type, so that the same object serves TCX and clsact. What they do is in flow.bpf.h.
 *
 * `deny` and `drop` are the same here: the packet is gone. */
#include "flow.bpf.h"

SEC("tc")
int lat_tc_out(struct __sk_buff *skb)
{
	return guard(skb, DIR_OUT);
}

SEC("tc")
int lat_tc_in(struct __sk_buff *skb)
{
	return guard(skb, DIR_IN);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
