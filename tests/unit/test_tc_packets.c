/* What the tc programs make of packets, byte by byte, by test run. The policy: out tcp and udp to 10.0.0.0/8 and
 * 2001:db8::/32 port 80 pass, pings out to the same, in tcp from 10.0.0.0/8 port 22; all else is denied. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "support/tc.h"

enum { OUT, IN };
enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };

#define US "192.0.2.1"
#define THEM "10.1.2.3"
#define US6 "2001:db8:1::1"
#define THEM6 "2001:db8:2::2"

static struct lat_tc *tc;
static struct lat_tc_status before;

static int with_policy(void **state)
{
	const struct lat_tc_options options = { .device = "v0", .pins = TC_PINS, .flows = 1024 };
	const uint8_t actions[] = { LAT_ACTION_ALLOW, LAT_ACTION_ALLOW, LAT_ACTION_ALLOW };
	const struct lat_entry entries[] = {
		tc_entry(1, OUT, "10.0.0.0/8", 6, 80, 80), tc_entry(1, OUT, "10.0.0.0/8", 17, 80, 80),
		tc_entry(1, OUT, "2001:db8::/32", 6, 80, 80), tc_entry(1, OUT, "2001:db8::/32", 17, 80, 80),
		tc_entry(2, OUT, "10.0.0.0/8", 1, 0, 65535), tc_entry(2, OUT, "2001:db8::/32", 58, 0, 65535),
		tc_entry(3, IN, "10.0.0.0/8", 6, 22, 22),
	};
	char say[LAT_TC_SAY];
	int r = lat_tc_open(&options, &tc, say);

	if (r < 0) {
		print_message("%s\n", say);
		return r;
	}
	return tc_apply(tc, 1, LAT_ACTION_DENY, actions, 3, entries, sizeof(entries) / sizeof(entries[0]), false);
}

static int end(void **state)
{
	lat_tc_close(tc, false);
	tc = NULL;
	return access(TC_PINS, F_OK) == 0 ? -1 : 0;
}

static bool passes(uint8_t dir, const struct packet_bytes *p)
{
	int r;

	assert_int_equal(lat_tc_status(tc, &before), 0);
	r = lat_tc_run(tc, dir, p->b, p->n);
	assert_in_range(r, 0, 1);
	return r == 1;
}

/* Dropped, and counted as this. */
static void drops(uint8_t dir, const struct packet_bytes *p, enum lat_tc_stat why)
{
	struct lat_tc_status after;

	assert_false(passes(dir, p));
	assert_int_equal(lat_tc_status(tc, &after), 0);
	if (after.stats[why] != before.stats[why] + 1)
		fail_msg("not counted as %s", lat_tc_stat_name(why));
}

static void rules_are_judged_by_direction_and_port(void **state)
{
	struct packet_bytes p = tcp4(US, 1000, THEM, 80, SYN);

	assert_true(passes(OUT, &p));
	p = tcp4(US, 1000, THEM, 81, SYN);
	drops(OUT, &p, LAT_TC_STAT_DENIED);
	p = tcp4(THEM, 1000, US, 80, SYN);
	drops(IN, &p, LAT_TC_STAT_DENIED);
	p = tcp4(THEM, 1000, US, 22, SYN);
	assert_true(passes(IN, &p));
	p = tcp4(US, 1000, THEM, 22, SYN);
	drops(OUT, &p, LAT_TC_STAT_DENIED);
	p = tcp6(US6, 1000, THEM6, 80, SYN);
	assert_true(passes(OUT, &p));
	p = udp4(US, 1000, THEM, 80);
	assert_true(passes(OUT, &p));
}

static void answers_pass_and_what_is_none_does_not(void **state)
{
	struct packet_bytes p = tcp4(THEM, 80, US, 2000, SYN | ACK);

	drops(IN, &p, LAT_TC_STAT_DENIED);
	p = tcp4(THEM, 80, US, 2000, ACK);
	drops(IN, &p, LAT_TC_STAT_DENIED);
	p = tcp4(US, 2000, THEM, 80, SYN);
	assert_true(passes(OUT, &p));
	p = tcp4(THEM, 80, US, 2000, SYN | ACK);
	assert_true(passes(IN, &p));
	p = tcp4(THEM, 80, US, 2001, SYN | ACK);
	drops(IN, &p, LAT_TC_STAT_DENIED);
	/* A new connection from there, with the ports of one from here. */
	p = tcp4(THEM, 80, US, 2000, SYN);
	drops(IN, &p, LAT_TC_STAT_DENIED);
	p = tcp4(THEM, 80, US, 2000, ACK);
	assert_true(passes(IN, &p));
	p = udp4(THEM, 80, US, 2000);
	drops(IN, &p, LAT_TC_STAT_DENIED);
}

