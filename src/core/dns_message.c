/* See dns_message.h. Reading goes through one cursor that refuses to pass the end; writing through
 * one that knows the room. */
#include "core/dns_message.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define HEADER 12
#define OPT_LEN 11	    /* OPT with no options */
#define OPT_REASON 15	    /* option number of an extended error */
#define REASON_TEXT_MAX 120 /* of an explanation; the rest is cut */
#define FLAG_QR 0x80
#define FLAG_TC 0x02
#define FLAG_RD 0x01
#define FLAG_RA 0x80
#define FLAG_CD 0x10
#define POINTER 0xc000

struct cursor {
	const uint8_t *p, *end;
};

static bool get16(struct cursor *c, uint16_t *out)
{
	if (c->end - c->p < 2)
		return false;
	*out = (uint16_t)(c->p[0] << 8 | c->p[1]);
	c->p += 2;
	return true;
}

/* A name without compression; a pointer is a length above 63 and refused like one. */
static bool get_name(struct cursor *c, uint8_t *out, uint8_t *len)
{
	size_t n = 0;

	for (;;) {
		size_t label;

		if (c->p >= c->end)
			return false;
		label = *c->p;
		if (label > 63 || n + label + 1 > LAT_DNS_WIRE_NAME ||
			(size_t)(c->end - c->p) < label + 1)
			return false;
		memcpy(out + n, c->p, label + 1);
		n += label + 1;
		c->p += label + 1;
		if (label == 0)
			break;
	}
	*len = (uint8_t)n;
	return true;
}

static bool plain(uint8_t byte)
{
	return byte > 0x20 && byte < 0x7f && byte != '.' && byte != '\\';
}

static void name_text(const uint8_t *name, char *out)
{
	char *w = out;

	for (const uint8_t *p = name; *p; p += *p + 1) {
		if (w != out)
			*w++ = '.';
		for (unsigned i = 1; i <= *p; i++) {
			if (plain(p[i]))
				*w++ = (char)p[i];
			else
				w += sprintf(w, "\\%03u", p[i]);
		}
	}
	if (w == out)
		*w++ = '.';
	*w = '\0';
}

/* The additional section: nothing, or one OPT record of the root. */
static int parse_opt(struct cursor *c, struct lat_dns_query *q)
{
	uint16_t type, size, ext, flags, rdlen;

	if (c->p >= c->end || *c->p++ != 0)
		return LAT_DNS_FORMERR;
	if (!get16(c, &type) || type != LAT_DNS_OPT || !get16(c, &size) || !get16(c, &ext) ||
		!get16(c, &flags) || !get16(c, &rdlen) || c->end - c->p != rdlen)
		return LAT_DNS_FORMERR;
	while (c->p < c->end) {
		uint16_t code, len;

		if (!get16(c, &code) || !get16(c, &len) || c->end - c->p < len)
			return LAT_DNS_FORMERR;
		c->p += len;
	}
	q->edns = 1;
	q->udp_size = size < LAT_DNS_UDP_MIN   ? LAT_DNS_UDP_MIN
		      : size > LAT_DNS_UDP_MAX ? LAT_DNS_UDP_MAX
					       : size;
	return (ext & 0xff) ? LAT_DNS_BADVERS : 0;
}

int lat_dns_query_parse(const uint8_t *msg, size_t len, struct lat_dns_query *q)
{
	struct cursor c;
	uint16_t qd, an, ns, ar;

	if (len < HEADER || (msg[2] & FLAG_QR))
		return -EBADMSG;
	c = (struct cursor){msg + HEADER, msg + len};
	memset(q, 0, sizeof(*q));
	q->udp_size = LAT_DNS_UDP_MIN;
	q->id = (uint16_t)(msg[0] << 8 | msg[1]);
	q->opcode = msg[2] >> 3 & 15;
	q->rd = msg[2] & FLAG_RD;
	q->cd = msg[3] & FLAG_CD;
	if (q->opcode != 0)
		return LAT_DNS_NOTIMP;
	qd = (uint16_t)(msg[4] << 8 | msg[5]);
	an = (uint16_t)(msg[6] << 8 | msg[7]);
	ns = (uint16_t)(msg[8] << 8 | msg[9]);
	ar = (uint16_t)(msg[10] << 8 | msg[11]);
	if (qd != 1 || an != 0 || ns != 0 || ar > 1 || (msg[2] & FLAG_TC))
		return LAT_DNS_FORMERR;
	if (!get_name(&c, q->qname, &q->qname_len))
		return LAT_DNS_FORMERR;
	if (!get16(&c, &q->qtype) || !get16(&c, &q->qclass)) {
		q->qname_len = 0;
		return LAT_DNS_FORMERR;
	}
	name_text(q->qname, q->text);
	if (ar == 1)
		return parse_opt(&c, q);
	return c.p == c.end ? 0 : LAT_DNS_FORMERR;
}

