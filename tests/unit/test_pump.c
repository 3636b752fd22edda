/* The pump: what comes in is checked, named by its generation and counted; handlers are put into their order. */
#include "core/pump.h"
#include "core/order.h"
#include "base/mem.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static struct lat_event event(uint32_t generation, uint32_t rule)
{
	return (struct lat_event){ .kind = LAT_EVENT_VERDICT, .action = LAT_ACTION_ALLOW, .generation = generation,
		.rule = rule, .proto = IPPROTO_TCP, .dport = 443, .packets = 1 };
}

static struct lat_pump *new_pump(size_t memory)
{
	struct lat_pump_options o = { .memory = memory };
	struct lat_pump *p = NULL;
	const char *failed;

	assert_int_equal(lat_pump_new(&o, &p, &failed), 0);
	return p;
}

static struct lat_policy *policy(uint32_t generation, const char *where)
{
	struct lat_rule rule = { .where = where, .text = "allow any", .action = LAT_ACTION_ALLOW, .log = 1 };
	struct lat_policy_spec spec = { .name = "p", .rules = &rule, .rule_count = 1 };
	struct lat_policy *made = NULL;

	assert_int_equal(lat_policy_build(generation, &spec, &made), 0);
	return made;
}

static void the_newest_events_are_kept_in_order(void **state)
{
	struct lat_pump *p = new_pump(4);

	for (uint16_t i = 0; i < 10; i++) {
		struct lat_event e = event(1, 0);

		e.dport = i;
		assert_int_equal(lat_pump_take(p, &e, sizeof(e), NULL), 0);
	}
	assert_int_equal(lat_pump_next(p), 10);
	assert_int_equal(lat_pump_first(p), 6);
	for (uint64_t i = 6; i < 10; i++)
		assert_int_equal(lat_pump_at(p, i)->dport, i);
	lat_pump_free(p, 1000);
}

static void what_is_no_event_is_counted_and_goes_no_further(void **state)
{
	struct lat_pump *p = new_pump(4);
	struct lat_pump_counters c;
	struct lat_event e = event(1, 1), copy = { .rule = 99 };

	e.kind = 0;
	assert_int_equal(lat_pump_take(p, &e, sizeof(e), &copy), -EINVAL);
	e = event(1, 1);
	e.action = LAT_ACTION_COUNT;
	assert_int_equal(lat_pump_take(p, &e, sizeof(e), &copy), -EINVAL);
	e = event(1, 1);
	e.dir = 2;
	assert_int_equal(lat_pump_take(p, &e, sizeof(e), &copy), -EINVAL);
	e = event(1, 1);
	assert_int_equal(lat_pump_take(p, &e, sizeof(e) - 1, &copy), -EINVAL);
	assert_int_equal(copy.rule, 99);
	assert_int_equal(lat_pump_next(p), 0);
	lat_pump_count(p, &c);
	assert_int_equal(c.lost, 4);
	assert_int_equal(c.seen, 0);
	lat_pump_free(p, 1000);
}

static void rules_are_named_by_the_generation_of_the_event(void **state)
{
	struct lat_pump *p = new_pump(4);
	struct lat_event_rule rule;
	struct lat_event e;

	for (uint32_t g = 1; g <= 4; g++) {
		char where[16];
		struct lat_policy *made;

		snprintf(where, sizeof(where), "p.lua:%u", g);
		made = policy(g, where);
		lat_pump_generation(p, made);
		lat_pump_generation(p, made); /* twice is once */
		lat_policy_unref(made);
	}
	for (uint32_t g = 2; g <= 4; g++) {
		char where[16];

		snprintf(where, sizeof(where), "p.lua:%u", g);
		e = event(g, 1);
		lat_pump_rule(p, &e, &rule);
		assert_string_equal(rule.where, where);
	}
	e = event(1, 1); /* too old to be known: the number is all there is */
	lat_pump_rule(p, &e, &rule);
	assert_string_equal(rule.where, "rule 1");
	e = event(4, 2); /* no such rule */
	lat_pump_rule(p, &e, &rule);
	assert_string_equal(rule.where, "rule 2");
	e = event(4, LAT_RULE_TEMPORARY | 7);
	lat_pump_rule(p, &e, &rule);
	assert_string_equal(rule.where, "temporary:7");
	e = event(4, 0);
	lat_pump_rule(p, &e, &rule);
	assert_string_equal(rule.where, "default");
	lat_pump_free(p, 1000);
}

