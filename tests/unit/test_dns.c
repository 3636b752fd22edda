/* The sandbox's DNS server: what is answered, what is refused without asking anybody, what is
 * pinned and when. */
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

static enum lat_dns_decision judge(
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

static bool pin(void *ctx, const char *name, const struct lat_addr *addr, uint64_t until_ns)
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

static void done(void *ctx, const char *name, uint16_t qtype, uint16_t rcode, size_t addresses,
	size_t refused_private, bool tcp, uint16_t sport)
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

static void on_poller(uv_poll_t *handle, int status, int events)
{
	lat_poller_dispatch(poller, 64, 0);
}

static size_t make_query(uint8_t *msg, uint16_t id, const char *name, unsigned type, bool edns)
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

static int client(int type)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(53)};
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, "127.0.0.53", &in.sin_addr);
	assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	return fd;
}

/* Turns the loop until there is something to read on fd; fails after 10 s. */
static void await(int fd)
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

static void take(int fd)
{
	ssize_t n = recv(fd, reply, sizeof(reply), 0);

	assert_true(n >= 12);
	reply_len = (size_t)n;
	assert_int_equal(ns_initparse(reply, (int)n, &parsed), 0);
}

static int rcode(void)
{
	return ns_msg_getflag(parsed, ns_f_rcode);
}

static int answers(void)
{
	return ns_msg_count(parsed, ns_s_an);
}

/* The answer's record i as "owner type data" without the owner's case changed. */
static const char *record(int i)
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

static void query_edns(const char *name, unsigned type, bool edns)
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

static void query(const char *name, unsigned type)
{
	query_edns(name, type, false);
}

static void allowed_name_is_answered_and_pinned_before_the_answer_leaves(void **state)
{
	uint64_t now = lat_now_ns();

	query("Plain.Example", 1);
	assert_int_equal(rcode(), 0);
	assert_int_equal(answers(), 1);
	assert_string_equal(record(0), "Plain.Example 1 203.0.113.1 60");
	assert_string_equal(saw.pinned, "plain.example=203.0.113.1 ");
	assert_true(saw.until_ns >= now + 75 * LAT_NS_PER_SEC);
	assert_true(saw.until_ns <= lat_now_ns() + 75 * LAT_NS_PER_SEC);
	assert_int_equal(saw.pins_at_done, 1);
	assert_int_equal(saw.addresses, 1);
	assert_true(saw.sport != 0);
	assert_false(saw.tcp);
	query("plain.example", 28);
	assert_string_equal(record(0), "plain.example 28 2001:db8::1 60");
}

static void refused_name_never_leaves(void **state)
{
	query("secret.example", 1);
	assert_int_equal(rcode(), LAT_DNS_REFUSED);
	assert_int_equal(saw.rcode, LAT_DNS_REFUSED);
	assert_string_equal(saw.name, "secret.example");
	query("ZGF0YQ.deep.secret.example", 16);
	assert_int_equal(rcode(), LAT_DNS_REFUSED);
	query("secret.example", 65);
	assert_int_equal(rcode(), LAT_DNS_REFUSED);
	assert_false(upstream_saw(&upstream, "secret"));
	assert_int_equal(saw.pins, 0);
}

static void stub_that_ignores_refused_is_told_by_nxdomain_too(void **state)
{
	uint8_t msg[600];
	int fd = client(SOCK_DGRAM);

	for (int edns = 0; edns < 2; edns++) {
		send(fd, msg, make_query(msg, 5, "secret.example", 1, edns), 0);
		await(fd);
		take(fd);
		assert_int_equal(rcode(), LAT_DNS_REFUSED);
		if (edns) { /* it can show the reason instead */
			assert_non_null(memmem(reply, reply_len, "no rule", 7));
			assert_int_equal(recv(fd, reply, 1, MSG_DONTWAIT), -1);
			continue;
		}
		take(fd);
		assert_int_equal(rcode(), LAT_DNS_NXDOMAIN);
		assert_int_equal(ns_msg_id(parsed), 5);
	}
	close(fd);
}

static void names_that_are_no_host_names_are_refused(void **state)
{
	static const char *const bad[] = {
		"127.1", "2130706433", "1.2.3.4", "a b.example", "a\\b.example", "\x01.example"};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		query(bad[i], 1);
		assert_int_equal(rcode(), LAT_DNS_REFUSED);
		assert_int_equal(saw.judged, 0);
		assert_int_equal(saw.answered, 1);
	}
}

