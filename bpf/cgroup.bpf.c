/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
 * The wall of kernel mode: what the sockets of one cgroup may do. Sockets belong to the group that the process was in when it
 * made them, whoever has them later.
 *
 * Calls are judged first, so that a program hears at once that it may not, and by which errno: connect(2) of TCP and whatever
 * sends to an address it names. A UDP connect sends nothing and is let pass (getaddrinfo tries each address so). Then every
 * packet is judged (flow.bpf.h): what it really carries counts, not what a call said, so no option, no source route, no
 * socket that listens without bind leads round it. */
#define LATTICE_CGROUP
#include "flow.bpf.h"

#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOL_SOCKET 1
#define SO_BINDTODEVICE 25
#define EPERM 1
#define ENODEV 19
#define EPROTONOSUPPORT 93
#define ECONNREFUSED 111
#define PROTO_RESOLVED(proto) ((proto) == PROTO_TCP || (proto) == PROTO_UDP)

#define RESOLVER bpf_htonl(0x7f000035) /* 127.0.0.53, as resolv.conf says inside */
#define RESOLVER_PORT bpf_htons(53)
#define LOCALHOST bpf_htonl(0x7f000001)

/* ---- packets ---- */

SEC("cgroup_skb/egress")
int lat_cg_out(struct __sk_buff *skb)
{
	return guard(skb, DIR_OUT) == PASS;
}

SEC("cgroup_skb/ingress")
int lat_cg_in(struct __sk_buff *skb)
{
	return guard(skb, DIR_IN) == PASS;
}

/* ---- calls ---- */

static __always_inline void set_current(struct lat_tc_who *who)
{
	who->pid = (__u32)(bpf_get_current_pid_tgid() >> 32);
	who->uid = (__u32)bpf_get_current_uid_gid();
	if (lat_constants.comm)
		bpf_get_current_comm(who->comm, sizeof(who->comm));
}

/* An errno is 4095 at most; newer verifiers (7.3) want to see that it is. */
static __always_inline int refuse(__u32 error)
{
	bpf_set_retval(-(int)(error & 0xfff));
	return 0;
}

/* To the device that all sockets of the group are bound to. */
static __always_inline int bind_device(struct bpf_sock_addr *ctx)
{
	char name[16];

	if (!lat_constants.bind)
		return 1;
	for (int i = 0; i < 2; i++)
		((__u64 *)name)[i] = ((const volatile __u64 *)lat_constants.bind_name)[i];
	if (bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTODEVICE, name, sizeof(name)) == 0)
		return 1;
	stat_add(LAT_TC_STAT_DEVICE);
	return refuse(ENODEV);
}

/* What the socket is bound to, for a look at who is at the other end: one that is connected is found by its peer alone. */
static __always_inline void set_own_end(struct bpf_sock_addr *ctx, struct packet *p)
{
	struct bpf_sock *sk = ctx->sk;
	__u32 addr, port;

	if (!sk)
		return;
	port = sk->src_port;
	p->key.local_port = bpf_htons((__u16)port);
	if (p->key.is6) { /* loopback is one address */
		*(__u64 *)(p->key.local + 0) = 0;
		*(__u64 *)(p->key.local + 8) = PAIR(0, bpf_htonl(1));
	} else {
		addr = sk->src_ip4;
		set_v4(p->key.local, addr ? addr : LOCALHOST);
	}
}

