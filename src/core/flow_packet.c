/* See flow_packet.h. A cursor that only moves forward and never past the end. */
#include "core/flow_packet.h"
#include <errno.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <string.h>

struct cursor {
	const uint8_t *at;
	size_t left;
};

/* More extension headers than this are no honest packet. */
#define MAX_EXTENSIONS 8

static uint16_t be16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)be16(p) << 16 | be16(p + 2);
}

static bool skip(struct cursor *c, size_t n)
{
	if (n > c->left)
		return false;
	c->at += n;
	c->left -= n;
	return true;
}

static bool parse_ip4(struct cursor *c, struct lat_packet *p)
{
	size_t head, total;

	if (c->left < 20)
		return false;
	head = (size_t)(c->at[0] & 15) * 4;
	total = be16(c->at + 2);
	if (head < 20 || total < head || total > c->left || (be16(c->at + 6) & 0x3fff))
		return false;
	p->flow.proto = c->at[9];
	lat_addr_from4(&p->flow.local, c->at + 12);
	lat_addr_from4(&p->flow.remote, c->at + 16);
	c->left = total;
	return skip(c, head);
}

static bool parse_ip6(struct cursor *c, struct lat_packet *p)
{
	size_t length;
	uint8_t next;

	if (c->left < 40)
		return false;
	length = be16(c->at + 4);
	if (length == 0 || length > c->left - 40)
		return false;
	next = c->at[6];
	lat_addr_from6(&p->flow.local, c->at + 8);
	lat_addr_from6(&p->flow.remote, c->at + 24);
	/* A mapped address on the wire would be taken for the IPv4 address by everything behind us. */
	if (lat_addr_is4(&p->flow.local) || lat_addr_is4(&p->flow.remote))
		return false;
	c->left = 40 + length;
	skip(c, 40);
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		size_t n;

		switch (next) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_DSTOPTS:
			if (c->left < 8)
				return false;
			n = ((size_t)c->at[1] + 1) * 8;
			break;
		case IPPROTO_FRAGMENT:
			if (c->left < 8 || (be16(c->at + 2) & 0xfff9))
				return false;
			n = 8;
			break;
		case IPPROTO_ROUTING: /* the destination in the header need not be the last one */
			return false;
		default:
			p->flow.proto = next;
			return true;
		}
		next = c->at[0];
		if (!skip(c, n))
			return false;
	}
	return false;
}

static bool parse_tcp(struct cursor *c, struct lat_packet *p)
{
	size_t head;

	if (c->left < 20)
		return false;
	head = (size_t)(c->at[12] >> 4) * 4;
	if (head < 20 || head > c->left)
		return false;
	if ((c->at[13] & 0x17) != 0x02) /* FIN, SYN, RST, ACK: SYN alone */
		return false;
	p->flow.sport = be16(c->at);
	p->flow.dport = be16(c->at + 2);
	p->tcp_seq = be32(c->at + 4);
	return skip(c, head) && p->flow.sport && p->flow.dport;
}

static bool parse_udp(struct cursor *c, struct lat_packet *p)
{
	size_t length;

	if (c->left < 8)
		return false;
	p->flow.sport = be16(c->at);
	p->flow.dport = be16(c->at + 2);
	length = be16(c->at + 4);
	if (length < 8 || length > c->left)
		return false;
	c->left = length;
	return skip(c, 8) && p->flow.sport && p->flow.dport;
}

static bool parse_echo(struct cursor *c, struct lat_packet *p, uint8_t type)
{
	if (c->left < 8 || c->at[0] != type || c->at[1] != 0)
		return false;
	p->echo_id = be16(c->at + 4);
	p->echo_seq = be16(c->at + 6);
	return skip(c, 8);
}

int lat_packet_parse(const uint8_t *data, size_t size, struct lat_packet *out)
{
	struct cursor c = { data, size };
	struct lat_packet p = { .flow.dir = LAT_DIR_OUT };
	bool good, is4;

	if (size < 1)
		return -EBADMSG;
	is4 = data[0] >> 4 == 4;
	if (!is4 && data[0] >> 4 != 6)
		return -EBADMSG;
	if (!(is4 ? parse_ip4(&c, &p) : parse_ip6(&c, &p)))
		return -EBADMSG;
	switch (p.flow.proto) {
	case IPPROTO_TCP:
		good = parse_tcp(&c, &p);
		break;
	case IPPROTO_UDP:
		good = parse_udp(&c, &p);
		break;
	case IPPROTO_ICMP:
		good = is4 && parse_echo(&c, &p, ICMP_ECHO);
		break;
	case IPPROTO_ICMPV6:
		good = !is4 && parse_echo(&c, &p, ICMP6_ECHO_REQUEST);
		break;
	default:
		good = false;
	}
	if (!good)
		return -EBADMSG;
	p.payload = c.at;
	p.payload_size = c.left;
	*out = p;
	return 0;
}

static bool ends_ip4(struct cursor *c, struct lat_flow *f, uint32_t *length)
{
	size_t head;

	if (c->left < 20)
		return false;
	head = (size_t)(c->at[0] & 15) * 4;
	if (head < 20)
		return false;
	*length = be16(c->at + 2);
	f->proto = c->at[9];
	lat_addr_from4(&f->local, c->at + 12);
	lat_addr_from4(&f->remote, c->at + 16);
	if ((be16(c->at + 6) & 0x1fff) || !skip(c, head))
		c->left = 0; /* a later fragment has no ports */
	return true;
}

static bool ends_ip6(struct cursor *c, struct lat_flow *f, uint32_t *length)
{
	if (c->left < 40)
		return false;
	*length = 40u + be16(c->at + 4);
	f->proto = c->at[6];
	lat_addr_from6(&f->local, c->at + 8);
	lat_addr_from6(&f->remote, c->at + 24);
	skip(c, 40);
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		bool fragment = f->proto == IPPROTO_FRAGMENT;

		if (f->proto != IPPROTO_HOPOPTS && f->proto != IPPROTO_DSTOPTS && f->proto != IPPROTO_ROUTING && !fragment)
			return true;
		if (c->left < 8)
			break;
		f->proto = c->at[0];
		if (fragment && (be16(c->at + 2) & 0xfff8))
			break;
		if (!skip(c, fragment ? 8 : ((size_t)c->at[1] + 1) * 8))
			break;
	}
	c->left = 0;
	return true;
}

int lat_packet_ends(const uint8_t *data, size_t size, struct lat_flow *flow, uint32_t *length)
{
	struct cursor c = { data, size };
	struct lat_flow f = { .dir = LAT_DIR_OUT };
	uint32_t total;

	if (size < 1)
		return -EBADMSG;
	if (data[0] >> 4 == 4 ? !ends_ip4(&c, &f, &total) : data[0] >> 4 != 6 || !ends_ip6(&c, &f, &total))
		return -EBADMSG;
	switch (f.proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
	case IPPROTO_UDPLITE:
		if (c.left >= 4) {
			f.sport = be16(c.at);
			f.dport = be16(c.at + 2);
		}
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (c.left >= 1)
			f.dport = c.at[0];
		break;
	default:
		break;
	}
	*flow = f;
	*length = total;
	return 0;
}
