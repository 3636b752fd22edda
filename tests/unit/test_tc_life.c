/* The life of the tc enforcer: generations and open flows, temporary rules and pins, events. (Taking over, what is left behind,
 * failures: test_tc_takeover.c.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "support/tc_life.h"
#include "kernel/ring.h"

/* ---- generations ---- */

static void a_device_without_ethernet_headers_is_guarded_too(void **state)
{
	const struct lat_tc_options options = { .device = "t0", .pins = TC_PINS, .flows = 1024 };
	struct packet_bytes good = tcp4(US, 1, THEM, 80, SYN), bad = tcp4(US, 1, THEM, 81, SYN);
	struct lat_tc_question question = { .dport = 80, .proto = 6 };
	struct lat_tc_answer answer;
	struct lat_tc_status status;
	struct lat_tc *tc;

	if (system("ip tuntap add dev t0 mode tun 2>/dev/null") != 0) {
		print_message("needs /dev/net/tun\n");
		skip();
	}
	assert_int_equal(lat_tc_open(&options, &tc, say), 0);
	assert_int_equal(apply_port(tc, 1, 80, LAT_ACTION_ALLOW, false), 0);
	assert_int_equal(lat_tc_status(tc, &status), 0);
	assert_false(status.ether);
	assert_int_equal(lat_tc_run(tc, OUT, good.b + 14, good.n - 14), 1);
	assert_int_equal(lat_tc_run(tc, OUT, bad.b + 14, bad.n - 14), 0);
	assert_int_equal(lat_tc_run(tc, OUT, good.b, good.n), 0); /* no IP version in front */
	assert_int_equal(lat_addr_parse(THEM, &question.remote), 0);
	assert_int_equal(lat_addr_parse(US, &question.local), 0);
	assert_int_equal(lat_tc_ask(tc, &question, &answer), 0);
	assert_true(answer.passes);
	question.dport = 81;
	assert_int_equal(lat_tc_ask(tc, &question, &answer), 0);
	assert_false(answer.passes);
	assert_int_equal(answer.why, LAT_TC_STAT_DENIED);
	lat_tc_close(tc, false);
	assert_int_equal(system("ip link del t0"), 0);
}

static void nothing_passes_before_the_first_policy(void **state)
{
	struct lat_tc *tc = must_open(false);
	struct packet_bytes p = tcp4(US, 1, THEM, 80, SYN);
	struct lat_tc_status status;

	assert_false(passes(tc, OUT, &p));
	assert_false(passes(tc, IN, &p));
	assert_int_equal(lat_tc_status(tc, &status), 0);
	assert_int_equal(status.stats[LAT_TC_STAT_NO_POLICY], 2);
	assert_int_equal(status.generation, 0);
	lat_tc_close(tc, false);
	nothing_is_left();
}

static void a_new_policy_judges_open_flows_again(void **state)
{
	struct lat_tc *tc = must_open(false);
	struct packet_bytes syn = tcp4(US, 2, THEM, 80, SYN), ack = tcp4(US, 2, THEM, 80, ACK);
	struct packet_bytes back = tcp4(THEM, 80, US, 2, ACK);

	assert_int_equal(apply_port(tc, 1, 80, LAT_ACTION_ALLOW, false), 0);
	assert_true(passes(tc, OUT, &syn));
	assert_true(passes(tc, IN, &back));
	assert_int_equal(apply_port(tc, 2, 80, LAT_ACTION_ALLOW, false), 0);
	assert_int_equal(generation_of(tc), 2);
	assert_true(passes(tc, IN, &back));
	assert_int_equal(apply_port(tc, 3, 81, LAT_ACTION_ALLOW, false), 0);
	assert_false(passes(tc, IN, &back));
	assert_false(passes(tc, OUT, &ack));
	assert_false(passes(tc, OUT, &syn));
	/* Allowed again: the connection may go on. */
	assert_int_equal(apply_port(tc, 4, 80, LAT_ACTION_ALLOW, false), 0);
	assert_true(passes(tc, OUT, &ack));
	/* One that keeps open flows, new ones denied. */
	assert_int_equal(apply_port(tc, 5, 81, LAT_ACTION_ALLOW, true), 0);
	assert_true(passes(tc, OUT, &ack));
	assert_true(passes(tc, IN, &back));
	syn = tcp4(US, 3, THEM, 80, SYN);
	assert_false(passes(tc, OUT, &syn));
	lat_tc_close(tc, false);
	nothing_is_left();
}

static void cut_tells_what_the_new_policy_ended(void **state)
{
	struct lat_tc *tc = must_open(false);
	struct packet_bytes p;

	assert_int_equal(apply_port(tc, 1, 80, LAT_ACTION_ALLOW, false), 0);
	for (uint16_t port = 10; port < 15; port++) {
		p = tcp4(US, port, THEM, 80, SYN);
		assert_true(passes(tc, OUT, &p));
	}
	assert_int_equal(lat_tc_cut(tc), 0);
	assert_int_equal(apply_port(tc, 2, 81, LAT_ACTION_ALLOW, false), 0);
	assert_int_equal(lat_tc_cut(tc), 5);
	assert_int_equal(lat_tc_cut(tc), 0);
	p = tcp4(THEM, 80, US, 12, ACK);
	assert_false(passes(tc, IN, &p));
	lat_tc_close(tc, false);
}

