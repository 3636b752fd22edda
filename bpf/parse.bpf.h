/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
 * From the bytes of a packet to what is judged. The bytes decide, never skb->protocol: whoever may open a packet socket
 * chooses that freely. Loops have constant bounds; whatever is not understood is refused with a reason (enum lat_tc_stat).
 *
 * Refused although a host might take them: source routes of IPv4 and routing headers with segments left (they lead
 * elsewhere than the address that is judged), first fragments without the whole transport header, a TCP fragment that
 * begins inside that header, more than eight extension headers, more than two VLAN tags. */
#ifndef LATTICE_PARSE_BPF_H
#define LATTICE_PARSE_BPF_H
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "tc_abi.h"

enum { DIR_OUT, DIR_IN };
enum { PROTO_ICMP = 1, PROTO_TCP = 6, PROTO_UDP = 17, PROTO_ICMPV6 = 58 };
enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

/* What a packet is, if it is no error (negative: -enum lat_tc_stat). */
enum {
	IS_NEIGHBOUR, /* ARP, neighbour discovery */
	IS_FLOW,
	IS_LATER,     /* a later fragment */
	IS_ERROR      /* an ICMP error; `quote` names the flow it is about */
};

struct packet {
	struct lat_tc_key key;
	struct lat_tc_key quote;
	__u32 at;            /* of the header that comes next */
	__u32 end;           /* of the packet as IP tells it: what lies behind is padding, which no receiver reads */
	__u32 fragment_id;
	__u16 sport, dport;  /* of this packet, host order; icmp: 0 and the type */
	__u16 port;          /* what rules judge, 0 without ports */
	__u8 dir;
	__u8 flags;          /* TCP */
	__u8 begins;         /* can only be a flow's first packet: SYN, echo request */
	__u8 answers;        /* can not be one: SYN and ACK, RST, echo reply */
	__u8 first;          /* first of several fragments */
	__u8 later;          /* a later one */
	__u8 untracked;      /* has no flow: other ICMP */
	__u8 hops;
	__u8 pad[2];
};

static __always_inline int load(struct __sk_buff *skb, __u32 at, void *to, __u32 len)
{
	return bpf_skb_load_bytes(skb, at, to, len) < 0 ? -LAT_TC_STAT_TRUNCATED : 0;
}

static __always_inline void set_v4(__u8 to[16], __u32 addr)
{
	*(__u64 *)(to + 0) = 0;
	*(__u64 *)(to + 8) = (__u64)addr << 32 | bpf_htonl(0xffff);
}

static __always_inline void set_v6(__u8 to[16], const __u32 *from)
{
	*(__u32 *)(to + 0) = from[0];
	*(__u32 *)(to + 4) = from[1];
	*(__u32 *)(to + 8) = from[2];
	*(__u32 *)(to + 12) = from[3];
}

/* Without CAP_PERFMON 6.1 follows a loop for ever: what a processor may do ahead of its branch, too. */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else /* a test that runs this on the host */
#define UNROLL
#endif

/* Two words as one store. Little endian, as all machines that this is built for. */
#define PAIR(low, high) ((__u64)(__u32)(high) << 32 | (__u32)(low))
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "PAIR");

/* The same on the stack, where 6.1 without CAP_PERFMON refuses a second, narrower store to the same eight bytes. */
static __always_inline void set_wide(__u8 to[16], const __u8 *from)
{
	*(__u64 *)(to + 0) = *(const __u64 *)(from + 0);
	*(__u64 *)(to + 8) = *(const __u64 *)(from + 8);
}

static __always_inline int same_address(const __u8 *a, const __u8 *b)
{
	const __u32 *x = (const __u32 *)a, *y = (const __u32 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3];
}

/* ::ffff:a.b.c.d: our way to write IPv4, never to be seen in a packet. */
static __always_inline int is_mapped(const __u32 *a)
{
	return a[0] == 0 && a[1] == 0 && a[2] == bpf_htonl(0xffff);
}

