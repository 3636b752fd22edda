/* See dns.h. A query becomes a question; a question is judged, perhaps waits for a handler, perhaps
 * for the host's resolver, and is answered once:
 *
 *   JUDGING -> answered                  refused, answered here, or from the cache
 *           -> WAITING -> ...            a handler was asked; lat_dns_answer goes on
 *           -> RESOLVING -> answered     by on_resolved
 *
 * Only what an answer really carries is pinned, and it is pinned before it is sent. Nothing waits
 * in line: every question has its own place, and when there is none, the asker gets SERVFAIL. */
#include "base/clock.h"
#include "base/mem.h"
#include "core/dns_local.h"
#include "core/dns_question.h"
#include <string.h>
#include <sys/epoll.h>

#define QUESTIONS 256 /* open at once */
#define DATAGRAMS 32  /* for each wake-up */
#define CACHE 256
#define GRACE_S 30
#define WAIT_S 120 /* handlers have their own, shorter limit; this is the floor under it */
#define CLASS_IN 1

static int family_of(const struct lat_dns_question *q)
{
	return q->query.qtype == LAT_DNS_A ? 4 : 6;
}

static void on_resolved(void *arg, const struct lat_resolved *result)
{
	struct lat_dns_question *q = arg;

	if (!q->dns) {
		free(q);
		return;
	}
	if (result->status != -ECANCELED)
		lat_dns_cache_put(q->dns->cache, q->name, family_of(q), result,
			lat_dns_keep_s(result), lat_now_ns());
	lat_dns_question_result(q, result);
}

/* The name may be resolved. */
static void resolve(struct lat_dns_question *q)
{
	struct lat_dns *d = q->dns;

	if (!lat_dns_question_asks_address(q)) {
		lat_dns_question_code(q, LAT_DNS_NOERROR);
		return;
	}
	if (lat_dns_cache_get(d->cache, q->name, family_of(q), lat_now_ns(), &d->cached)) {
		lat_dns_question_result(q, &d->cached);
		return;
	}
	q->state = LAT_DNS_RESOLVING;
	if (lat_resolver_ask(d->resolver, q->name, family_of(q), on_resolved, q) < 0)
		lat_dns_question_code(q, LAT_DNS_SERVFAIL);
}

static bool unsupported(const struct lat_dns_query *query)
{
	return query->qclass != CLASS_IN || query->qtype == 0 || query->qtype == LAT_DNS_OPT ||
	       (query->qtype >= 249 && query->qtype <= 255); /* TKEY, TSIG, transfers, ANY */
}

static void judge(struct lat_dns_question *q)
{
	struct lat_dns *d = q->dns;

	switch (lat_dns_local_kind(q->name)) {
	case LAT_DNS_LOCAL_HOST:
		lat_dns_question_localhost(q);
		return;
	case LAT_DNS_LOCAL_REVERSE_HOST:
		lat_dns_question_code(q, LAT_DNS_NXDOMAIN);
		return;
	case LAT_DNS_LOCAL_REVERSE:
		lat_dns_question_refuse(q);
		return;
	case LAT_DNS_LOCAL_NO:
		break;
	}
	switch (d->hooks->judge(d->hooks->ctx, q->id, q->name, q->query.qtype, &q->private_ok)) {
	case LAT_DNS_RESOLVE:
		resolve(q);
		return;
	case LAT_DNS_WAIT:
		q->state = LAT_DNS_WAITING;
		return;
	case LAT_DNS_REFUSE:
		break;
	}
	lat_dns_question_refuse(q);
}

/* The asker repeats what is already being worked on. */
static bool repeated(const struct lat_dns *d, const struct lat_dns_question *n)
{
	for (const struct lat_dns_question *q = d->questions; q; q = q->next)
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
	struct lat_dns_question *q = calloc(1, sizeof(*q));
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
		lat_dns_question_code(q, code);
	else if (unsupported(&q->query))
		lat_dns_question_code(q, LAT_DNS_NOTIMP);
	else if (lat_name_normalize(q->query.text, strlen(q->query.text), q->name) < 0) {
		q->name[0] = '\0';
		lat_dns_question_refuse(q);
	} else if (d->open > QUESTIONS)
		lat_dns_question_code(q, LAT_DNS_SERVFAIL);
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
		if (lat_addr_from_sockaddr((struct sockaddr *)&from, from_len, &addr, &sport) == 0 &&
			(!d->hooks->client || d->hooks->client(d->hooks->ctx, false, &addr, sport)))
			receive(d, msg, (size_t)n, NULL, sport, &from, from_len);
	}
}

static void on_message(
	void *ctx, struct lat_dns_conn *conn, const uint8_t *msg, size_t len, uint16_t sport)
{
	struct lat_dns *d = ctx;
	struct lat_addr from;

	/* Connections come to where the datagrams do: over loopback. */
	lat_addr_parse("127.0.0.1", &from);
	if (d->hooks->client && !d->hooks->client(d->hooks->ctx, true, &from, sport)) {
		lat_dns_conn_answer(conn, NULL, 0);
		return;
	}
	receive(ctx, msg, len, conn, sport, NULL, 0);
}

static void on_gone(void *ctx, struct lat_dns_conn *conn)
{
	struct lat_dns *d = ctx;

	for (struct lat_dns_question *q = d->questions; q; q = q->next)
		if (q->conn == conn)
			q->conn = NULL;
}

void lat_dns_answer(struct lat_dns *dns, uint64_t id, bool do_resolve, bool private_ok)
{
	for (struct lat_dns_question *q = dns->questions; q; q = q->next) {
		if (q->id != id || q->state != LAT_DNS_WAITING)
			continue;
		q->private_ok = private_ok;
		q->state = LAT_DNS_JUDGING;
		if (do_resolve)
			resolve(q);
		else
			lat_dns_question_refuse(q);
		return;
	}
}

int lat_dns_asker(const struct lat_dns *dns)
{
	return dns->asker;
}

void lat_dns_tick(struct lat_dns *dns, uint64_t now_ns)
{
	struct lat_dns_question *next;

	lat_dns_streams_tick(dns->streams, now_ns);
	for (struct lat_dns_question *q = dns->questions; q; q = next) {
		next = q->next;
		if (q->state == LAT_DNS_WAITING && now_ns > q->asked_ns + WAIT_S * LAT_NS_PER_SEC)
			lat_dns_question_refuse(q);
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
	struct lat_dns_question *next;

	if (!d)
		return;
	lat_dns_streams_free(d->streams);
	lat_poller_del(d->poller, &d->udp);
	for (struct lat_dns_question *q = d->questions; q; q = next) {
		next = q->next;
		if (q->state == LAT_DNS_RESOLVING)
			q->dns = NULL;
		else
			free(q);
	}
	lat_dns_cache_free(d->cache);
	free(d);
}