static void temporary_rules_come_first_and_go(void **state)
{
	struct lat_tc *tc = must_open(false);
	struct packet_bytes p = tcp4(US, 20, THEM, 80, SYN), ack = tcp4(US, 20, THEM, 80, ACK);
	struct packet_bytes other = tcp4(US, 20, "198.51.100.1", 443, SYN);
	struct lat_tc_temp temps[2] = {
		{ .box = { .rule = LAT_RULE_TEMPORARY | 1, .lo = 80, .hi = 80, .proto = 6 }, .is6 = 0 },
		{ .box = { .rule = LAT_RULE_TEMPORARY | 2, .hi = 65535, .proto = 6, .action = LAT_ACTION_ALLOW }, .is6 = 0 },
	};
	struct lat_addr them, we;
	struct lat_tc_question question = { .dport = 80, .proto = 6 };
	struct lat_tc_answer answer;

	assert_int_equal(lat_addr_parse(THEM, &them), 0);
	assert_int_equal(lat_addr_parse("198.51.100.1", &we), 0);
	memcpy(temps[0].addr, them.b, 16);
	memset(temps[0].mask, 0xff, 16);
	memcpy(temps[1].addr, we.b, 16);
	memset(temps[1].mask, 0xff, 16);
	assert_int_equal(apply_port(tc, 1, 80, LAT_ACTION_ALLOW, false), 0);
	assert_true(passes(tc, OUT, &p));
	assert_false(passes(tc, OUT, &other));
	assert_int_equal(lat_tc_overlay(tc, temps, 2), 0);
	assert_false(passes(tc, OUT, &ack)); /* also of the open flow */
	assert_true(passes(tc, OUT, &other));
	question.remote = them;
	question.local = we;
	assert_int_equal(lat_tc_ask(tc, &question, &answer), 0);
	assert_int_equal(answer.rule, LAT_RULE_TEMPORARY | 1);
	assert_int_equal(apply_port(tc, 2, 80, LAT_ACTION_ALLOW, false), 0); /* a reload keeps them */
	assert_false(passes(tc, OUT, &p));
	assert_int_equal(lat_tc_overlay(tc, NULL, 0), 0);
	assert_true(passes(tc, OUT, &p));
	other.b[47] = ACK;
	assert_false(passes(tc, OUT, &other));
	for (int i = 0; i < 40; i++)
		assert_int_equal(lat_tc_overlay(tc, temps, 1 + i % 2), 0);
	assert_false(passes(tc, OUT, &p));
	lat_tc_close(tc, false);
}

static void names_open_an_address_while_it_is_pinned(void **state)
{
	const struct lat_entry entries[] = { tc_entry(2, OUT, "0.0.0.0/0", 6, 443, 443) };
	const uint8_t actions[] = { LAT_ACTION_ALLOW, LAT_ACTION_DENY };
	const struct lat_name_entry name = { .pattern = "*.example", .rule = 1, .port_lo = 443, .port_hi = 443,
		.dir = OUT, .proto = 6, .allows = 1 };
	const char *const names[] = { "www.example" };
	struct packet_bytes p = tcp4(US, 30, "198.51.100.7", 443, SYN), q = tcp4(US, 30, "198.51.100.8", 443, SYN);
	struct lat_tc *tc = must_open(false);
	struct lat_tc_pin pin;
	struct lat_addr addr;

	assert_int_equal(lat_addr_parse("198.51.100.7", &addr), 0);
	lat_image_pin(&name, 1, &addr, names, 1, &pin);
	assert_int_equal(pin.count, 1);
	assert_int_equal(tc_apply(tc, 1, LAT_ACTION_DENY, actions, 2, entries, 1, false), 0);
	assert_false(passes(tc, OUT, &p));
	assert_int_equal(lat_tc_pins(tc, false, &addr, &pin, 1), 0);
	assert_true(passes(tc, OUT, &p));
	assert_false(passes(tc, OUT, &q));
	assert_int_equal(lat_tc_pins(tc, false, NULL, NULL, 0), 0);
	p = tcp4(US, 31, "198.51.100.7", 443, SYN);
	assert_false(passes(tc, OUT, &p));
	lat_tc_close(tc, false);
}

static void a_rate_bounds_new_flows_and_no_packets(void **state)
{
	struct lat_tc *tc = must_open(false);
	struct lat_tc_status status;
	struct packet_bytes p;
	int passed = 0;

	tc_rate = 5;
	assert_int_equal(apply_port(tc, 1, 80, LAT_ACTION_ALLOW, false), 0);
	tc_rate = 0;
	for (uint16_t port = 100; port < 200; port++) {
		p = tcp4(US, port, THEM, 80, SYN);
		passed += passes(tc, OUT, &p);
	}
	assert_in_range(passed, 5, 10); /* a second may end meanwhile */
	assert_int_equal(lat_tc_status(tc, &status), 0);
	assert_int_equal(status.stats[LAT_TC_STAT_RATE], 100 - passed);
	for (int i = 0; i < 100; i++) { /* an open one goes on */
		p = tcp4(THEM, 80, US, 100, ACK);
		assert_true(passes(tc, IN, &p));
	}
	lat_tc_close(tc, false);
}