static void aliases_are_in_the_answer_and_only_the_asked_name_is_pinned(void **state)
{
	query("chain.example", 1);
	assert_int_equal(answers(), 3);
	assert_string_equal(record(0), "chain.example 5 one.chain.example 120");
	assert_string_equal(record(1), "one.chain.example 5 two.other.example 300");
	assert_string_equal(record(2), "two.other.example 1 203.0.113.2 30");
	assert_string_equal(saw.pinned, "chain.example=203.0.113.2 ");
}

static void private_addresses_are_left_out_unless_the_rule_takes_them(void **state)
{
	query("private.example", 1);
	assert_int_equal(answers(), 1);
	assert_string_equal(record(0), "private.example 1 203.0.113.6 60");
	assert_int_equal(saw.refused_private, 2);
	assert_string_equal(saw.pinned, "private.example=203.0.113.6 ");
	query("private.example", 28);
	assert_int_equal(answers(), 0);
	assert_int_equal(saw.refused_private, 1);
	query("rebind.example", 1);
	assert_int_equal(rcode(), 0);
	assert_int_equal(answers(), 0);
	assert_int_equal(saw.refused_private, 1);
	assert_int_equal(saw.pins, 0);
	private_ok = true;
	query("private.example", 1);
	assert_int_equal(answers(), 3);
	assert_string_equal(record(2), "private.example 1 169.254.169.254 60");
	query("rebind.example", 1);
	assert_string_equal(record(0), "rebind.example 1 127.0.0.1 1");
	private_ok = false;
}

static void address_that_cannot_be_pinned_is_not_answered(void **state)
{
	refuse_pins = true;
	query("plain.example", 1);
	assert_int_equal(rcode(), 0);
	assert_int_equal(answers(), 0);
	assert_int_equal(saw.addresses, 0);
	refuse_pins = false;
}

static void ttl_has_a_floor(void **state)
{
	query("zero.example", 1);
	assert_string_equal(record(0), "zero.example 1 203.0.113.5 1");
}

static void second_question_is_answered_from_the_cache(void **state)
{
	size_t before;

	query("a.nx.mixed.example", 1); /* nothing known of it: no address */
	query("mixed.example", 1);
	before = strlen(upstream.seen);
	query("MIXED.example", 1);
	assert_int_equal(answers(), 1);
	assert_int_equal(saw.pins, 1); /* pinned again */
	assert_int_equal(strlen(upstream.seen), before);
}

static void missing_names_and_failures_have_their_codes(void **state)
{
	query("nx.example", 1);
	assert_int_equal(rcode(), LAT_DNS_NXDOMAIN);
	query("empty.example", 1);
	assert_int_equal(rcode(), 0);
	assert_int_equal(answers(), 0);
	query("servfail.example", 1);
	assert_int_equal(rcode(), LAT_DNS_SERVFAIL);
	query("loop.example", 1);
	assert_int_equal(rcode(), LAT_DNS_SERVFAIL);
}

static void localhost_is_answered_here(void **state)
{
	query("localhost", 1);
	assert_string_equal(record(0), "localhost 1 127.0.0.1 60");
	query("a.localhost", 28);
	assert_string_equal(record(0), "a.localhost 28 ::1 60");
	query("localhost", 15);
	assert_int_equal(answers(), 0);
	assert_int_equal(rcode(), 0);
	assert_int_equal(saw.judged, 0);
	query("notlocalhost", 1);
	assert_int_equal(saw.judged, 1);
}

static void reverse_names_are_nobodys(void **state)
{
	query("1.0.0.127.in-addr.arpa", 12);
	assert_int_equal(rcode(), LAT_DNS_NXDOMAIN);
	query("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa", 12);
	assert_int_equal(rcode(), LAT_DNS_NXDOMAIN);
	query("1.113.0.203.in-addr.arpa", 12);
	assert_int_equal(rcode(), LAT_DNS_REFUSED);
	assert_int_equal(saw.judged, 0);
	assert_false(upstream_saw(&upstream, "arpa"));
}

static void other_types_of_an_allowed_name_are_empty(void **state)
{
	static const unsigned types[] = {2, 5, 6, 15, 16, 33, 64, 65, 257};

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		query("typed.example", types[i]);
		assert_int_equal(rcode(), 0);
		assert_int_equal(answers(), 0);
	}
	assert_false(upstream_saw(&upstream, "typed"));
}

static void transfers_and_any_are_not_implemented(void **state)
{
	static const unsigned types[] = {0, 41, 249, 250, 251, 252, 255};

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		query("plain.example", types[i]);
		assert_int_equal(rcode(), LAT_DNS_NOTIMP);
	}
}

