/* The rules of the trap: see trap.h. */
#include "launcher/trap.h"
#include "base/mem.h"
#include <arpa/inet.h>
#include <errno.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <string.h>

#define TABLE "lattice"
enum { SET_TCP = 1, SET_UDP = 2 };

/* What differs between the families. */
struct family {
	uint8_t nfproto, icmp, echo_request;
	uint32_t dst_offset, dst_len;
	const char *own;
	uint8_t loopback[16], loopback_mask[16];
	uint8_t port_unreach, host_unreach, net_unreach, prohibited;
};

static const struct family families[] = {
	{ NFPROTO_IPV4, IPPROTO_ICMP, ICMP_ECHO, 16, 4, LAT_TRAP_ADDR4, { 127 }, { 255 },
		ICMP_PORT_UNREACH, ICMP_HOST_UNREACH, ICMP_NET_UNREACH, ICMP_PKT_FILTERED },
	{ NFPROTO_IPV6, IPPROTO_ICMPV6, ICMPV6_ECHO_REQUEST, 24, 16, LAT_TRAP_ADDR6, { [15] = 1 },
		{ 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255 },
		ICMPV6_PORT_UNREACH, ICMPV6_ADDR_UNREACH, ICMPV6_NOROUTE, ICMPV6_ADM_PROHIBITED },
};

struct spans {
	uint16_t span[LAT_TRAP_SPANS_MAX][2];
	size_t count;
};

/* Ports of one protocol as disjoint ascending spans that do not touch. proto 0 means both. */
static int collect(
	const struct lat_port_span *ports, size_t count, uint8_t proto, struct spans *out)
{
	lat_autofree uint8_t *in = calloc(1, UINT16_MAX + 1);

	if (!in)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		if (ports[i].proto && ports[i].proto != proto)
			continue;
		if (ports[i].lo > ports[i].hi)
			return -EINVAL;
		memset(in + ports[i].lo, 1, (size_t)(ports[i].hi - ports[i].lo) + 1);
	}
	out->count = 0;
	for (uint32_t p = 0; p <= UINT16_MAX; p++) {
		if (!in[p])
			continue;
		if (p && in[p - 1]) {
			out->span[out->count - 1][1] = (uint16_t)p;
			continue;
		}
		if (out->count == LAT_TRAP_SPANS_MAX)
			return -E2BIG;
		out->span[out->count][0] = out->span[out->count][1] = (uint16_t)p;
		out->count++;
	}
	return 0;
}

/* Destinations that stay inside: loopback and the own address. Host ports are asked for, by rule.
 */
static void chain_inside(struct lat_nft *n, const struct family *f)
{
	static const uint16_t listener = LAT_TRAP_LISTENER_PORT;
	uint16_t wire = htons(listener);

	lat_nft_rule(n, "inside");
	lat_nft_l4proto(n, IPPROTO_TCP);
	lat_nft_transport(n, 2, 2, &wire, NULL);
	lat_nft_reject_tcp(n);
	if (f->nfproto == NFPROTO_IPV4) {
		uint32_t dns = inet_addr(LAT_TRAP_DNS);

		lat_nft_rule(n, "inside");
		lat_nft_network(n, f->dst_offset, 4, &dns, NULL);
		lat_nft_accept(n);
	}
	lat_nft_rule(n, "inside");
	lat_nft_network(n, f->dst_offset, f->dst_len, f->loopback, f->loopback_mask);
	lat_nft_l4proto(n, IPPROTO_TCP);
	lat_nft_dport_in(n, "host_tcp", SET_TCP);
	lat_nft_queue(n, LAT_TRAP_QUEUE);
	lat_nft_rule(n, "inside");
	lat_nft_l4proto(n, IPPROTO_UDP);
	lat_nft_socket_bound(n);
	lat_nft_accept(n);
	lat_nft_rule(n, "inside");
	lat_nft_network(n, f->dst_offset, f->dst_len, f->loopback, f->loopback_mask);
	lat_nft_l4proto(n, IPPROTO_UDP);
	lat_nft_dport_in(n, "host_udp", SET_UDP);
	lat_nft_queue(n, LAT_TRAP_QUEUE);
	lat_nft_rule(n, "inside");
	lat_nft_accept(n);
}