/* ---- events ---- */

struct seen {
	struct lat_event list[64];
	size_t count;
};

static void see(void *ctx, const void *data, size_t size)
{
	struct seen *seen = ctx;

	assert_int_equal(size, sizeof(struct lat_event));
	if (seen->count < 64)
		memcpy(&seen->list[seen->count], data, size);
	seen->count++;
}

static void verdicts_and_ends_are_told(void **state)
{
	struct lat_tc *tc = must_open(false);
	struct packet_bytes p = tcp4(US, 40, THEM, 80, SYN);
	struct seen seen = { .count = 0 };
	struct lat_ring *ring;

	assert_int_equal(lat_ring_open(lat_tc_events(tc), see, &seen, &ring), 0);
	assert_int_equal(apply_port(tc, 7, 80, LAT_ACTION_ALLOW, false), 0);
	assert_true(passes(tc, OUT, &p));
	p = tcp4(THEM, 80, US, 40, RST | ACK);
	assert_true(passes(tc, IN, &p));
	p = tcp4(THEM, 1234, US, 22, SYN);
	assert_false(passes(tc, IN, &p));
	assert_int_equal(lat_ring_dispatch(ring, 100), 3);
	assert_int_equal(seen.list[0].kind, LAT_EVENT_VERDICT);
	assert_int_equal(seen.list[0].action, LAT_ACTION_ALLOW);
	assert_int_equal(seen.list[0].rule, 1);
	assert_int_equal(seen.list[0].generation, 7);
	assert_int_equal(seen.list[0].sport, 40);
	assert_int_equal(seen.list[0].dport, 80);
	assert_int_equal(seen.list[0].dir, OUT);
	assert_int_equal(seen.list[0].length, 54);
	assert_int_equal(seen.list[1].kind, LAT_EVENT_CLOSE);
	assert_int_equal(seen.list[1].packets, 2);
	assert_int_equal(seen.list[1].bytes_in, 54);
	assert_int_equal(seen.list[2].action, LAT_ACTION_DENY);
	assert_int_equal(seen.list[2].rule, 0);
	assert_int_equal(seen.list[2].dir, IN);
	assert_int_equal(seen.list[2].sport, 1234);
	assert_int_equal(seen.list[2].dport, 22);
	lat_ring_free(ring);
	lat_tc_close(tc, false);
}

static void what_a_rate_holds_back_is_told_as_lost(void **state)
{
	const struct lat_tc_options options = { .device = "v0", .pins = TC_PINS, .flows = 1024, .event_rate = 10 };
	struct packet_bytes p = tcp4(THEM, 1, US, 1, SYN);
	struct lat_tc_status status;
	struct seen seen = { .count = 0 };
	struct lat_ring *ring;
	struct lat_tc *tc;
	uint64_t lost = 0, told = 0;

	assert_int_equal(lat_tc_open(&options, &tc, say), 0);
	assert_int_equal(lat_ring_open(lat_tc_events(tc), see, &seen, &ring), 0);
	assert_int_equal(apply_port(tc, 1, 80, LAT_ACTION_ALLOW, false), 0);
	for (int i = 0; i < 1000; i++)
		assert_false(passes(tc, IN, &p));
	assert_int_equal(lat_tc_status(tc, &status), 0);
	assert_true(status.stats[LAT_TC_STAT_HELD] > 900);
	p = tcp4(US, 1, THEM, 80, SYN); /* another rule, which has tokens */
	assert_true(passes(tc, OUT, &p));
	assert_true(lat_ring_dispatch(ring, 1000) > 10);
	for (size_t i = 0; i < seen.count && i < 64; i++) {
		if (seen.list[i].kind == LAT_EVENT_LOSS)
			lost += seen.list[i].packets;
		else
			told++;
	}
	if (lost + told != 1001) /* the runs were on several CPUs: each tells of its own */
		assert_true(lost + told < 1001);
	else
		assert_true(lost > 900);
	lat_ring_free(ring);
	lat_tc_close(tc, false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_device_without_ethernet_headers_is_guarded_too),
		cmocka_unit_test(nothing_passes_before_the_first_policy),
		cmocka_unit_test(a_new_policy_judges_open_flows_again),
		cmocka_unit_test(cut_tells_what_the_new_policy_ended),
		cmocka_unit_test(temporary_rules_come_first_and_go),
		cmocka_unit_test(names_open_an_address_while_it_is_pinned),
		cmocka_unit_test(a_rate_bounds_new_flows_and_no_packets),
		cmocka_unit_test(verdicts_and_ends_are_told),
		cmocka_unit_test(what_a_rate_holds_back_is_told_as_lost),
	};

	tc_world();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
