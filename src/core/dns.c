/* See dns.h. A query becomes a question; a question is judged, perhaps waits for a handler, perhaps
 * for the host's resolver, and is answered once:
 *
 *   JUDGING -> answered                  refused, answered here, or from the cache
 *           -> WAITING -> ...            a handler was asked; lat_dns_answer goes on
 *           -> RESOLVING -> answered     by on_resolved
 *
 * Only what an answer really carries is pinned, and it is pinned before it is sent. Nothing waits
 * in line: every question has its own place, and when there is none, the asker gets SERVFAIL. */
#include "core/dns.h"
#include "base/clock.h"
#include "base/mem.h"
#include "core/dns_cache.h"
#include "core/dns_local.h"
#include "core/dns_message.h"
#include "core/dns_stream.h"
#include <string.h>
#include <sys/epoll.h>

#define QUESTIONS 256 /* open at once */
#define DATAGRAMS 32  /* for each wake-up */
#define CACHE 256
#define REPLY 16384 /* the longest answer: all aliases and addresses of a result are below 7 KiB   \
		     */
#define TTL_MAX 3600
#define TTL_NO_NAME 5 /* of an answer that there is no such name or address */
#define TTL_FAILURE 1 /* of a failure: askers repeat at once */
#define TTL_LOCAL 60
#define GRACE_S 30
#define WAIT_S 120 /* handlers have their own, shorter limit; this is the floor under it */
#define CLASS_IN 1

enum state { JUDGING, WAITING, RESOLVING };

struct question {
	struct question *next;
	struct lat_dns *dns; /* NULL: the server is gone, the resolver still has the question */
	struct lat_dns_conn *conn; /* NULL: asked over UDP, or the connection is gone */
	struct sockaddr_storage from;
	socklen_t from_len;
	uint64_t id, asked_ns;
	enum state state;
	bool tcp, private_ok;
	uint16_t sport;
	char name[LAT_NAME_MAX]; /* normalized; "" if it is no host name */
	struct lat_dns_query query;
};

struct lat_dns {
	struct lat_poll_item udp;
	struct lat_poller *poller;
	struct lat_resolver *resolver;
	const struct lat_dns_hooks *hooks;
	struct lat_dns_stream_hooks stream_hooks;
	struct lat_dns_streams *streams;
	struct lat_dns_cache *cache;
	struct question *questions;
	size_t open;
	uint64_t next_id;
	uint32_t grace_s;
	struct lat_resolved cached; /* what the cache gave, while it is answered */
	uint8_t out[REPLY];
};

static bool asks_address(const struct question *q)
{
	return q->query.qtype == LAT_DNS_A || q->query.qtype == LAT_DNS_AAAA;
}

static void forget(struct question *q)
{
	struct question **at = &q->dns->questions;

	while (*at != q)
		at = &(*at)->next;
	*at = q->next;
	q->dns->open--;
	free(q);
}

static void begin(const struct question *q, struct lat_dns_reply *r)
{
	lat_dns_reply_begin(
		r, q->dns->out, q->tcp ? sizeof(q->dns->out) : q->query.udp_size, &q->query);
}

/* Sends what was built, tells what happened, ends the question. */
static void send_reply(struct question *q, struct lat_dns_reply *r, enum lat_dns_rcode rcode,
	size_t addresses, size_t refused_private)
{
	struct lat_dns *d = q->dns;
	size_t len = lat_dns_reply_end(r, rcode);
	char *shown = q->name[0] ? q->name : q->query.text;

	shown[LAT_NAME_MAX - 1] = '\0';
	d->hooks->done(d->hooks->ctx, shown, q->query.qtype, rcode, addresses, refused_private,
		q->tcp, q->sport);
	if (q->conn) {
		struct lat_dns_conn *conn = q->conn;

		q->conn = NULL;
		lat_dns_conn_answer(conn, r->buf, len);
	} else if (!q->tcp) {
		/* A full buffer loses the answer; the asker repeats. */
		sendto(d->udp.fd, r->buf, len, MSG_DONTWAIT | MSG_NOSIGNAL,
			(struct sockaddr *)&q->from, q->from_len);
	}
	forget(q);
}

static void answer_code(
	struct question *q, enum lat_dns_rcode rcode, enum lat_dns_reason reason, const char *why)
{
	struct lat_dns_reply r;

	begin(q, &r);
	if (reason)
		lat_dns_reply_explain(&r, reason, why);
	send_reply(q, &r, rcode, 0, 0);
}

static void refuse(struct question *q)
{
	answer_code(q, LAT_DNS_REFUSED, LAT_DNS_REASON_BLOCKED,
		"lattice: no rule of the policy allows this name");
}

static uint32_t bounded_ttl(uint32_t ttl)
{
	return ttl < 1 ? 1 : ttl > TTL_MAX ? TTL_MAX : ttl;
}