static void waiting_query_is_answered_when_the_handler_has(void **state)
{
	uint8_t msg[600];
	int fd = client(SOCK_DGRAM), other = client(SOCK_DGRAM);
	size_t n = make_query(msg, 5, "plain.wait.example", 1, false);
	struct pollfd p = {fd, POLLIN, 0};
	uint64_t first;

	for (int allow = 0; allow < 2; allow++) {
		memset(&saw, 0, sizeof(saw));
		send(fd, msg, n, 0);
		while (!saw.waiting)
			uv_run(&loop, UV_RUN_ONCE);
		first = saw.waiting;
		send(fd, msg, n, 0); /* the asker repeats: that is no second question */
		send(other, reply, make_query(reply, 6, "plain.example", 1, false), 0);
		await(other); /* and others are served meanwhile */
		take(other);
		assert_int_equal(answers(), 1);
		assert_int_equal(saw.judged, 2);
		assert_int_equal(poll(&p, 1, 0), 0);
		lat_dns_answer(dns, first + 1000, true, false); /* of nothing */
		lat_dns_answer(dns, first, allow, false);
		await(fd);
		take(fd);
		assert_int_equal(rcode(), allow ? 0 : LAT_DNS_REFUSED);
		assert_int_equal(answers(), allow);
		if (!allow)
			take(fd);			/* NXDOMAIN */
		lat_dns_answer(dns, first, true, true); /* too late */
	}
	close(fd);
	close(other);
}

static void forgotten_handler_is_a_refusal(void **state)
{
	uint8_t msg[600];
	int fd = client(SOCK_DGRAM);

	memset(&saw, 0, sizeof(saw));
	send(fd, msg, make_query(msg, 5, "never.wait.example", 1, false), 0);
	while (!saw.waiting)
		uv_run(&loop, UV_RUN_ONCE);
	lat_dns_tick(dns, lat_now_ns());
	assert_int_equal(saw.answered, 0);
	lat_dns_tick(dns, lat_now_ns() + 200 * LAT_NS_PER_SEC);
	await(fd);
	take(fd);
	assert_int_equal(rcode(), LAT_DNS_REFUSED);
	close(fd);
}

static void slow_name_delays_no_other(void **state)
{
	uint8_t msg[600];
	int fd = client(SOCK_DGRAM);
	uint64_t start = lat_now_ns();

	send(fd, msg, make_query(msg, 1, "silent.example", 1, false), 0);
	query("plain.example", 1);
	query("backwards.example", 1);
	assert_true(lat_now_ns() - start < LAT_NS_PER_SEC);
	await(fd);
	take(fd);
	assert_int_equal(rcode(), LAT_DNS_SERVFAIL);
	assert_true(lat_now_ns() - start < 5 * LAT_NS_PER_SEC);
	close(fd);
}

static void cut_answer_carries_and_pins_what_fits(void **state)
{
	query("forty.example", 1);
	assert_true(ns_msg_getflag(parsed, ns_f_tc));
	assert_int_equal(answers(), (512 - 12 - 19) / 16);
	assert_int_equal(saw.pins, answers());
	query_edns("forty.example", 1, true);
	assert_false(ns_msg_getflag(parsed, ns_f_tc));
	assert_int_equal(answers(), 40);
	assert_int_equal(saw.pins, 40);
	query_edns("many.example", 1, true);
	assert_int_equal(answers(), 64);
}

static void garbage_is_answered_as_such_or_not_at_all(void **state)
{
	static const uint8_t short_question[] = {9, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 200};
	static const uint8_t an_answer[] = {9, 9, 0x81, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1};
	int fd = client(SOCK_DGRAM);

	send(fd, an_answer, sizeof(an_answer), 0);
	send(fd, "x", 1, 0);
	send(fd, "", 0, 0);
	memset(reply, 7, sizeof(reply));
	send(fd, reply, 60000, 0);
	send(fd, short_question, sizeof(short_question), 0);
	await(fd);
	take(fd);
	assert_int_equal(ns_msg_id(parsed), 0x0707); /* the long one */
	assert_int_equal(rcode(), LAT_DNS_FORMERR);
	await(fd);
	take(fd);
	assert_int_equal(ns_msg_id(parsed), 0x0909);
	assert_int_equal(rcode(), LAT_DNS_FORMERR);
	close(fd);
}

static void take_stream(int fd)
{
	uint8_t len[2];

	await(fd);
	assert_true(read_all(fd, len, 2));
	reply_len = (size_t)len[0] << 8 | len[1];
	assert_true(read_all(fd, reply, reply_len));
	assert_int_equal(ns_initparse(reply, (int)reply_len, &parsed), 0);
}