static void a_closed_connection_begins_anew_by_the_rules(void **state)
{
	struct lat_tc_flow flows[64];
	struct lat_tc_key keys[64];
	struct packet_bytes p = tcp4(US, 3000, THEM, 80, SYN);
	int n, found = 0;

	assert_true(passes(OUT, &p));
	p = tcp4(THEM, 80, US, 3000, SYN | ACK);
	assert_true(passes(IN, &p));
	p = tcp4(US, 3000, THEM, 80, FIN | ACK);
	assert_true(passes(OUT, &p));
	p = tcp4(THEM, 80, US, 3000, FIN | ACK);
	assert_true(passes(IN, &p));
	p = tcp4(THEM, 80, US, 3000, SYN);
	drops(IN, &p, LAT_TC_STAT_DENIED);
	p = tcp4(US, 3000, THEM, 80, SYN);
	assert_true(passes(OUT, &p));
	n = lat_tc_flows(tc, keys, flows, 64);
	for (int i = 0; i < n; i++)
		if (flows[i].sport == 3000) {
			found++;
			assert_int_equal(flows[i].state, 0);
			assert_int_equal(flows[i].packets[OUT], 1);
		}
	assert_int_equal(found, 1);
}

static void pings_are_answered_and_not_taken_for_answers(void **state)
{
	struct packet_bytes p;

	put_ether(&p, 0x0800);
	put_v4(&p, THEM, US, 1, 0, NULL, 0, 8);
	put_icmp(&p, 0, 0, 77);
	drops(IN, &p, LAT_TC_STAT_DENIED);
	put_ether(&p, 0x0800);
	put_v4(&p, US, THEM, 1, 0, NULL, 0, 8);
	put_icmp(&p, 8, 0, 77);
	assert_true(passes(OUT, &p));
	put_ether(&p, 0x0800);
	put_v4(&p, THEM, US, 1, 0, NULL, 0, 8);
	put_icmp(&p, 0, 0, 77);
	assert_true(passes(IN, &p));
	p.b[34] = 8; /* a request of theirs, with the same number */
	drops(IN, &p, LAT_TC_STAT_DENIED);
	put_ether(&p, 0x86dd);
	put_v6(&p, US6, THEM6, 58, 64, 8);
	put_icmp(&p, 128, 0, 5);
	assert_true(passes(OUT, &p));
	put_ether(&p, 0x86dd);
	put_v6(&p, THEM6, US6, 58, 64, 8);
	put_icmp(&p, 129, 0, 5);
	assert_true(passes(IN, &p));
}

static void tags_and_extension_headers_are_looked_through(void **state)
{
	static const uint8_t hop[8] = { 60, 0, 1, 4 }, dest[16] = { 51, 1 }, auth[12] = { 6, 1 };
	struct packet_bytes p;

	for (int good = 0; good < 2; good++) {
		put_ether(&p, 0x8100);
		put16(&p, 7);
		put16(&p, 0x0800);
		put_v4(&p, US, THEM, 6, 0, NULL, 0, 20);
		put_tcp(&p, 4000, good ? 80 : 81, SYN);
		assert_int_equal(passes(OUT, &p), good);
		put_ether(&p, 0x88a8);
		put16(&p, 7);
		put16(&p, 0x8100);
		put16(&p, 8);
		put16(&p, 0x86dd);
		put_v6(&p, US6, THEM6, 0, 64, 8 + 16 + 12 + 20);
		put(&p, hop, 8);
		put(&p, dest, 16);
		put(&p, auth, 12);
		put_tcp(&p, 4000, good ? 80 : 81, SYN);
		assert_int_equal(passes(OUT, &p), good);
	}
	put_ether(&p, 0x8100);
	for (int i = 0; i < 2; i++) {
		put16(&p, 7);
		put16(&p, 0x8100);
	}
	put16(&p, 7);
	put16(&p, 0x0800);
	put_v4(&p, US, THEM, 6, 0, NULL, 0, 20);
	put_tcp(&p, 4000, 80, SYN);
	drops(OUT, &p, LAT_TC_STAT_ODD);
}