/* Source and destination of a packet that goes in direction dir. */
static __always_inline void set_ends4(struct lat_tc_key *key, int dir, __u32 src, __u32 dst)
{
	set_v4(key->local, dir == DIR_OUT ? src : dst);
	set_v4(key->remote, dir == DIR_OUT ? dst : src);
}

static __always_inline void set_ends6(struct lat_tc_key *key, int dir, const __u32 *src, const __u32 *dst)
{
	set_v6(key->local, dir == DIR_OUT ? src : dst);
	set_v6(key->remote, dir == DIR_OUT ? dst : src);
	key->is6 = 1;
}

static __always_inline void set_ports(struct lat_tc_key *key, int dir, __u16 src, __u16 dst)
{
	key->local_port = dir == DIR_OUT ? src : dst;
	key->remote_port = dir == DIR_OUT ? dst : src;
}

/* Is one of the four bytes `byte`? By sums, not by branches: each of those is one more way for the verifier. */
static __always_inline __u32 has_byte(__u32 four, __u8 byte)
{
	__u32 x = four ^ byte * 0x01010101u;

	return (x - 0x01010101u) & ~x & 0x80808080u;
}

/* Four bytes of options: 0, or what is wrong. */
static __always_inline int v4_option(struct __sk_buff *skb, __u32 at)
{
	__u32 four;

	if (load(skb, at, &four, sizeof(four)) < 0)
		return -LAT_TC_STAT_TRUNCATED;
	return has_byte(four, 131) | has_byte(four, 137) ? -LAT_TC_STAT_ODD : 0;
}

/* 0, or what is wrong: an option that may be a source route. Every byte is looked at as if an option began there: exact
 * parsing has too many ways for the verifier, options are rare, and those without such a byte (router alert) pass. */
#define OPTION(i) \
	if (at + (i) * 4 >= end) \
		return 0; \
	r = v4_option(skb, at + (i) * 4); \
	if (r < 0) \
		return r
__noinline int lat_v4_options(struct __sk_buff *skb, __u32 at, __u32 end)
{
	int r;

	OPTION(0); OPTION(1); OPTION(2); OPTION(3); OPTION(4);
	OPTION(5); OPTION(6); OPTION(7); OPTION(8); OPTION(9);
	return 0;
}

/* Walks the extension headers at p->at; `next` is the first one's number. The transport's number, p->at behind them. */
__noinline int lat_v6_headers(struct __sk_buff *skb, struct packet *p, __u32 next)
{
	__u8 h[8];

	if (!p)
		return -LAT_TC_STAT_ODD;
	UNROLL
	for (int i = 0; i < 9; i++) {
		if (next != 0 && next != 43 && next != 60 && next != 51 && next != 44)
			return (int)(next & 0xff);
		if (load(skb, p->at, h, sizeof(h)) < 0)
			return -LAT_TC_STAT_TRUNCATED;
		if (next == 44) {
			__u32 where = (__u32)h[2] << 8 | h[3];

			p->fragment_id = *(__u32 *)(h + 4);
			next = h[0];
			p->at += 8;
			if (where >> 3) {
				p->later = 1;
				return (int)next;
			}
			p->first = where & 1;
			continue;
		}
		if (next == 43 && h[3] != 0)
			return -LAT_TC_STAT_ODD;
		p->at += next == 51 ? ((__u32)h[1] + 2) * 4 : ((__u32)h[1] + 1) * 8;
		next = h[0];
	}
	return -LAT_TC_STAT_ODD;
}

/* The packet that an ICMP error quotes: it went the other way. IS_ERROR, or IS_FLOW when nothing can be made of it: then
 * the error is judged as any other packet. */
