/* What the tests of the sandbox's DNS server share: the server with hooks that note what they saw,
 * and askers over UDP and TCP. */
#ifndef LAT_TEST_DNS_FIXTURE_H
#define LAT_TEST_DNS_FIXTURE_H
#include "core/dns.h"
#include "base/clock.h"
#include "core/dns_message.h"
#include "support/dns_upstream.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <arpa/nameser.h>
#include <cmocka.h>

static struct upstream upstream;
static uv_loop_t loop;
static uv_poll_t watch;
static struct lat_poller *poller;
static struct lat_resolver *resolver;
static struct lat_dns *dns;
static int server_udp, server_tcp;

/* What the hooks saw since the last reset. */
static struct {
	uint64_t waiting;
	int judged, pins, answered, pins_at_done;
	char pinned[4096]; /* "name=address " */
	uint64_t until_ns;
	char name[LAT_NAME_MAX];
	uint16_t qtype, rcode, sport;
	size_t addresses, refused_private;
	bool tcp;
} saw;
static bool private_ok, refuse_pins;

static inline enum lat_dns_decision judge(
	void *ctx, uint64_t id, const char *name, uint16_t qtype, bool *ok)
{
	saw.judged++;
	*ok = private_ok;
	if (strstr(name, "wait")) {
		saw.waiting = id;
		return LAT_DNS_WAIT;
	}
	return strstr(name, "secret") ? LAT_DNS_REFUSE : LAT_DNS_RESOLVE;
}

static inline bool pin(void *ctx, const char *name, const struct lat_addr *addr, uint64_t until_ns)
{
	char text[LAT_ADDR_TEXT];
	size_t n = strlen(saw.pinned);

	if (refuse_pins)
		return false;
	lat_addr_format(addr, text, sizeof(text));
	snprintf(saw.pinned + n, sizeof(saw.pinned) - n, "%s=%s ", name, text);
	saw.pins++;
	saw.until_ns = until_ns;
	return true;
}

static inline void done(void *ctx, const char *name, uint16_t qtype, uint16_t rcode,
	size_t addresses, size_t refused_private, bool tcp, uint16_t sport)
{
	saw.answered++;
	saw.pins_at_done = saw.pins;
	snprintf(saw.name, sizeof(saw.name), "%s", name);
	saw.qtype = qtype;
	saw.rcode = rcode;
	saw.addresses = addresses;
	saw.refused_private = refused_private;
	saw.tcp = tcp;
	saw.sport = sport;
}

static const struct lat_dns_hooks hooks = {.judge = judge, .pin = pin, .done = done};

static inline void on_poller(uv_poll_t *handle, int status, int events)
{
	lat_poller_dispatch(poller, 64, 0);
}

static inline size_t make_query(
	uint8_t *msg, uint16_t id, const char *name, unsigned type, bool edns)
{
	struct script *m = calloc(1, sizeof(*m));
	size_t n;

	m->n = 12;
	put_name(m, name);
	memcpy(m->b + m->n, (uint8_t[]){(uint8_t)(type >> 8), (uint8_t)type, 0, 1}, 4);
	m->n += 4;
	if (edns) {
		memcpy(m->b + m->n, (uint8_t[]){0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0}, 11);
		m->n += 11;
		m->b[11] = 1;
	}
	m->b[0] = (uint8_t)(id >> 8);
	m->b[1] = (uint8_t)id;
	m->b[2] = 1;
	m->b[5] = 1;
	n = m->n;
	memcpy(msg, m->b, n);
	free(m);
	return n;
}

static inline int client(int type)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(53)};
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, "127.0.0.53", &in.sin_addr);
	assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	return fd;
}

/* Turns the loop until there is something to read on fd; fails after 10 s. */
static inline void await(int fd)
{
	uint64_t end = lat_now_ns() + 10 * LAT_NS_PER_SEC;
	struct pollfd p = {fd, POLLIN, 0};

	while (poll(&p, 1, 1) == 0) {
		uv_run(&loop, UV_RUN_NOWAIT);
		assert_true(lat_now_ns() < end);
	}
}