static void headers_that_lead_elsewhere_are_refused(void **state)
{
	static const uint8_t lsrr[8] = { 131, 7, 4, 10, 9, 9, 9, 0 }, alert[4] = { 148, 4, 0, 0 };
	uint8_t routing[24] = { 6, 2, 0, 1 }, hop[8] = { 0, 0, 1, 4 };
	struct packet_bytes p;

	put_ether(&p, 0x0800);
	put_v4(&p, US, THEM, 6, 0, lsrr, 8, 20);
	put_tcp(&p, 5000, 80, SYN);
	drops(OUT, &p, LAT_TC_STAT_ODD);
	put_ether(&p, 0x0800);
	put_v4(&p, US, THEM, 6, 0, alert, 4, 20);
	put_tcp(&p, 5000, 80, SYN);
	assert_true(passes(OUT, &p));
	for (int left = 1; left >= 0; left--) {
		routing[3] = (uint8_t)left;
		put_ether(&p, 0x86dd);
		put_v6(&p, US6, THEM6, 43, 64, 44);
		put(&p, routing, 24);
		put_tcp(&p, 5000, 80, SYN);
		assert_int_equal(passes(OUT, &p), left == 0);
	}
	put_ether(&p, 0x86dd);
	put_v6(&p, US6, THEM6, 0, 64, 80 + 20);
	for (int i = 0; i < 10; i++) {
		hop[0] = i == 9 ? 6 : 60;
		put(&p, hop, 8);
	}
	put_tcp(&p, 5000, 80, SYN);
	drops(OUT, &p, LAT_TC_STAT_ODD);
	p = tcp6("::ffff:192.0.2.1", 5000, "::ffff:10.1.2.3", 80, SYN);
	drops(OUT, &p, LAT_TC_STAT_ODD);
}

static void later_fragments_pass_after_an_allowed_first(void **state)
{
	struct packet_bytes p;

	put_ether(&p, 0x0800);
	put_v4(&p, US, THEM, 17, 2, NULL, 0, 8);
	p.n += 8;
	drops(OUT, &p, LAT_TC_STAT_FRAGMENT);
	put_ether(&p, 0x0800);
	put_v4(&p, US, THEM, 17, 0x2000, NULL, 0, 16);
	put_udp(&p, 6000, 80, 8);
	assert_true(passes(OUT, &p));
	put_ether(&p, 0x0800);
	put_v4(&p, US, THEM, 17, 2, NULL, 0, 8);
	p.n += 8;
	assert_true(passes(OUT, &p));
	p.b[18] ^= 1; /* another packet's */
	drops(OUT, &p, LAT_TC_STAT_FRAGMENT);
	put_ether(&p, 0x0800); /* of a denied first */
	put_v4(&p, US, THEM, 17, 0x2000, NULL, 0, 16);
	p.b[18] = 9;
	put_udp(&p, 6000, 81, 8);
	drops(OUT, &p, LAT_TC_STAT_DENIED);
	put_ether(&p, 0x0800);
	put_v4(&p, US, THEM, 17, 2, NULL, 0, 8);
	p.b[18] = 9;
	p.n += 8;
	drops(OUT, &p, LAT_TC_STAT_FRAGMENT);
	put_ether(&p, 0x0800); /* ports beyond the first fragment */
	put_v4(&p, US, THEM, 6, 0x2000, NULL, 0, 8);
	p.n += 8;
	drops(OUT, &p, LAT_TC_STAT_TRUNCATED);
	put_ether(&p, 0x0800); /* and over them */
	put_v4(&p, US, THEM, 6, 1, NULL, 0, 8);
	p.n += 8;
	drops(OUT, &p, LAT_TC_STAT_ODD);
}