__noinline int lat_quoted(struct __sk_buff *skb, struct packet *p)
{
	__u32 h[10];
	__u16 ports[4];
	int proto, was;

	if (!p)
		return -LAT_TC_STAT_ODD;
	was = p->dir == DIR_OUT ? DIR_IN : DIR_OUT;
	p->quote.ifindex = p->key.ifindex;
	if (!p->key.is6) {
		if (load(skb, p->at, h, 20) < 0 || (*(__u8 *)h & 0xf0) != 0x40 || (*(__u8 *)h & 0xf) < 5 ||
			(h[1] & bpf_htonl(0x1fff)))
			return IS_FLOW;
		proto = ((__u8 *)h)[9];
		set_ends4(&p->quote, was, h[3], h[4]);
		p->at += (*(__u8 *)h & 0xf) * 4u;
	} else {
		if (load(skb, p->at, h, 40) < 0 || (*(__u8 *)h & 0xf0) != 0x60)
			return IS_FLOW;
		set_ends6(&p->quote, was, h + 2, h + 6);
		p->at += 40;
		proto = lat_v6_headers(skb, p, ((__u8 *)h)[6]);
		if (proto < 0 || p->later)
			return IS_FLOW;
	}
	/* The error goes to where the quoted packet came from. */
	if (p->dir == DIR_OUT ? !same_address(p->quote.remote, p->key.remote) :
		!same_address(p->quote.local, p->key.local))
		return IS_FLOW;
	p->quote.proto = (__u8)proto;
	if (p->at + sizeof(ports) > p->end || load(skb, p->at, ports, sizeof(ports)) < 0)
		return IS_FLOW;
	if (proto == PROTO_TCP || proto == PROTO_UDP) {
		set_ports(&p->quote, was, ports[0], ports[1]);
	} else if ((proto == PROTO_ICMP && !p->key.is6) || (proto == PROTO_ICMPV6 && p->key.is6)) {
		__u8 type = *(__u8 *)ports;

		if (p->key.is6 ? type != 128 && type != 129 : type != 8 && type != 0)
			return IS_FLOW;
		p->quote.local_port = ports[2];
	}
	return IS_ERROR;
}

static __always_inline int parse_icmp(struct __sk_buff *skb, struct packet *p)
{
	__u8 h[8], type;

	if (p->at + sizeof(h) > p->end || load(skb, p->at, h, sizeof(h)) < 0)
		return -LAT_TC_STAT_TRUNCATED;
	type = h[0];
	p->dport = type;
	if (p->key.is6 ? type == 128 || type == 129 : type == 8 || type == 0 || type == 13 || type == 14) {
		p->key.local_port = *(__u16 *)(h + 4);
		p->begins = p->key.is6 ? type == 128 : type == 8 || type == 13;
		p->answers = !p->begins;
		return IS_FLOW;
	}
	p->untracked = 1;
	if (p->key.is6 && type >= 133 && type <= 136 && p->hops == 255 && h[1] == 0 && !p->first)
		return IS_NEIGHBOUR;
	if (p->first || !(p->key.is6 ? type >= 1 && type <= 4 : type == 3 || type == 11 || type == 12))
		return IS_FLOW;
	p->at += 8;
	return lat_quoted(skb, p);
}