static void chain_wait(struct lat_nft *n, const struct family *f)
{
	uint8_t own[16];

	inet_pton(f->nfproto == NFPROTO_IPV4 ? AF_INET : AF_INET6, f->own, own);
	/* The listener takes it only for a flow that waits for it: a mark misused would gain a reset. */
	lat_nft_rule(n, "wait");
	lat_nft_mark(n, LAT_MARK_JUDGED);
	lat_nft_tcp_syn(n, true);
	lat_nft_accept_as(n, LAT_MARK_ACCEPT);
	/* Else a mark is set by a verdict alone. */
	lat_nft_rule(n, "wait");
	lat_nft_set_mark(n, 0);
	/* First, for it is nearly every packet: TCP of a connection that exists (or of none: the
	 * stack resets it). */
	lat_nft_rule(n, "wait");
	lat_nft_tcp_syn(n, false);
	lat_nft_accept(n);
	lat_nft_rule(n, "wait");
	lat_nft_network(n, f->dst_offset, f->dst_len, f->loopback, f->loopback_mask);
	lat_nft_goto(n, "inside");
	lat_nft_rule(n, "wait");
	lat_nft_network(n, f->dst_offset, f->dst_len, own, NULL);
	lat_nft_goto(n, "inside");
	if (f->nfproto == NFPROTO_IPV6) {
		/* Only the plain header chain goes on: no routing header, no hop-by-hop options, no
		 * fragments. */
		static const uint8_t plain[] = { IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMPV6 };

		lat_nft_rule(n, "wait");
		for (size_t i = 0; i < sizeof(plain); i++)
			lat_nft_not_network8(n, 6, plain[i]);
		lat_nft_reject_icmp(n, f->prohibited);
	}
	lat_nft_rule(n, "wait");
	lat_nft_l4proto(n, IPPROTO_TCP);
	lat_nft_queue(n, LAT_TRAP_QUEUE);
	lat_nft_rule(n, "wait");
	lat_nft_l4proto(n, IPPROTO_UDP);
	lat_nft_socket_bound(n);
	lat_nft_accept(n);
	lat_nft_rule(n, "wait");
	lat_nft_l4proto(n, IPPROTO_UDP);
	lat_nft_queue(n, LAT_TRAP_QUEUE);
	lat_nft_rule(n, "wait");
	lat_nft_l4proto(n, f->icmp);
	lat_nft_transport(n, 0, 1, &f->echo_request, NULL);
	lat_nft_queue(n, LAT_TRAP_QUEUE);
	/* Errors, replies and neighbour discovery: the kernel's own, for the program has no raw
	 * socket. */
	lat_nft_rule(n, "wait");
	lat_nft_l4proto(n, f->icmp);
	lat_nft_accept(n);
	lat_nft_rule(n, "wait");
	lat_nft_reject_icmp(n, f->prohibited);
}

static void refuse(struct lat_nft *n, uint32_t mark, uint8_t code)
{
	lat_nft_rule(n, "act");
	lat_nft_mark(n, mark);
	lat_nft_reject_icmp(n, code);
}

static void chain_act(struct lat_nft *n, const struct family *f)
{
	lat_nft_rule(n, "act");
	lat_nft_mark(n, 0);
	lat_nft_accept(n);
	lat_nft_rule(n, "act");
	lat_nft_mark(n, LAT_MARK_ACCEPT);
	lat_nft_l4proto(n, IPPROTO_TCP);
	lat_nft_tproxy(n, LAT_TRAP_LISTENER_PORT);
	lat_nft_rule(n, "act");
	lat_nft_mark(n, LAT_MARK_RESET);
	lat_nft_l4proto(n, IPPROTO_TCP);
	lat_nft_reject_tcp(n);
	refuse(n, LAT_MARK_RESET, f->port_unreach);
	refuse(n, LAT_MARK_HOST_UNREACH, f->host_unreach);
	refuse(n, LAT_MARK_NET_UNREACH, f->net_unreach);
	refuse(n, LAT_MARK_PROHIBITED, f->prohibited);
	/* UDP and ICMP that the supervisor lets go. */
	lat_nft_rule(n, "act");
	lat_nft_mark(n, LAT_MARK_ACCEPT);
	lat_nft_accept(n);
}

static void build_family(
	struct lat_nft *n, const struct family *f, const struct spans *tcp, const struct spans *udp)
{
	static const struct lat_nft_hook wait = { NF_INET_PRE_ROUTING, NF_IP_PRI_MANGLE, true };
	static const struct lat_nft_hook act = { NF_INET_PRE_ROUTING, NF_IP_PRI_MANGLE + 1, true };

	n->family = f->nfproto;
	lat_nft_table(n);
	lat_nft_port_set(n, "host_tcp", SET_TCP);
	lat_nft_port_set(n, "host_udp", SET_UDP);
	lat_nft_port_set_add(n, "host_tcp", tcp->span, tcp->count);
	lat_nft_port_set_add(n, "host_udp", udp->span, udp->count);
	lat_nft_chain(n, "inside", NULL);
	lat_nft_chain(n, "wait", &wait);
	lat_nft_chain(n, "act", &act);
	chain_inside(n, f);
	chain_wait(n, f);
	chain_act(n, f);
}

/* Sorts the ports by protocol and opens the batch. */
static int begin(struct lat_nft *n, const struct lat_port_span *ports, size_t count, struct spans *tcp,
	struct spans *udp)
{
	int r = collect(ports, count, IPPROTO_TCP, tcp);

	if (!r)
		r = collect(ports, count, IPPROTO_UDP, udp);
	return r ? r : lat_nft_begin(n, TABLE);
}

int lat_trap_build(struct lat_nft *n, bool ipv6, bool compat_queue,
	const struct lat_port_span *ports, size_t count)
{
	struct spans tcp, udp;
	int r = begin(n, ports, count, &tcp, &udp);

	if (r)
		return r;
	n->compat_queue = compat_queue;
	for (size_t i = 0; i < (ipv6 ? 2 : 1); i++)
		build_family(n, &families[i], &tcp, &udp);
	return lat_nft_end(n);
}

int lat_trap_build_ports(
	struct lat_nft *n, bool ipv6, const struct lat_port_span *ports, size_t count)
{
	struct spans tcp, udp;
	int r = begin(n, ports, count, &tcp, &udp);

	if (r)
		return r;
	for (size_t i = 0; i < (ipv6 ? 2 : 1); i++) {
		n->family = families[i].nfproto;
		lat_nft_port_set_flush(n, "host_tcp");
		lat_nft_port_set_flush(n, "host_udp");
		lat_nft_port_set_add(n, "host_tcp", tcp.span, tcp.count);
		lat_nft_port_set_add(n, "host_udp", udp.span, udp.count);
	}
	return lat_nft_end(n);
}