static void fragments_of_ipv6_go_the_same_way(void **state)
{
	uint8_t head[8] = { 17, 0, 0, 1, 1, 2, 3, 4 };
	struct packet_bytes p;

	for (int port = 80; port <= 81; port++) {
		head[7] = (uint8_t)port;
		put_ether(&p, 0x86dd);
		put_v6(&p, US6, THEM6, 44, 64, 8 + 16);
		head[3] = 1;
		put(&p, head, 8);
		put_udp(&p, 6000, (uint16_t)port, 8);
		assert_int_equal(passes(OUT, &p), port == 80);
		put_ether(&p, 0x86dd);
		put_v6(&p, US6, THEM6, 44, 64, 16);
		head[3] = 16;
		put(&p, head, 8);
		p.n += 8;
		assert_int_equal(passes(OUT, &p), port == 80);
	}
	put_ether(&p, 0x86dd); /* a fragment header around a whole packet */
	put_v6(&p, US6, THEM6, 44, 64, 8 + 16);
	head[3] = 0;
	put(&p, head, 8);
	put_udp(&p, 6001, 80, 8);
	assert_true(passes(OUT, &p));
}

static struct packet_bytes icmp_error(const char *from, const char *to, const char *src, uint16_t sport, const char *dst,
	uint16_t dport)
{
	struct packet_bytes p;

	put_ether(&p, 0x0800);
	put_v4(&p, from, to, 1, 0, NULL, 0, 8 + 28);
	put_icmp(&p, 3, 1, 0);
	put_v4(&p, src, dst, 17, 0, NULL, 0, 100);
	put_udp(&p, sport, dport, 0);
	return p;
}

static void errors_pass_if_they_quote_an_allowed_flow(void **state)
{
	struct packet_bytes p = icmp_error("198.51.100.1", US, US, 7000, THEM, 80);

	drops(IN, &p, LAT_TC_STAT_DENIED);
	p = udp4(US, 7000, THEM, 80);
	assert_true(passes(OUT, &p));
	p = icmp_error("198.51.100.1", US, US, 7000, THEM, 80);
	assert_true(passes(IN, &p));
	p = icmp_error("198.51.100.1", "192.0.2.9", US, 7000, THEM, 80); /* sent to somebody else */
	drops(IN, &p, LAT_TC_STAT_DENIED);
	p = icmp_error("198.51.100.1", US, US, 7001, THEM, 80);
	drops(IN, &p, LAT_TC_STAT_DENIED);
	p = icmp_error("198.51.100.1", US, THEM, 80, US, 7000); /* quotes the wrong direction */
	drops(IN, &p, LAT_TC_STAT_DENIED);
	/* IPv6: packet too big. */
	p = tcp6(US6, 7000, THEM6, 80, SYN);
	assert_true(passes(OUT, &p));
	put_ether(&p, 0x86dd);
	put_v6(&p, "2001:db8:9::9", US6, 58, 64, 8 + 60);
	put_icmp(&p, 2, 0, 0);
	put_v6(&p, US6, THEM6, 6, 60, 20);
	put_tcp(&p, 7000, 80, SYN);
	assert_true(passes(IN, &p));
	p.b[p.n - 20 + 1] ^= 1;
	drops(IN, &p, LAT_TC_STAT_DENIED);
}

static void neighbours_always_pass(void **state)
{
	struct packet_bytes p;

	put_ether(&p, 0x0806);
	p.n += 28;
	assert_true(passes(IN, &p));
	assert_true(passes(OUT, &p));
	for (int hops = 254; hops <= 255; hops++) {
		put_ether(&p, 0x86dd);
		put_v6(&p, "fe80::1", "ff02::1:ff00:2", 58, (uint8_t)hops, 24);
		put_icmp(&p, 135, 0, 0);
		p.n += 16;
		assert_int_equal(passes(IN, &p), hops == 255);
	}
	put_ether(&p, 0x88cc);
	p.n += 40;
	drops(IN, &p, LAT_TC_STAT_ODD);
}