static void losses_add_up(void **state)
{
	struct lat_pump *p = new_pump(4);
	struct lat_event e = event(1, 3);
	struct lat_pump_counters c;

	e.kind = LAT_EVENT_LOSS;
	e.packets = 1ull << 40;
	assert_int_equal(lat_pump_take(p, &e, sizeof(e), NULL), 0);
	lat_pump_lost(p, 5, true, "tested");
	lat_pump_lost(p, 7, false, "tested");
	lat_pump_count(p, &c);
	assert_int_equal(c.lost_in_kernel, (1ull << 40) + 5);
	assert_int_equal(c.lost, 7);
	assert_int_equal(lat_pump_next(p), 0);
	lat_pump_free(p, 1000);
}

static void a_loss_that_was_told_ahead_is_not_told_again(void **state)
{
	struct lat_pump *p = new_pump(4);
	struct lat_event e = event(1, 0);
	struct lat_pump_counters c;

	e.kind = LAT_EVENT_LOSS;
	e.packets = 10;
	assert_int_equal(lat_pump_take(p, &e, sizeof(e), NULL), 0);
	lat_pump_account(p, 10); /* nothing new */
	lat_pump_account(p, 25); /* 15 that no event has told */
	lat_pump_account(p, 25);
	lat_pump_count(p, &c);
	assert_int_equal(c.lost_in_kernel, 25);
	e.packets = 20; /* those 15 and 5 more */
	assert_int_equal(lat_pump_take(p, &e, sizeof(e), NULL), 0);
	lat_pump_account(p, 30);
	lat_pump_account(p, 3);
	lat_pump_count(p, &c);
	assert_int_equal(c.lost_in_kernel, 30);
	lat_pump_free(p, 1000);
}

static void order_is(const struct lat_order_item *items, size_t count, const char *expected)
{
	char text[LAT_ORDER_MAX + 1] = "";
	size_t out[LAT_ORDER_MAX];

	assert_int_equal(lat_order(items, count, out), 0);
	for (size_t i = 0; i < count; i++)
		text[i] = items[out[i]].name[0];
	assert_string_equal(text, expected);
}

static void before_and_after_are_kept_and_contradictions_refused(void **state)
{
	static const struct lat_order_item plain[] = { { "a" }, { "b" }, { "c" } };
	static const struct lat_order_item words[] = { { "a", NULL, "c" }, { "b", NULL, "x" }, { "c", NULL, NULL } };
	static const struct lat_order_item cycle[] = { { "a", "b", NULL }, { "b", "c", NULL }, { "c", "a", NULL } };
	static const struct lat_order_item self[] = { { "a", "a", NULL } };
	struct lat_order_item many[LAT_ORDER_MAX + 1] = { { "a" } };
	size_t out[LAT_ORDER_MAX] = { 42 };

	order_is(plain, 3, "abc");
	order_is(words, 3, "bca");
	assert_int_equal(lat_order(cycle, 3, out), -ELOOP);
	assert_int_equal(lat_order(self, 1, out), -ELOOP);
	assert_int_equal(lat_order(many, LAT_ORDER_MAX + 1, out), -E2BIG);
	assert_int_equal(out[0], 42);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_newest_events_are_kept_in_order),
		cmocka_unit_test(what_is_no_event_is_counted_and_goes_no_further),
		cmocka_unit_test(rules_are_named_by_the_generation_of_the_event),
		cmocka_unit_test(losses_add_up),
		cmocka_unit_test(a_loss_that_was_told_ahead_is_not_told_again),
		cmocka_unit_test(before_and_after_are_kept_and_contradictions_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