static void answer_local(struct question *q)
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
	if (asks_address(q))
		n = lat_dns_reply_addr(&r, &addr, TTL_LOCAL) == 0;
	send_reply(q, &r, LAT_DNS_NOERROR, n, 0);
}

/* Adds the addresses that may be given, each pinned. Returns how many. */
static size_t add_addresses(struct question *q, struct lat_dns_reply *r,
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

static void answer_addresses(struct question *q, const struct lat_resolved *result)
{
	size_t refused_private = 0, n = 0;
	struct lat_dns_reply r;
	int err = 0;

	begin(q, &r);
	for (size_t i = 0; i < result->cname_count && err == 0; i++)
		err = lat_dns_reply_cname(
			&r, result->cnames[i].target, bounded_ttl(result->cnames[i].ttl));
	if (err == -EINVAL) {
		answer_code(q, LAT_DNS_SERVFAIL, LAT_DNS_REASON_NONE, NULL);
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

static void answer_result(struct question *q, const struct lat_resolved *result)
{
	if (q->tcp && !q->conn) /* nobody will see an answer, so nothing is pinned */
		answer_code(q, LAT_DNS_SERVFAIL, LAT_DNS_REASON_NONE, NULL);
	else if (result->status == 0 || result->status == -ENODATA)
		answer_addresses(q, result);
	else if (result->status == -ENOENT)
		answer_code(q, LAT_DNS_NXDOMAIN, LAT_DNS_REASON_NONE, NULL);
	else
		answer_code(q, LAT_DNS_SERVFAIL, LAT_DNS_REASON_NONE, NULL);
}

/* How long a result may be kept: as long as its shortest record. */
static uint32_t keep_s(const struct lat_resolved *result)
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

static int family_of(const struct question *q)
{
	return q->query.qtype == LAT_DNS_A ? 4 : 6;
}

static void on_resolved(void *arg, const struct lat_resolved *result)
{
	struct question *q = arg;

	if (!q->dns) {
		free(q);
		return;
	}
	if (result->status != -ECANCELED)
		lat_dns_cache_put(
			q->dns->cache, q->name, family_of(q), result, keep_s(result), lat_now_ns());
	answer_result(q, result);
}

/* The name may be resolved. */
static void resolve(struct question *q)
{
	struct lat_dns *d = q->dns;

	if (!asks_address(q)) {
		answer_code(q, LAT_DNS_NOERROR, LAT_DNS_REASON_NONE, NULL);
		return;
	}
	if (lat_dns_cache_get(d->cache, q->name, family_of(q), lat_now_ns(), &d->cached)) {
		answer_result(q, &d->cached);
		return;
	}
	q->state = RESOLVING;
	if (lat_resolver_ask(d->resolver, q->name, family_of(q), on_resolved, q) < 0)
		answer_code(q, LAT_DNS_SERVFAIL, LAT_DNS_REASON_NONE, NULL);
}

static bool unsupported(const struct lat_dns_query *query)
{
	return query->qclass != CLASS_IN || query->qtype == 0 || query->qtype == LAT_DNS_OPT ||
	       (query->qtype >= 249 && query->qtype <= 255); /* TKEY, TSIG, transfers, ANY */
}

static void judge(struct question *q)
{
	struct lat_dns *d = q->dns;

	switch (lat_dns_local_kind(q->name)) {
	case LAT_DNS_LOCAL_HOST:
		answer_local(q);
		return;
	case LAT_DNS_LOCAL_REVERSE_HOST:
		answer_code(q, LAT_DNS_NXDOMAIN, LAT_DNS_REASON_NONE, NULL);
		return;
	case LAT_DNS_LOCAL_REVERSE:
		refuse(q);
		return;
	case LAT_DNS_LOCAL_NO:
		break;
	}
	switch (d->hooks->judge(d->hooks->ctx, q->id, q->name, q->query.qtype, &q->private_ok)) {
	case LAT_DNS_RESOLVE:
		resolve(q);
		return;
	case LAT_DNS_WAIT:
		q->state = WAITING;
		return;
	case LAT_DNS_REFUSE:
		break;
	}
	refuse(q);
}

/* The asker repeats what is already being worked on. */
static bool repeated(const struct lat_dns *d, const struct question *n)
{
	for (const struct question *q = d->questions; q; q = q->next)
		if (!q->tcp && q->query.id == n->query.id && q->query.qtype == n->query.qtype &&
			q->sport == n->sport && q->query.qname_len == n->query.qname_len &&
			q->from_len == n->from_len &&
			memcmp(q->query.qname, n->query.qname, n->query.qname_len) == 0 &&
			memcmp(&q->from, &n->from, n->from_len) == 0)
			return true;
	return false;
}

/* A message came, from conn or (NULL) by UDP from `from`. */
static void receive(struct lat_dns *d, const uint8_t *msg, size_t len, struct lat_dns_conn *conn,
	uint16_t sport, const struct sockaddr_storage *from, socklen_t from_len)
{
	struct question *q = calloc(1, sizeof(*q));
	int code = q ? lat_dns_query_parse(msg, len, &q->query) : -ENOMEM;

	if (code < 0) {
		free(q);
		if (conn)
			lat_dns_conn_answer(conn, NULL, 0);
		return;
	}
	q->dns = d;
	q->conn = conn;
	q->tcp = conn != NULL;
	q->sport = sport;
	if (from) {
		q->from = *from;
		q->from_len = from_len;
		if (repeated(d, q)) {
			free(q);
			return;
		}
	}
	q->id = ++d->next_id;
	q->asked_ns = lat_now_ns();
	q->next = d->questions;
	d->questions = q;
	d->open++;
	if (code > 0)
		answer_code(q, code, LAT_DNS_REASON_NONE, NULL);
	else if (unsupported(&q->query))
		answer_code(q, LAT_DNS_NOTIMP, LAT_DNS_REASON_NONE, NULL);
	else if (lat_name_normalize(q->query.text, strlen(q->query.text), q->name) < 0) {
		q->name[0] = '\0';
		refuse(q);
	} else if (d->open > QUESTIONS)
		answer_code(q, LAT_DNS_SERVFAIL, LAT_DNS_REASON_NONE, NULL);
	else
		judge(q);
}

static void on_udp(struct lat_poll_item *item, uint32_t events)
{
	struct lat_dns *d = lat_container_of(item, struct lat_dns, udp);
	uint8_t msg[1024]; /* longer than any query that is right; one cut here has trailing bytes
			      or none and is FORMERR */

	for (int i = 0; i < DATAGRAMS; i++) {
		struct sockaddr_storage from;
		socklen_t from_len = sizeof(from);
		struct lat_addr addr;
		uint16_t sport;
		ssize_t n;

		memset(&from, 0, sizeof(from));
		n = recvfrom(item->fd, msg, sizeof(msg), MSG_DONTWAIT, (struct sockaddr *)&from,
			&from_len);
		if (n < 0)
			return;
		if (lat_addr_from_sockaddr((struct sockaddr *)&from, from_len, &addr, &sport) == 0)
			receive(d, msg, (size_t)n, NULL, sport, &from, from_len);
	}
}

static void on_message(
	void *ctx, struct lat_dns_conn *conn, const uint8_t *msg, size_t len, uint16_t sport)
{
	receive(ctx, msg, len, conn, sport, NULL, 0);
}

static void on_gone(void *ctx, struct lat_dns_conn *conn)
{
	struct lat_dns *d = ctx;

	for (struct question *q = d->questions; q; q = q->next)
		if (q->conn == conn)
			q->conn = NULL;
}

void lat_dns_answer(struct lat_dns *dns, uint64_t id, bool do_resolve, bool private_ok)
{
	for (struct question *q = dns->questions; q; q = q->next) {
		if (q->id != id || q->state != WAITING)
			continue;
		q->private_ok = private_ok;
		q->state = JUDGING;
		if (do_resolve)
			resolve(q);
		else
			refuse(q);
		return;
	}
}

void lat_dns_tick(struct lat_dns *dns, uint64_t now_ns)
{
	struct question *next;

	lat_dns_streams_tick(dns->streams, now_ns);
	for (struct question *q = dns->questions; q; q = next) {
		next = q->next;
		if (q->state == WAITING && now_ns > q->asked_ns + WAIT_S * LAT_NS_PER_SEC)
			refuse(q);
	}
}

int lat_dns_new(const struct lat_dns_options *options, struct lat_dns **out)
{
	struct lat_dns *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return -ENOMEM;
	d->poller = options->poller;
	d->resolver = options->resolver;
	d->hooks = options->hooks;
	d->grace_s = options->grace_s ? options->grace_s : GRACE_S;
	d->udp = (struct lat_poll_item){.fd = options->udp, .ready = on_udp};
	d->stream_hooks =
		(struct lat_dns_stream_hooks){.ctx = d, .message = on_message, .gone = on_gone};
	r = lat_dns_cache_new(CACHE, &d->cache);
	if (r == 0)
		r = lat_dns_streams_new(d->poller, options->tcp, &d->stream_hooks, &d->streams);
	if (r == 0)
		r = lat_poller_add(d->poller, &d->udp, EPOLLIN);
	if (r < 0) {
		lat_dns_streams_free(d->streams);
		lat_dns_cache_free(d->cache);
		free(d);
		return r;
	}
	*out = d;
	return 0;
}

void lat_dns_free(struct lat_dns *d)
{
	struct question *next;

	if (!d)
		return;
	lat_dns_streams_free(d->streams);
	lat_poller_del(d->poller, &d->udp);
	for (struct question *q = d->questions; q; q = next) {
		next = q->next;
		if (q->state == RESOLVING)
			q->dns = NULL;
		else
			free(q);
	}
	lat_dns_cache_free(d->cache);
	free(d);
}