static size_t add_stream(uint8_t *buf, uint16_t id, const char *name)
{
	size_t n = make_query(buf + 2, id, name, 1, false);

	buf[0] = (uint8_t)(n >> 8);
	buf[1] = (uint8_t)n;
	return n + 2;
}

static void tcp_takes_pipelined_and_split_queries(void **state)
{
	uint8_t buf[1024];
	int fd = client(SOCK_STREAM);
	size_t n = add_stream(buf, 1, "many.example");
	unsigned seen = 0;

	n += add_stream(buf + n, 2, "secret.example");
	n += add_stream(buf + n, 3, "chain.example");
	for (size_t i = 0; i < n; i++) { /* byte by byte */
		assert_int_equal(send(fd, buf + i, 1, 0), 1);
		uv_run(&loop, UV_RUN_NOWAIT);
	}
	for (int i = 0; i < 3; i++) {
		take_stream(fd);
		seen |= 1u << ns_msg_id(parsed);
		if (ns_msg_id(parsed) == 1)
			assert_int_equal(answers(), 64);
		if (ns_msg_id(parsed) == 2)
			assert_int_equal(rcode(), LAT_DNS_REFUSED);
	}
	assert_int_equal(seen, 14);
	assert_true(saw.tcp);
	close(fd);
}

static void tcp_answers_what_was_asked_before_the_asker_closed_its_side(void **state)
{
	uint8_t buf[64 * 40];
	int fd = client(SOCK_STREAM);
	size_t n = 0;

	for (uint16_t i = 0; i < 50; i++) /* more than may be open at once */
		n += add_stream(buf + n, i, "backwards.example");
	assert_int_equal(send(fd, buf, n, 0), n);
	shutdown(fd, SHUT_WR);
	for (int i = 0; i < 50; i++)
		take_stream(fd);
	await(fd);
	assert_int_equal(recv(fd, buf, 1, 0), 0);
	close(fd);
}

static void tcp_limit_of_open_queries_holds_without_a_stall(void **state)
{
	uint8_t buf[64 * 40];
	int fd = client(SOCK_STREAM);
	size_t n = 0;

	memset(&saw, 0, sizeof(saw));
	for (uint16_t i = 0; i < 40; i++)
		n += add_stream(buf + n, i, "wait.example");
	assert_int_equal(send(fd, buf, n, 0), n);
	while (saw.judged < 32)
		uv_run(&loop, UV_RUN_ONCE);
	for (int i = 0; i < 20; i++)
		uv_run(&loop, UV_RUN_NOWAIT);
	assert_int_equal(saw.judged, 32);
	for (uint64_t id = saw.waiting - 31, i = 0; i < 40; i++)
		lat_dns_answer(dns, id + i, false, false);
	for (int i = 0; i < 40; i++)
		take_stream(fd);
	close(fd);
}

static void tcp_garbage_closes_the_connection(void **state)
{
	static const uint8_t long_one[] = {0xff, 0xff, 1, 2, 3};
	static const uint8_t none[] = {0, 0};
	static const uint8_t an_answer[] = {0, 12, 9, 9, 0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0};
	const struct {
		const uint8_t *b;
		size_t n;
	} bad[] = {{long_one, sizeof(long_one)}, {none, 2}, {an_answer, sizeof(an_answer)}};

	for (size_t i = 0; i < 3; i++) {
		int fd = client(SOCK_STREAM);

		send(fd, bad[i].b, bad[i].n, 0);
		await(fd);
		assert_true(recv(fd, reply, 1, 0) <= 0);
		close(fd);
	}
}

static void tcp_idle_connections_end_and_make_room(void **state)
{
	int fds[100];
	uint8_t buf[600];
	int fd;

	for (int i = 0; i < 100; i++) {
		fds[i] = client(SOCK_STREAM);
		uv_run(&loop, UV_RUN_NOWAIT);
	}
	send(fds[99], buf, add_stream(buf, 9, "plain.example"), 0); /* the last comer is served */
	take_stream(fds[99]);
	await(fds[0]); /* the first, quiet, had to go */
	assert_int_equal(recv(fds[0], buf, 1, 0), 0);
	lat_dns_tick(dns, lat_now_ns() + 60 * LAT_NS_PER_SEC);
	await(fds[99]);
	assert_int_equal(recv(fds[99], buf, 1, 0), 0);
	for (int i = 0; i < 100; i++)
		close(fds[i]);
	fd = client(SOCK_STREAM); /* goes away with a question open: nothing is pinned for it */
	memset(&saw, 0, sizeof(saw));
	send(fd, buf, add_stream(buf, 9, "plain.wait.example"), 0);
	while (!saw.waiting)
		uv_run(&loop, UV_RUN_ONCE);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
	close(fd);
	uv_run(&loop, UV_RUN_ONCE);
	lat_dns_answer(dns, saw.waiting, true, false);
	while (!saw.answered)
		uv_run(&loop, UV_RUN_ONCE);
	assert_int_equal(saw.pins, 0);
}

