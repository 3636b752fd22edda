/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
 * Lets every packet pass: what a capability probe loads, and the floor that packet costs are measured against. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("tc")
int lat_empty(struct __sk_buff *skb)
{
	return -1; /* TCX_NEXT, TC_ACT_UNSPEC: the next program decides */
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
