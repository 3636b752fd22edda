/* A hundred thousand rules in the maps of the tc programs: right, and in a time that is not out of all proportion (the real
 * bars are in the bench, on a quiet machine). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "support/tc.h"
#include "base/clock.h"

#define RULES 100000u
#define SLOW 20 /* times the bar */

enum { OUT, IN };

/* Rule n: out tcp to a prefix of its own, port 1000 + n % 1000; every other has a parent of many ports. */
static void fill(struct lat_entry *entries, struct lat_rule *rules)
{
	for (uint32_t i = 0; i < RULES; i++) {
		uint32_t net = htonl(0x0a000000u + (i << 6));
		struct lat_entry *e = &entries[i];

		*e = (struct lat_entry){ .rule = i + 1, .proto = 6, .dir = OUT, .port_lo = (uint16_t)(1000 + i % 1000) };
		e->port_hi = e->port_lo;
		e->prefix.family = 4;
		e->prefix.len = i % 3 == 0 ? 26 : i % 3 == 1 ? 28 : 32;
		lat_addr_from4(&e->prefix.addr, &net);
		rules[i] = (struct lat_rule){ .where = "test:1", .action = LAT_ACTION_ALLOW };
	}
}

static struct packet_bytes first_of(uint32_t rule)
{
	uint32_t net = htonl(0x0a000000u + (rule << 6));
	char text[INET_ADDRSTRLEN];

	inet_ntop(AF_INET, &net, text, sizeof(text));
	return tcp4("192.0.2.1", 5000, text, (uint16_t)(1000 + rule % 1000), 2);
}

static void a_hundred_thousand_rules_are_in_force_soon(void **state)
{
	const struct lat_tc_options options = { .device = "v0", .pins = TC_PINS };
	struct lat_entry *entries = calloc(RULES, sizeof(*entries));
	struct lat_rule *rules = calloc(RULES, sizeof(*rules));
	struct lat_image_spec spec = { .generation = 1, .rules = rules, .rule_count = RULES, .entries = entries,
		.entry_count = RULES };
	struct lat_tc_temp temp = { .box = { .rule = LAT_RULE_TEMPORARY | 1, .hi = 65535, .proto = 255 } };
	uint64_t start, built, prepared, flipped, settled, changed;
	struct packet_bytes p = first_of(77777);
	struct lat_tc_image image;
	uint32_t known = 0, judged = 0;
	char say[LAT_TC_SAY];
	struct lat_tc *tc;

	assert_true(entries && rules);
	fill(entries, rules);
	assert_int_equal(lat_tc_open(&options, &tc, say), 0);
	start = lat_now_ns();
	assert_int_equal(lat_image_build(&spec, &image), 0);
	built = lat_now_ns();
	assert_int_equal(lat_tc_prepare(tc, &image, say), 0);
	prepared = lat_now_ns();
	assert_int_equal(lat_tc_flip(tc), 0);
	flipped = lat_now_ns();
	lat_tc_settle(tc);
	settled = lat_now_ns();
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(lat_tc_overlay(tc, &temp, 1), 0);
	changed = (lat_now_ns() - settled) / 10;
	assert_int_equal(lat_tc_overlay(tc, NULL, 0), 0);
	for (uint32_t i = 0; i < RULES; i += 997) {
		struct lat_tc_question q = { .dport = (uint16_t)(1000 + i % 1000), .proto = 6, .dir = OUT };
		uint32_t net = htonl(0x0a000000u + (i << 6));
		struct lat_tc_answer answer;

		lat_addr_from4(&q.remote, &net);
		lat_addr_from4(&q.local, &net);
		assert_int_equal(lat_tc_ask(tc, &q, &answer), 0);
		assert_int_equal(answer.rule, i + 1);
		q.dport = 7;
		assert_int_equal(lat_tc_ask(tc, &q, &answer), 0);
		assert_int_equal(answer.rule, 0);
	}
	assert_int_equal(lat_tc_run(tc, OUT, p.b, p.n), 1);
	p.b[47] = 16; /* an ACK */
	assert_int_equal(lat_tc_time(tc, OUT, false, p.b, p.n, 1000000, &known), 0);
	assert_int_equal(lat_tc_time(tc, OUT, true, p.b, p.n, 1000000, &judged), 0);
	print_message("100k rules: tables %.1f ms, maps %.1f, flip %.3f, freeing %.1f; a temporary rule %.1f us; a packet of a "
		"known flow %u ns, a question %u ns\n", (double)(built - start) / 1e6, (double)(prepared - built) / 1e6,
		(double)(flipped - prepared) / 1e6, (double)(settled - flipped) / 1e6, (double)changed / 1e3, known, judged);
	assert_true(prepared - built < SLOW * 200000000ull);
	assert_true(changed < SLOW * 50000ull);
	lat_image_fini(&image);
	lat_tc_close(tc, false);
	free(entries);
	free(rules);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(a_hundred_thousand_rules_are_in_force_soon) };

	tc_world();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