static void too_many_open_questions_are_told_so(void **state)
{
	uint8_t msg[600];
	int fd = client(SOCK_DGRAM), other = client(SOCK_DGRAM);
	uint64_t last;

	memset(&saw, 0, sizeof(saw));
	for (uint16_t i = 0; i < 256; i++) {
		send(fd, msg, make_query(msg, i, "wait.example", 1, false), 0);
		uv_run(&loop, UV_RUN_NOWAIT);
	}
	while (saw.judged < 256)
		uv_run(&loop, UV_RUN_ONCE);
	last = saw.waiting;
	send(other, msg, make_query(msg, 1, "plain.example", 1, false), 0);
	await(other);
	take(other);
	assert_int_equal(rcode(), LAT_DNS_SERVFAIL);
	for (uint64_t id = last - 255; id <= last; id++)
		lat_dns_answer(dns, id, false, false);
	query("plain.example", 1);
	assert_int_equal(answers(), 1);
	close(fd);
	close(other);
}

static void start(void)
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

static void free_leaves_nothing_open(void **state)
{
	uint8_t msg[600];
	int fd = client(SOCK_DGRAM), stream = client(SOCK_STREAM);

	memset(&saw, 0, sizeof(saw));
	send(fd, msg, make_query(msg, 1, "silent.free.example", 1, false), 0);
	send(fd, msg, make_query(msg, 2, "wait.free.example", 1, false), 0);
	send(stream, msg, add_stream(msg, 9, "silent.free.example"), 0);
	while (saw.judged < 3)
		uv_run(&loop, UV_RUN_ONCE);
	lat_dns_free(dns);
	close(fd);
	close(stream);
	start(); /* and it can be started again on the same sockets */
	query("plain.example", 1);
	assert_int_equal(answers(), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(allowed_name_is_answered_and_pinned_before_the_answer_leaves),
		cmocka_unit_test(refused_name_never_leaves),
		cmocka_unit_test(stub_that_ignores_refused_is_told_by_nxdomain_too),
		cmocka_unit_test(names_that_are_no_host_names_are_refused),
		cmocka_unit_test(aliases_are_in_the_answer_and_only_the_asked_name_is_pinned),
		cmocka_unit_test(private_addresses_are_left_out_unless_the_rule_takes_them),
		cmocka_unit_test(address_that_cannot_be_pinned_is_not_answered),
		cmocka_unit_test(ttl_has_a_floor),
		cmocka_unit_test(second_question_is_answered_from_the_cache),
		cmocka_unit_test(missing_names_and_failures_have_their_codes),
		cmocka_unit_test(localhost_is_answered_here),
		cmocka_unit_test(reverse_names_are_nobodys),
		cmocka_unit_test(other_types_of_an_allowed_name_are_empty),
		cmocka_unit_test(transfers_and_any_are_not_implemented),
		cmocka_unit_test(waiting_query_is_answered_when_the_handler_has),
		cmocka_unit_test(forgotten_handler_is_a_refusal),
		cmocka_unit_test(slow_name_delays_no_other),
		cmocka_unit_test(cut_answer_carries_and_pins_what_fits),
		cmocka_unit_test(garbage_is_answered_as_such_or_not_at_all),
		cmocka_unit_test(tcp_takes_pipelined_and_split_queries),
		cmocka_unit_test(tcp_answers_what_was_asked_before_the_asker_closed_its_side),
		cmocka_unit_test(tcp_limit_of_open_queries_holds_without_a_stall),
		cmocka_unit_test(tcp_garbage_closes_the_connection),
		cmocka_unit_test(tcp_idle_connections_end_and_make_room),
		cmocka_unit_test(too_many_open_questions_are_told_so),
		cmocka_unit_test(free_leaves_nothing_open),
	};
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
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	lat_dns_free(dns);
	lat_resolver_free(resolver);
	uv_close((uv_handle_t *)&watch, NULL);
	uv_run(&loop, UV_RUN_DEFAULT);
	failed += uv_loop_close(&loop) != 0;
	lat_poller_free(poller);
	upstream_stop(&upstream);
	return failed;
}
