/* The sandbox's DNS server: what is answered, what is refused without asking anybody, what is
 * pinned and when. */
#include "support/dns_fixture.h"

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
	assert_true(lat_now_ns() - start < 7 * LAT_NS_PER_SEC);
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

static int tests(void)
{
	const struct CMUnitTest list[] = {
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
		cmocka_unit_test(too_many_open_questions_are_told_so),
		cmocka_unit_test(free_leaves_nothing_open),
	};

	return cmocka_run_group_tests(list, NULL, NULL);
}

int main(void)
{
	return with_server(tests);
}