/* What the address that p names may be used for: 1 to let the call be made. */
static __always_inline int judge_call(struct bpf_sock_addr *ctx, struct packet *p, int sends)
{
	__u32 zero = 0, port = p->port;
	__u64 *live = bpf_map_lookup_elem(&lat_live, &zero);
	struct lat_tc_who *who = ctx->sk ? bpf_sk_storage_get(&lat_sockets, ctx->sk, 0, 0) : 0;
	int loopback = is_loopback(p->key.remote);
	struct question q;
	struct whose whose;

	/* Who calls is whose flow it is; but a call that the supervisor makes for a task is that of the socket's maker. */
	if (who && bpf_get_current_cgroup_id() == lat_constants.group)
		set_current(who);
	copy_who(&whose, who);
	if (p->key.proto == PROTO_UDP && !sends)
		return loopback ? 1 : bind_device(ctx);
	if (loopback && PROTO_RESOLVED(p->key.proto)) {
		set_own_end(ctx, p);
		if (IS_OURS(ctx, &p->key))
			return 1;
	}
	__builtin_memset(&q, 0, sizeof(q));
	q.live = live ? *(volatile __u64 *)live : 0;
	lat_judge(&q, &p->key, DIR_OUT, port);
	if (loopback)
		lat_only_hosts(&q);
	if (q.asks && !q.no_policy)
		lat_answered(&q, port, (__u32)whose.words[0]);
	if (passes(q.action)) {
		stat_add(LAT_TC_STAT_CONNECT_ALLOWED);
		return loopback ? 1 : bind_device(ctx);
	}
	if (q.action == ACTION_DROP) /* the packet will be */
		return loopback ? 1 : bind_device(ctx);
	if (q.action == ACTION_ASK)
		q.action = ACTION_DENY;
	stat_add(LAT_TC_STAT_CONNECT_DENIED);
	if (!q.no_policy)
		tell(p, &q, DIR_OUT, lat_constants.bind, 0, &whose);
	return refuse(q.err ? q.err : ECONNREFUSED);
}

static __always_inline void take_port(struct packet *p, __u32 proto, __u32 port)
{
	p->dir = DIR_OUT;
	p->key.ifindex = is_loopback(p->key.remote) ? LOOPBACK : 0;
	p->key.proto = (__u8)proto;
	if (PROTO_RESOLVED(proto)) {
		p->key.remote_port = (__u16)port;
		p->dport = p->port = bpf_ntohs((__u16)port);
	}
}

static __always_inline int call4(struct bpf_sock_addr *ctx, int sends)
{
	struct packet p __attribute__((aligned(8)));
	__u32 to = ctx->user_ip4, proto = ctx->protocol, port = ctx->user_port & 0xffff;

	if (to == RESOLVER && port == RESOLVER_PORT && lat_constants.dns_port && PROTO_RESOLVED(proto)) {
		ctx->user_ip4 = LOCALHOST;
		ctx->user_port = lat_constants.dns_port;
		return 1;
	}
	__builtin_memset(&p, 0, sizeof(p));
	if (to == 0) /* the kernel takes it for the host itself */
		to = LOCALHOST;
	set_v4(p.key.remote, to);
	take_port(&p, proto, port);
	return judge_call(ctx, &p, sends);
}

static __always_inline int call6(struct bpf_sock_addr *ctx, int sends)
{
	struct packet p __attribute__((aligned(8)));
	__u32 a0 = ctx->user_ip6[0], a1 = ctx->user_ip6[1], a2 = ctx->user_ip6[2], a3 = ctx->user_ip6[3];
	__u32 proto = ctx->protocol, port = ctx->user_port & 0xffff;

	if (a0 == 0 && a1 == 0 && a2 == bpf_htonl(0xffff)) {
		if (a3 == RESOLVER && port == RESOLVER_PORT && lat_constants.dns_port && PROTO_RESOLVED(proto)) {
			ctx->user_ip6[3] = LOCALHOST;
			ctx->user_port = lat_constants.dns_port;
			return 1;
		}
		__builtin_memset(&p, 0, sizeof(p));
		set_v4(p.key.remote, a3 ? a3 : LOCALHOST);
	} else {
		if (a0 == 0 && a1 == 0 && a2 == 0 && a3 == 0)
			a3 = bpf_htonl(1);
		__builtin_memset(&p, 0, sizeof(p));
		p.key.is6 = 1;
		*(__u64 *)(p.key.remote + 0) = PAIR(a0, a1);
		*(__u64 *)(p.key.remote + 8) = PAIR(a2, a3);
	}
	take_port(&p, proto, port);
	return judge_call(ctx, &p, sends);
}

SEC("cgroup/connect4")
int lat_cg_connect4(struct bpf_sock_addr *ctx)
{
	return call4(ctx, 0);
}

SEC("cgroup/connect6")
int lat_cg_connect6(struct bpf_sock_addr *ctx)
{
	return call6(ctx, 0);
}

SEC("cgroup/sendmsg4")
int lat_cg_sendmsg4(struct bpf_sock_addr *ctx)
{
	return call4(ctx, 1);
}