int lat_dns_name_encode(const char *text, uint8_t out[LAT_DNS_WIRE_NAME])
{
	size_t n = 0;

	for (;;) {
		size_t label = strcspn(text, ".");

		if (label == 0 || label > 63 || n + label + 2 > LAT_DNS_WIRE_NAME)
			return -EINVAL;
		for (size_t i = 0; i < label; i++)
			if (!plain((uint8_t)text[i]))
				return -EINVAL;
		out[n++] = (uint8_t)label;
		memcpy(out + n, text, label);
		n += label;
		if (!text[label])
			break;
		text += label + 1;
		if (!*text) /* one trailing dot */
			break;
	}
	out[n++] = 0;
	return (int)n;
}

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

void lat_dns_reply_begin(
	struct lat_dns_reply *r, uint8_t *buf, size_t size, const struct lat_dns_query *q)
{
	memset(r, 0, sizeof(*r));
	r->buf = buf;
	r->size = size;
	r->edns = q->edns;
	memset(buf, 0, HEADER);
	put16(buf, q->id);
	buf[2] = (uint8_t)(FLAG_QR | q->opcode << 3 | q->rd);
	buf[3] = (uint8_t)(FLAG_RA | q->cd);
	r->len = HEADER;
	if (q->qname_len) {
		put16(buf + 4, 1);
		memcpy(buf + r->len, q->qname, q->qname_len);
		r->len += q->qname_len;
		put16(buf + r->len, q->qtype);
		put16(buf + r->len + 2, q->qclass);
		r->len += 4;
	}
	r->owner = HEADER;
	r->last = r->len;
}

static int add_record(
	struct lat_dns_reply *r, uint16_t type, uint32_t ttl, const void *data, size_t len)
{
	size_t need = 12 + len, room = r->size - r->len - (r->edns ? OPT_LEN : 0);
	uint8_t *p = r->buf + r->len;

	if (r->truncated || need > room) {
		r->truncated = 1;
		return -ENOSPC;
	}
	put16(p, POINTER | r->owner);
	put16(p + 2, type);
	put16(p + 4, 1);
	put16(p + 6, ttl >> 16);
	put16(p + 8, ttl & 0xffff);
	put16(p + 10, (unsigned)len);
	memcpy(p + 12, data, len);
	r->last = r->len;
	r->len += need;
	r->count++;
	return 0;
}

int lat_dns_reply_cname(struct lat_dns_reply *r, const char *target, uint32_t ttl)
{
	uint8_t name[LAT_DNS_WIRE_NAME];
	int n = lat_dns_name_encode(target, name);

	if (n < 0)
		return n;
	if (r->len + 12 >= 0x3fff) { /* beyond the reach of a pointer */
		r->truncated = 1;
		return -ENOSPC;
	}
	if (add_record(r, LAT_DNS_CNAME, ttl, name, (size_t)n) < 0)
		return -ENOSPC;
	r->owner = (uint16_t)(r->last + 12);
	return 0;
}

int lat_dns_reply_addr(struct lat_dns_reply *r, const struct lat_addr *addr, uint32_t ttl)
{
	if (lat_addr_is4(addr))
		return add_record(r, LAT_DNS_A, ttl, addr->b + 12, 4);
	return add_record(r, LAT_DNS_AAAA, ttl, addr->b, 16);
}

void lat_dns_reply_undo(struct lat_dns_reply *r)
{
	if (r->len == r->last)
		return;
	r->len = r->last;
	r->count--;
}

void lat_dns_reply_explain(struct lat_dns_reply *r, enum lat_dns_reason reason, const char *text)
{
	r->reason = reason;
	r->reason_text = text;
}

static void add_opt(struct lat_dns_reply *r, unsigned rcode)
{
	uint8_t *p = r->buf + r->len;
	size_t text = r->reason ? strnlen(r->reason_text, REASON_TEXT_MAX) : 0;

	memset(p, 0, OPT_LEN);
	put16(p + 1, LAT_DNS_OPT);
	put16(p + 3, LAT_DNS_UDP_MAX);
	p[5] = (uint8_t)(rcode >> 4);
	r->len += OPT_LEN;
	if (r->reason && r->size - r->len >= 6 + text) {
		put16(p + 9, (unsigned)(6 + text));
		put16(p + 11, OPT_REASON);
		put16(p + 13, (unsigned)(2 + text));
		put16(p + 15, r->reason);
		memcpy(p + 17, r->reason_text, text);
		r->len += 6 + text;
	}
	put16(r->buf + 10, 1);
}

size_t lat_dns_reply_end(struct lat_dns_reply *r, enum lat_dns_rcode rcode)
{
	if (r->edns)
		add_opt(r, rcode);
	if (r->truncated)
		r->buf[2] |= FLAG_TC;
	r->buf[3] = (uint8_t)((r->buf[3] & 0xf0) | (rcode & 15));
	put16(r->buf + 6, r->count);
	return r->len;
}