static uint8_t reply[65535];
static size_t reply_len;
static ns_msg parsed;

static inline void take(int fd)
{
	ssize_t n = recv(fd, reply, sizeof(reply), 0);

	assert_true(n >= 12);
	reply_len = (size_t)n;
	assert_int_equal(ns_initparse(reply, (int)n, &parsed), 0);
}

static inline int rcode(void)
{
	return ns_msg_getflag(parsed, ns_f_rcode);
}

static inline int answers(void)
{
	return ns_msg_count(parsed, ns_s_an);
}

/* The answer's record i as "owner type data" without the owner's case changed. */
static inline const char *record(int i)
{
	static char text[2200];
	char data[1025] = "";
	ns_rr rr;

	assert_int_equal(ns_parserr(&parsed, ns_s_an, i, &rr), 0);
	if (ns_rr_type(rr) == ns_t_a)
		inet_ntop(AF_INET, ns_rr_rdata(rr), data, sizeof(data));
	else if (ns_rr_type(rr) == ns_t_aaaa)
		inet_ntop(AF_INET6, ns_rr_rdata(rr), data, sizeof(data));
	else
		ns_name_uncompress(ns_msg_base(parsed), ns_msg_end(parsed), ns_rr_rdata(rr), data,
			sizeof(data));
	snprintf(text, sizeof(text), "%s %d %s %u", ns_rr_name(rr), ns_rr_type(rr), data,
		ns_rr_ttl(rr));
	return text;
}

static inline void query_edns(const char *name, unsigned type, bool edns)
{
	uint8_t msg[600];
	int fd = client(SOCK_DGRAM);
	size_t n = make_query(msg, 77, name, type, edns);

	memset(&saw, 0, sizeof(saw));
	assert_int_equal(send(fd, msg, n, 0), n);
	await(fd);
	take(fd);
	assert_int_equal(ns_msg_id(parsed), 77);
	close(fd);
}

static inline void query(const char *name, unsigned type)
{
	query_edns(name, type, false);
}

static inline void take_stream(int fd)
{
	uint8_t len[2];

	await(fd);
	assert_true(read_all(fd, len, 2));
	reply_len = (size_t)len[0] << 8 | len[1];
	assert_true(read_all(fd, reply, reply_len));
	assert_int_equal(ns_initparse(reply, (int)reply_len, &parsed), 0);
}

static inline size_t add_stream(uint8_t *buf, uint16_t id, const char *name)
{
	size_t n = make_query(buf + 2, id, name, 1, false);

	buf[0] = (uint8_t)(n >> 8);
	buf[1] = (uint8_t)n;
	return n + 2;
}

static inline void start(void)
{
	struct lat_dns_options options = {.poller = poller,
		.resolver = resolver,
		.hooks = &hooks,
		.udp = server_udp,
		.tcp = server_tcp,
		.grace_s = 15};

	if (lat_dns_new(&options, &dns) < 0)
		exit(1);
}

/* Runs the tests with the server, its resolver and the name server up; nothing is left afterwards.
 */
static inline int with_server(int (*tests)(void))
{
	int failed;

	enter_namespaces();
	upstream_start(&upstream);
	server_udp = bound(SOCK_DGRAM, "127.0.0.53");
	server_tcp = bound(SOCK_STREAM, "127.0.0.53");
	uv_loop_init(&loop);
	if (lat_poller_new(&poller) < 0 || lat_resolver_new(&loop, &resolver) < 0)
		return 1;
	uv_poll_init(&loop, &watch, lat_poller_fd(poller));
	uv_poll_start(&watch, UV_READABLE, on_poller);
	listen(server_tcp, 128); /* connects come before the loop turns */
	start();
	failed = tests();
	lat_dns_free(dns);
	lat_resolver_free(resolver);
	uv_close((uv_handle_t *)&watch, NULL);
	uv_run(&loop, UV_RUN_DEFAULT);
	failed += uv_loop_close(&loop) != 0;
	lat_poller_free(poller);
	upstream_stop(&upstream);
	return failed;
}

#endif