static void no_packet_that_is_cut_short_passes(void **state)
{
	struct packet_bytes whole[3] = { tcp4(US, 8000, THEM, 80, SYN), tcp6(US6, 8000, THEM6, 80, SYN) }, p;

	put_ether(&whole[2], 0x0800);
	put_v4(&whole[2], US, THEM, 17, 0, "\x94\x04\0\0", 4, 8);
	put_udp(&whole[2], 8000, 80, 0);
	for (int i = 0; i < 3; i++) {
		assert_true(passes(OUT, &whole[i]));
		for (size_t n = 14; n < whole[i].n; n++) {
			p = whole[i];
			p.n = n;
			if (lat_tc_run(tc, OUT, p.b, p.n) == 1)
				fail_msg("packet %d passed with %zu bytes", i, n);
		}
	}
	p = tcp4(US, 8000, THEM, 80, SYN);
	p.b[14] = 0x44; /* header length */
	drops(OUT, &p, LAT_TC_STAT_ODD);
	p = tcp4(US, 8000, THEM, 80, SYN);
	p.b[14] = 0x65; /* a version that is not the type's */
	drops(OUT, &p, LAT_TC_STAT_ODD);
	p = tcp4(US, 8000, THEM, 80, SYN);
	p.b[46] = 0x40; /* TCP header length */
	drops(OUT, &p, LAT_TC_STAT_ODD);
}

static void packets_are_counted_by_rule(void **state)
{
	struct lat_tc_count a[4] = { 0 }, b[4] = { 0 };
	struct packet_bytes p = tcp4(US, 9000, THEM, 80, SYN);

	assert_int_equal(lat_tc_counters(tc, a, 4), 0);
	assert_true(passes(OUT, &p));
	p = tcp4(THEM, 80, US, 9000, SYN | ACK);
	assert_true(passes(IN, &p));
	p = tcp4(THEM, 80, US, 9001, SYN);
	assert_false(passes(IN, &p));
	assert_int_equal(lat_tc_counters(tc, b, 4), 0);
	assert_int_equal(b[1].packets - a[1].packets, 2);
	assert_int_equal(b[1].bytes - a[1].bytes, 2 * p.n);
	assert_int_equal(b[0].packets - a[0].packets, 1);
	assert_int_equal(b[3].packets - a[3].packets, 0);
}

static void a_question_leaves_no_trace(void **state)
{
	struct lat_tc_question question = { .sport = 1, .dport = 80, .proto = 6, .dir = OUT };
	struct lat_tc_count a[4] = { 0 }, b[4] = { 0 };
	struct lat_tc_status x, y;
	struct lat_tc_answer answer;

	assert_int_equal(lat_addr_parse(US, &question.local), 0);
	assert_int_equal(lat_addr_parse(THEM, &question.remote), 0);
	assert_int_equal(lat_tc_status(tc, &x), 0);
	assert_int_equal(lat_tc_counters(tc, a, 4), 0);
	assert_int_equal(lat_tc_ask(tc, &question, &answer), 0);
	assert_true(answer.passes);
	assert_int_equal(answer.rule, 1);
	assert_int_equal(answer.generation, 1);
	question.dport = 81;
	assert_int_equal(lat_tc_ask(tc, &question, &answer), 0);
	assert_false(answer.passes);
	assert_int_equal(answer.rule, 0);
	assert_int_equal(lat_tc_status(tc, &y), 0);
	assert_int_equal(lat_tc_counters(tc, b, 4), 0);
	assert_memory_equal(a, b, sizeof(a));
	assert_memory_equal(x.stats, y.stats, sizeof(x.stats));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rules_are_judged_by_direction_and_port),
		cmocka_unit_test(answers_pass_and_what_is_none_does_not),
		cmocka_unit_test(a_closed_connection_begins_anew_by_the_rules),
		cmocka_unit_test(pings_are_answered_and_not_taken_for_answers),
		cmocka_unit_test(tags_and_extension_headers_are_looked_through),
		cmocka_unit_test(headers_that_lead_elsewhere_are_refused),
		cmocka_unit_test(later_fragments_pass_after_an_allowed_first),
		cmocka_unit_test(fragments_of_ipv6_go_the_same_way),
		cmocka_unit_test(errors_pass_if_they_quote_an_allowed_flow),
		cmocka_unit_test(neighbours_always_pass),
		cmocka_unit_test(no_packet_that_is_cut_short_passes),
		cmocka_unit_test(packets_are_counted_by_rule),
		cmocka_unit_test(a_question_leaves_no_trace),
	};

	tc_world();
	return cmocka_run_group_tests(tests, with_policy, end);
}
