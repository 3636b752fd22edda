/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
 * Unix sockets of a group: a task of it connects only to what was made in it. On the group (BPF_LSM_CGROUP, Linux 6.0, with
 * "bpf" among the security modules), where both ends are at hand: whatever the address said, and however long it was.
 *
 * The hook runs for sockets of the group; the supervisor, which is outside, connects them where a rule says so. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define EACCES 13

struct kernfs_node {
	__u64 id;
} __attribute__((preserve_access_index));

struct cgroup {
	struct kernfs_node *kn;
} __attribute__((preserve_access_index));

struct sock_cgroup_data {
	struct cgroup *cgroup;
} __attribute__((preserve_access_index));

struct sock {
	struct sock_cgroup_data sk_cgrp_data;
} __attribute__((preserve_access_index));

SEC("lsm_cgroup/unix_stream_connect")
int BPF_PROG(lat_unix, struct sock *sock, struct sock *other)
{
	__u64 group = sock->sk_cgrp_data.cgroup->kn->id;

	if (bpf_get_current_cgroup_id() != group || other->sk_cgrp_data.cgroup->kn->id == group)
		return 1;
	bpf_set_retval(-EACCES);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
