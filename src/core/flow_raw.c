/* ICMP packets, and datagrams where no socket can, as the far host or its network would have sent them, put into the sandbox's namespace by raw sockets. */
#include "core/flow_impl.h"
#include <linux/errqueue.h>
#include <netinet/icmp6.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/ip_icmp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <errno.h>

/* IPv6 header + ICMP + the quoted IPv6 and transport headers. */
#define HEAD_MAX (40 + 8 + 40 + 8)
#define HOPS 64

struct maker {
	uint8_t head[HEAD_MAX];
	size_t size; /* of head; ICMP starts behind the IP header */
	bool is4;
};

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

/* The Internet checksum of data, on top of `sum` (data of even length, but for the last piece). */
uint16_t lat_raw_checksum(uint32_t sum, const void *data, size_t size)
{
	const uint8_t *p = data;
	uint64_t total = sum;

	for (; size > 1; size -= 2, p += 2)
		total += (uint32_t)(p[0] << 8 | p[1]);
	if (size)
		total += (uint32_t)(p[0] << 8);
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return (uint16_t)total;
}

/* An IP header without options. */
static size_t put_ip(uint8_t *p, const struct lat_addr *from, const struct lat_addr *to, uint8_t proto, size_t payload)
{
	if (lat_addr_is4(to)) {
		memset(p, 0, 20);
		p[0] = 0x45;
		put16(p + 2, (uint16_t)(20 + payload));
		p[8] = HOPS;
		p[9] = proto;
		memcpy(p + 12, from->b + 12, 4);
		memcpy(p + 16, to->b + 12, 4);
		put16(p + 10, (uint16_t)~lat_raw_checksum(0, p, 20));
		return 20;
	}
	memset(p, 0, 40);
	p[0] = 0x60;
	put16(p + 4, (uint16_t)payload);
	p[6] = proto;
	p[7] = HOPS;
	memcpy(p + 8, from->b, 16);
	memcpy(p + 24, to->b, 16);
	return 40;
}

/* Sends head and payload from the flow's far host to the program. The checksum behind the IP header is still zero. */
static void deliver(struct lat_conn *c, struct maker *m, uint8_t proto, const uint8_t *payload, size_t size)
{
	size_t ip = m->is4 ? 20 : 40, head = m->size - ip, at = ip + (proto == IPPROTO_UDP ? 6 : 2);
	struct iovec parts[2] = { { m->head, m->size }, { (void *)payload, size } };
	struct sockaddr_storage to;
	struct msghdr message = { .msg_name = &to, .msg_iov = parts, .msg_iovlen = size ? 2 : 1 };
	uint32_t sum = 0;
	uint16_t check;

	if (proto != IPPROTO_ICMP) { /* pseudo header: addresses, length, next header */
		sum = m->is4 ? lat_raw_checksum(0, m->head + 12, 8) : lat_raw_checksum(0, m->head + 8, 32);
		sum += (uint32_t)(head + size) + proto;
	}
	sum = lat_raw_checksum(sum, m->head + ip, head);
	check = (uint16_t)~lat_raw_checksum(sum, payload, size);
	put16(m->head + at, proto == IPPROTO_UDP && !check ? 0xffff : check); /* UDP: 0 means none */
	message.msg_namelen = lat_addr_to_sockaddr(&c->info.flow.local, 0, false, &to);
	sendmsg(m->is4 ? c->flows->raw4 : c->flows->raw6, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void lat_raw_echo_reply(struct lat_conn *c, uint16_t seq, const uint8_t *payload, size_t size)
{
	const struct lat_flow *flow = &c->info.flow;
	struct maker m = { .is4 = lat_addr_is4(&flow->local) };
	uint8_t *icmp;

	m.size = put_ip(m.head, &flow->remote, &flow->local, flow->proto, 8 + size);
	icmp = m.head + m.size;
	icmp[0] = m.is4 ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY;
	put16(icmp + 4, c->key.sport);
	put16(icmp + 6, seq);
	m.size += 8;
	deliver(c, &m, flow->proto, payload, size);
}

void lat_raw_datagram(struct lat_conn *c, const uint8_t *payload, size_t size)
{
	const struct lat_flow *flow = &c->info.flow;
	struct maker m = { .is4 = lat_addr_is4(&flow->local) };
	uint8_t *udp;

	m.size = put_ip(m.head, &flow->remote, &flow->local, IPPROTO_UDP, 8 + size);
	udp = m.head + m.size;
	put16(udp, flow->dport);
	put16(udp + 2, flow->sport);
	put16(udp + 4, (uint16_t)(8 + size));
	m.size += 8;
	deliver(c, &m, IPPROTO_UDP, payload, size);
}

void lat_raw_error(struct lat_conn *c, uint8_t type, uint8_t code)
{
	const struct lat_flow *flow = &c->info.flow;
	struct maker m = { .is4 = lat_addr_is4(&flow->local) };
	size_t quoted = (m.is4 ? 20 : 40) + 8;
	uint8_t *p;

	m.size = put_ip(m.head, &flow->remote, &flow->local, m.is4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, 8 + quoted);
	p = m.head + m.size;
	p[0] = type;
	p[1] = code;
	p += 8;
	/* Quoted: the program's packet, as far as the stack needs it to find the socket. */
	p += put_ip(p, &flow->local, &flow->remote, flow->proto, 8);
	if (flow->proto == IPPROTO_UDP) {
		put16(p, flow->sport);
		put16(p + 2, flow->dport);
		put16(p + 4, 8);
	} else {
		p[0] = m.is4 ? ICMP_ECHO : ICMP6_ECHO_REQUEST;
		put16(p + 4, c->key.sport);
		put16(p + 6, c->icmp.seq);
	}
	m.size += 8 + quoted;
	deliver(c, &m, m.is4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, NULL, 0);
}

/* Only what tells the program something: too-big is the outer stack's own affair. */
static bool is_worth_passing(const struct sock_extended_err *e)
{
	if (e->ee_origin == SO_EE_ORIGIN_ICMP)
		return (e->ee_type == ICMP_DEST_UNREACH && e->ee_code != ICMP_FRAG_NEEDED) || e->ee_type == ICMP_TIME_EXCEEDED;
	return e->ee_origin == SO_EE_ORIGIN_ICMP6 && (e->ee_type == ICMP6_DST_UNREACH || e->ee_type == ICMP6_TIME_EXCEEDED);
}

void lat_raw_pass_errors(struct lat_conn *c, int fd)
{
	/* A bound: each error came from outside. */
	for (int i = 0; i < 16; i++) {
		char control[512];
		struct msghdr message = { .msg_control = control, .msg_controllen = sizeof(control) };

		if (recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
			return;
		for (struct cmsghdr *h = CMSG_FIRSTHDR(&message); h; h = CMSG_NXTHDR(&message, h)) {
			struct sock_extended_err e;

			if (!(h->cmsg_level == SOL_IP && h->cmsg_type == IP_RECVERR) &&
			    !(h->cmsg_level == SOL_IPV6 && h->cmsg_type == IPV6_RECVERR))
				continue;
			memcpy(&e, CMSG_DATA(h), sizeof(e));
			if (is_worth_passing(&e))
				lat_raw_error(c, e.ee_type, e.ee_code);
		}
	}
}