static __always_inline int parse_transport(struct __sk_buff *skb, struct packet *p, int proto)
{
	__u8 h[20];

	p->key.proto = (__u8)proto;
	if (p->later)
		return IS_LATER;
	if (p->at + (proto == PROTO_TCP ? 20 : proto == PROTO_UDP ? 8 : 0) > p->end)
		return -LAT_TC_STAT_TRUNCATED;
	if (proto == PROTO_TCP) {
		if (load(skb, p->at, h, 20) < 0)
			return -LAT_TC_STAT_TRUNCATED;
		if (h[12] >> 4 < 5)
			return -LAT_TC_STAT_ODD;
		p->flags = h[13];
		p->begins = (h[13] & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
		p->answers = !p->begins && (h[13] & (TCP_SYN | TCP_RST)) != 0;
	} else if (proto == PROTO_UDP) {
		if (load(skb, p->at, h, 8) < 0)
			return -LAT_TC_STAT_TRUNCATED;
	} else if (p->key.is6 ? proto == PROTO_ICMPV6 : proto == PROTO_ICMP) {
		return parse_icmp(skb, p);
	} else {
		return IS_FLOW;
	}
	set_ports(&p->key, p->dir, *(__u16 *)h, *(__u16 *)(h + 2));
	p->sport = bpf_ntohs(*(__u16 *)h);
	p->dport = p->port = bpf_ntohs(*(__u16 *)(h + 2));
	return IS_FLOW;
}

static __always_inline int parse_v4(struct __sk_buff *skb, struct packet *p)
{
	__u32 h[5], size, total, where;
	__u8 *b = (__u8 *)h;
	int r;

	if (load(skb, p->at, h, sizeof(h)) < 0)
		return -LAT_TC_STAT_TRUNCATED;
	size = (b[0] & 0xfu) * 4;
	total = bpf_ntohs(*(__u16 *)(b + 2));
	if (size < 20 || (total < size && !(total == 0 && skb->gso_size)))
		return -LAT_TC_STAT_ODD;
	if (p->at + total > skb->len)
		return -LAT_TC_STAT_TRUNCATED;
	p->end = total ? p->at + total : skb->len;
	if (size > 20 && (r = lat_v4_options(skb, p->at + 20, p->at + size)) < 0)
		return r;
	set_ends4(&p->key, p->dir, h[3], h[4]);
	where = bpf_ntohs(*(__u16 *)(b + 6));
	p->later = (where & 0x1fff) != 0;
	p->first = !p->later && (where & 0x2000);
	p->fragment_id = *(__u16 *)(b + 4);
	if ((where & 0x1fff) == 1 && b[9] == PROTO_TCP)
		return -LAT_TC_STAT_ODD;
	p->at += size;
	return parse_transport(skb, p, b[9]);
}

static __always_inline int parse_v6(struct __sk_buff *skb, struct packet *p)
{
	__u32 h[10];
	__u8 *b = (__u8 *)h;
	int proto;

	if (load(skb, p->at, h, sizeof(h)) < 0)
		return -LAT_TC_STAT_TRUNCATED;
	p->end = p->at + 40 + bpf_ntohs(*(__u16 *)(b + 4));
	if (p->end > skb->len)
		return -LAT_TC_STAT_TRUNCATED;
	if (p->end == p->at + 40 && skb->gso_size)
		p->end = skb->len;
	if (is_mapped(h + 2) || is_mapped(h + 6))
		return -LAT_TC_STAT_ODD;
	set_ends6(&p->key, p->dir, h + 2, h + 6);
	p->hops = b[7];
	p->at += 40;
	proto = lat_v6_headers(skb, p, b[6]);
	return proto < 0 ? proto : parse_transport(skb, p, proto);
}

/* The ends of the IPv6 header at b, in the packet. Values are chosen by direction, not addresses: without CAP_PERFMON the
 * verifier allows no pointer that is one or the other. */
static __always_inline void set_plain6(struct lat_tc_key *key, int dir, const __u8 *b)
{
	for (int i = 0; i < 16; i += 8) {
		__u64 src = *(volatile __u64 *)(b + 8 + i), dst = *(volatile __u64 *)(b + 24 + i);

		*(__u64 *)(key->local + i) = dir == DIR_OUT ? src : dst;
		*(__u64 *)(key->remote + i) = dir == DIR_OUT ? dst : src;
	}
}

/* What nearly all packets are: TCP or UDP right behind a plain IP header, all of it in reach. 0: it is something else, or
 * wrong, and the key is as it was: the long way tells. The headers are read where they are, which is faster than copying. The
 * key (all but the device) is written in the words that the hash reads: it would wait for halves. */
static __always_inline int plain_key(struct __sk_buff *skb, struct lat_tc_key *key, int dir, __u32 ether, __u8 *flags)
{
	__u8 *b = (__u8 *)(long)skb->data, *end = (__u8 *)(long)skb->data_end, *t;
	__u32 size, proto, at = 0, src, dst;

	if (ether) {
		if (b + 14 > end)
			return 0;
		at = 14;
		/* A tag, or a type that does not go with the version: the long way. */
		if (*(__u16 *)(b + 12) != bpf_htons(0x0800) && *(__u16 *)(b + 12) != bpf_htons(0x86dd))
			return 0;
		if (b + 34 > end || (*(__u16 *)(b + 12) == bpf_htons(0x0800)) != (b[14] >> 4 == 4))
			return 0;
		b += 14;
	}
	if (b + 40 > end)
		return 0;
	if (b[0] == 0x45) {
		size = bpf_ntohs(*(__u16 *)(b + 2));
		proto = b[9];
		if (size < 40 || at + size > skb->len || (*(__u16 *)(b + 6) & bpf_htons(0x3fff)))
			return 0;
		t = b + 20;
	} else if (b[0] >> 4 == 6) {
		size = 40 + bpf_ntohs(*(__u16 *)(b + 4));
		proto = b[6];
		t = b + 40;
		if (size < 60 || at + size > skb->len || t + 20 > end || is_mapped((__u32 *)(b + 8)) ||
			is_mapped((__u32 *)(b + 24)))
			return 0;
	} else {
		return 0;
	}
	*flags = 0;
	if (proto == PROTO_TCP) {
		if (t[12] >> 4 < 5)
			return 0;
		*flags = t[13];
	} else if (proto != PROTO_UDP) {
		return 0;
	}
	if (b[0] == 0x45) {
		set_ends4(key, dir, *(__u32 *)(b + 12), *(__u32 *)(b + 16));
		*(__u32 *)&key->proto = bpf_htonl(proto << 24);
	} else {
		set_plain6(key, dir, b);
		*(__u32 *)&key->proto = bpf_htonl(proto << 24 | 1 << 16);
	}
	src = *(__u16 *)t;
	dst = *(__u16 *)(t + 2);
	*(__u32 *)&key->local_port = dir == DIR_OUT ? src | dst << 16 : dst | src << 16;
	return 1;
}

static __always_inline int parse_plain(struct __sk_buff *skb, struct packet *p, __u32 ether)
{
	__u16 local, remote;

	if (!plain_key(skb, &p->key, p->dir, ether, &p->flags))
		return 0;
	p->begins = (p->flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
	p->answers = !p->begins && (p->flags & (TCP_SYN | TCP_RST)) != 0;
	/* Values are chosen, not addresses: see set_plain6. */
	local = *(volatile __u16 *)&p->key.local_port;
	remote = *(volatile __u16 *)&p->key.remote_port;
	p->sport = bpf_ntohs(p->dir == DIR_OUT ? local : remote);
	p->dport = p->port = bpf_ntohs(p->dir == DIR_OUT ? remote : local);
	return 1;
}

static __always_inline int parse_any(struct __sk_buff *skb, struct packet *p, __u32 ether)
{
	__u8 version;

	if (ether) {
		__u16 type;

		p->at = 14;
		if (load(skb, 12, &type, 2) < 0)
			return -LAT_TC_STAT_TRUNCATED;
		for (int i = 0; i < 2 && (type == bpf_htons(0x8100) || type == bpf_htons(0x88a8)); i++) {
			if (load(skb, p->at + 2, &type, 2) < 0)
				return -LAT_TC_STAT_TRUNCATED;
			p->at += 4;
		}
		if (type == bpf_htons(0x0806))
			return IS_NEIGHBOUR;
		if (type == bpf_htons(0x0800))
			version = 4;
		else if (type == bpf_htons(0x86dd))
			version = 6;
		else
			return -LAT_TC_STAT_ODD;
	} else {
		version = 0;
	}
	__u8 first;

	if (load(skb, p->at, &first, 1) < 0)
		return -LAT_TC_STAT_TRUNCATED;
	first >>= 4;
	if (version && first != version)
		return -LAT_TC_STAT_ODD;
	if (first == 4)
		return parse_v4(skb, p);
	if (first == 6)
		return parse_v6(skb, p);
	return -LAT_TC_STAT_ODD;
}

/* p->dir and p->key.ifindex are set, the rest is zero. ether: the packet begins with an Ethernet header. */
__noinline int lat_parse(struct __sk_buff *skb, struct packet *p, __u32 ether)
{
	if (!p)
		return -LAT_TC_STAT_ODD;
	return parse_plain(skb, p, ether) ? IS_FLOW : parse_any(skb, p, ether);
}

#endif
