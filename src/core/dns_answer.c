/* The answers of the sandbox's DNS server: what may be given is pinned, then sent; see
 * dns_question.h. */
#include "base/clock.h"
#include "base/mem.h"
#include "core/dns_question.h"

#define TTL_MAX 3600
#define TTL_NO_NAME 5 /* of an answer that there is no such name or address */
#define TTL_FAILURE 1 /* of a failure: askers repeat at once */
#define TTL_LOCAL 60

static void forget(struct lat_dns_question *q)
{
	struct lat_dns_question **at = &q->dns->questions;

	while (*at != q)
		at = &(*at)->next;
	*at = q->next;
	q->dns->open--;
	free(q);
}

static void begin(const struct lat_dns_question *q, struct lat_dns_reply *r)
{
	lat_dns_reply_begin(
		r, q->dns->out, q->tcp ? sizeof(q->dns->out) : q->query.udp_size, &q->query);
}

/* A full buffer loses the answer; the asker repeats. */
static void send_datagram(const struct lat_dns_question *q, const uint8_t *msg, size_t len)
{
	sendto(q->dns->udp.fd, msg, len, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&q->from,
		q->from_len);
}

/* Sends what was built, tells what happened, ends the question.
 *
 * musl's resolver takes no notice of REFUSED and waits its 5 s. So an asker that may be musl (UDP,
 * no EDNS0) is told a second time, by NXDOMAIN; whoever took the first answer never sees it. */
static void send_reply(struct lat_dns_question *q, struct lat_dns_reply *r,
	enum lat_dns_rcode rcode, size_t addresses, size_t refused_private)
{
	struct lat_dns *d = q->dns;
	size_t len = lat_dns_reply_end(r, rcode);
	char *shown = q->name[0] ? q->name : q->query.text;

	shown[LAT_NAME_MAX - 1] = '\0';
	d->asker = q->conn ? lat_dns_conn_fd(q->conn) : -1;
	d->hooks->done(d->hooks->ctx, shown, q->query.qtype, rcode, addresses, refused_private,
		q->tcp, q->sport);
	if (q->conn) {
		struct lat_dns_conn *conn = q->conn;

		q->conn = NULL;
		lat_dns_conn_answer(conn, r->buf, len);
	} else if (!q->tcp) {
		send_datagram(q, r->buf, len);
		if (rcode == LAT_DNS_REFUSED && !q->query.edns) {
			r->buf[3] = (uint8_t)((r->buf[3] & 0xf0) | LAT_DNS_NXDOMAIN);
			send_datagram(q, r->buf, len);
		}
	}
	forget(q);
}

static void answer_why(struct lat_dns_question *q, enum lat_dns_rcode rcode,
	enum lat_dns_reason reason, const char *why)
{
	struct lat_dns_reply r;

	begin(q, &r);
	if (reason)
		lat_dns_reply_explain(&r, reason, why);
	send_reply(q, &r, rcode, 0, 0);
}

void lat_dns_question_code(struct lat_dns_question *q, enum lat_dns_rcode rcode)
{
	answer_why(q, rcode, LAT_DNS_REASON_NONE, NULL);
}

void lat_dns_question_refuse(struct lat_dns_question *q)
{
	answer_why(q, LAT_DNS_REFUSED, LAT_DNS_REASON_BLOCKED,
		"lattice: no rule of the policy allows this name");
}

static uint32_t bounded_ttl(uint32_t ttl)
{
	return ttl < 1 ? 1 : ttl > TTL_MAX ? TTL_MAX : ttl;
}

void lat_dns_question_localhost(struct lat_dns_question *q)
{
	static const uint8_t four[4] = {127, 0, 0, 1}, six[16] = {[15] = 1};
	struct lat_dns_reply r;
	struct lat_addr addr;
	size_t n = 0;

	begin(q, &r);
	if (q->query.qtype == LAT_DNS_A)
		lat_addr_from4(&addr, four);
	else
		lat_addr_from6(&addr, six);
	if (lat_dns_question_asks_address(q))
		n = lat_dns_reply_addr(&r, &addr, TTL_LOCAL) == 0;
	send_reply(q, &r, LAT_DNS_NOERROR, n, 0);
}

/* Adds the addresses that may be given, each pinned. Returns how many. */
static size_t add_addresses(struct lat_dns_question *q, struct lat_dns_reply *r,
	const struct lat_resolved *result, size_t *refused_private)
{
	struct lat_dns *d = q->dns;
	uint64_t now = lat_now_ns();
	size_t n = 0;

	for (size_t i = 0; i < result->addr_count; i++) {
		const struct lat_addr *addr = &result->addrs[i].addr;
		uint32_t ttl = bounded_ttl(result->addrs[i].ttl);

		if (!q->private_ok && lat_addr_is_private(addr)) {
			++*refused_private;
			continue;
		}
		if (lat_dns_reply_addr(r, addr, ttl) < 0)
			break;
		if (d->hooks->pin(d->hooks->ctx, q->name, addr,
			    now + ((uint64_t)ttl + d->grace_s) * LAT_NS_PER_SEC))
			n++;
		else
			lat_dns_reply_undo(r);
	}
	return n;
}

static void answer_addresses(struct lat_dns_question *q, const struct lat_resolved *result)
{
	size_t refused_private = 0, n = 0;
	struct lat_dns_reply r;
	int err = 0;

	begin(q, &r);
	for (size_t i = 0; i < result->cname_count && err == 0; i++)
		err = lat_dns_reply_cname(
			&r, result->cnames[i].target, bounded_ttl(result->cnames[i].ttl));
	if (err == -EINVAL) {
		lat_dns_question_code(q, LAT_DNS_SERVFAIL);
		return;
	}
	n = add_addresses(q, &r, result, &refused_private);
	if (n == 0 && !r.truncated) {
		begin(q, &r); /* an alias alone says nothing */
		if (refused_private)
			lat_dns_reply_explain(&r, LAT_DNS_REASON_FILTERED,
				"lattice: the name leads to private addresses and its rule has no "
				"private = true");
	}
	send_reply(q, &r, LAT_DNS_NOERROR, n, refused_private);
}

void lat_dns_question_result(struct lat_dns_question *q, const struct lat_resolved *result)
{
	if (q->tcp && !q->conn) /* nobody will see an answer, so nothing is pinned */
		lat_dns_question_code(q, LAT_DNS_SERVFAIL);
	else if (result->status == 0 || result->status == -ENODATA)
		answer_addresses(q, result);
	else if (result->status == -ENOENT)
		lat_dns_question_code(q, LAT_DNS_NXDOMAIN);
	else
		lat_dns_question_code(q, LAT_DNS_SERVFAIL);
}

uint32_t lat_dns_keep_s(const struct lat_resolved *result)
{
	uint32_t ttl = TTL_MAX;

	if (result->status == -ENOENT || result->status == -ENODATA)
		return TTL_NO_NAME;
	if (result->status != 0)
		return TTL_FAILURE;
	for (size_t i = 0; i < result->addr_count; i++)
		ttl = result->addrs[i].ttl < ttl ? result->addrs[i].ttl : ttl;
	for (size_t i = 0; i < result->cname_count; i++)
		ttl = result->cnames[i].ttl < ttl ? result->cnames[i].ttl : ttl;
	return bounded_ttl(ttl);
}