SEC("cgroup/sendmsg6")
int lat_cg_sendmsg6(struct bpf_sock_addr *ctx)
{
	return call6(ctx, 1);
}

/* The resolver answers by the address that was asked. */
static __always_inline int show4(struct bpf_sock_addr *ctx)
{
	if (lat_constants.dns_port && ctx->user_ip4 == LOCALHOST && (ctx->user_port & 0xffff) == lat_constants.dns_port) {
		ctx->user_ip4 = RESOLVER;
		ctx->user_port = RESOLVER_PORT;
	}
	return 1;
}

static __always_inline int show6(struct bpf_sock_addr *ctx)
{
	if (lat_constants.dns_port && ctx->user_ip6[0] == 0 && ctx->user_ip6[1] == 0 &&
		ctx->user_ip6[2] == bpf_htonl(0xffff) && ctx->user_ip6[3] == LOCALHOST &&
		(ctx->user_port & 0xffff) == lat_constants.dns_port) {
		ctx->user_ip6[3] = RESOLVER;
		ctx->user_port = RESOLVER_PORT;
	}
	return 1;
}

SEC("cgroup/recvmsg4")
int lat_cg_recvmsg4(struct bpf_sock_addr *ctx)
{
	return show4(ctx);
}

SEC("cgroup/recvmsg6")
int lat_cg_recvmsg6(struct bpf_sock_addr *ctx)
{
	return show6(ctx);
}

SEC("cgroup/getpeername4")
int lat_cg_peer4(struct bpf_sock_addr *ctx)
{
	return show4(ctx);
}

SEC("cgroup/getpeername6")
int lat_cg_peer6(struct bpf_sock_addr *ctx)
{
	return show6(ctx);
}

/* Whoever binds to an address of its own is bound to the device as well; not so to any address, which loopback is of: the
 * packets of it are held to the device. */
SEC("cgroup/bind4")
int lat_cg_bind4(struct bpf_sock_addr *ctx)
{
	__u32 at = ctx->user_ip4;

	return at == 0 || (at & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000) ? 1 : bind_device(ctx);
}

SEC("cgroup/bind6")
int lat_cg_bind6(struct bpf_sock_addr *ctx)
{
	__u32 a0 = ctx->user_ip6[0], a1 = ctx->user_ip6[1], a2 = ctx->user_ip6[2], a3 = ctx->user_ip6[3];

	if (a0 || a1)
		return bind_device(ctx);
	if (a2 == 0 && (a3 == 0 || a3 == bpf_htonl(1)))
		return 1;
	if (a2 == bpf_htonl(0xffff) && (a3 == 0 || (a3 & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000)))
		return 1;
	return bind_device(ctx);
}

/* Kinds of sockets whose packets say what they carry; and the mark that it is one of the group. */
SEC("cgroup/sock_create")
int lat_cg_socket(struct bpf_sock *ctx)
{
	__u32 type = ctx->type, proto = ctx->protocol;
	struct lat_tc_who *who;

	if (!((type == SOCK_STREAM && proto == PROTO_TCP) ||
		    (type == SOCK_DGRAM && (proto == PROTO_UDP || proto == PROTO_ICMP || proto == PROTO_ICMPV6)))) {
		stat_add(LAT_TC_STAT_SOCKET_DENIED);
		return refuse(type == SOCK_STREAM || type == SOCK_DGRAM ? EPROTONOSUPPORT : EPERM);
	}
	who = bpf_sk_storage_get(&lat_sockets, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!who)
		return refuse(EPERM);
	set_current(who);
	return 1;
}

/* A unix socket leads out of the network and to descriptors of others. A task of the group does not connect one itself: the
 * supervisor does, after it has looked where the path leads. Loaded where the kernel has the hook (6.7): the section only
 * names the type of program, pro/tc_cgroup.c sets the hook. */
SEC("cgroup/connect4")
int lat_cg_unix(struct bpf_sock_addr *ctx)
{
	int inside = 0;

	UNROLL
	for (int level = 0; level < 24; level++) /* whatever the root of our own cgroup namespace is */
		inside |= bpf_get_current_ancestor_cgroup_id(level) == lat_constants.group;
	if (!inside)
		return 1;
	stat_add(LAT_TC_STAT_UNIX_DENIED);
	return refuse(EPERM);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
