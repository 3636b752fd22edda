/* The shim's look-ups agree with the tables on generated flows; whatever else is in the memory denies and reads nothing that is
 * not there. */
#include "core/preload_image.h"
#include "intercept/table.h"
#include "../support/flowgen.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#define RULES 40

static struct lat_rule rules[RULES];

static struct lat_policy *policy_of(const struct lat_entry *entries, size_t count, struct lat_policy_spec spec)
{
	struct lat_policy *p = NULL;

	for (unsigned i = 0; i < RULES; i++)
		rules[i] = (struct lat_rule){ .where = "t.lua:1", .action = (uint8_t)(i % LAT_ACTION_COUNT), .log = 1,
			.err = i % 7 == 0 ? EHOSTUNREACH : 0, .rate = i % 11 == 10 ? 5 : 0 };
	spec.rules = rules;
	spec.rule_count = RULES;
	spec.entries = entries;
	spec.entry_count = count;
	assert_int_equal(lat_policy_build(7, &spec, &p), 0);
	return p;
}

static struct lat_shim_image *image_of(const struct lat_policy *p, bool ask_all)
{
	struct lat_shim_image *im = NULL;

	assert_int_equal(lat_preload_image(p, ask_all, &im), 0);
	assert_true(lat_shim_valid(im, im->size));
	return im;
}

static struct lat_shim_flow shim_flow(const struct lat_flow *f)
{
	return (struct lat_shim_flow){ .remote = f->remote, .port = f->dport, .proto = f->proto, .dir = f->dir };
}

static void agrees_with_the_tables(void **state)
{
	static const uint8_t what[] = { [LAT_ACTION_DENY] = LAT_SHIM_DENY, [LAT_ACTION_ALLOW] = LAT_SHIM_ALLOW,
		[LAT_ACTION_DROP] = LAT_SHIM_DROP, [LAT_ACTION_ASK] = LAT_SHIM_ASK, [LAT_ACTION_AUDIT] = LAT_SHIM_ALLOW };
	uint64_t seed = 20261124;
	struct lat_entry entries[200];

	for (unsigned round = 0; round < 60; round++) {
		size_t count = round < 3 ? round : gen_below(&seed, 200);
		struct lat_policy *p;
		struct lat_shim_image *im;

		for (size_t i = 0; i < count; i++)
			entries[i] = gen_entry(&seed, RULES);
		p = policy_of(entries, count, (struct lat_policy_spec){ .default_action = LAT_ACTION_ALLOW });
		im = image_of(p, false);
		for (unsigned i = 0; i < 2000; i++) {
			struct lat_flow f = gen_flow(&seed, entries, count);
			struct lat_shim_flow s = shim_flow(&f);
			struct lat_shim_answer a;
			struct lat_verdict v;

			assert_int_equal(lat_shim_find(im, &s), gen_scan(entries, count, &f));
			lat_policy_judge(p, NULL, &f, 0, &v);
			lat_shim_judge(im, &s, &a);
			assert_int_equal(a.rule, v.rule);
			assert_int_equal(a.action, v.action);
			assert_int_equal(a.err, v.err);
			assert_int_equal(a.what, v.rule && rules[v.rule - 1].rate ? LAT_SHIM_ASK : what[v.action]);
		}
		free(im);
		lat_policy_unref(p);
	}
}

static struct lat_entry entry(const char *prefix, uint8_t dir, uint8_t proto, uint16_t port, uint32_t rule)
{
	struct lat_entry e = { .rule = rule, .port_lo = port, .port_hi = port ? port : 65535, .dir = dir, .proto = proto };

	assert_int_equal(lat_prefix_parse(prefix, &e.prefix), 0);
	return e;
}

static uint8_t what_of(const struct lat_shim_image *im, const char *addr, uint16_t port)
{
	struct lat_shim_flow f = { .port = port, .proto = IPPROTO_TCP };
	struct lat_shim_answer a;

	assert_int_equal(lat_addr_parse(addr, &f.remote), 0);
	lat_shim_judge(im, &f, &a);
	return a.what;
}

/* Rule 2 allows, 7 (action allow), name rules stand at 5. */
static void what_a_name_could_decide_is_asked(void **state)
{
	struct lat_entry e[] = { entry("10.0.0.0/8", LAT_DIR_OUT, LAT_PROTO_ANY, 0, 2),
		entry("11.0.0.0/8", LAT_DIR_OUT, LAT_PROTO_ANY, 0, 7) };
	struct lat_name_entry name = { .pattern = "host.example", .rule = 5, .port_hi = 65535, .proto = LAT_PROTO_ANY, .allows = 1 };
	struct lat_policy *p = policy_of(e, 2, (struct lat_policy_spec){ .names = &name, .name_count = 1 });
	struct lat_shim_image *im = image_of(p, false);

	assert_int_equal(what_of(im, "10.0.0.1", 80), LAT_SHIM_ALLOW);
	assert_int_equal(what_of(im, "11.0.0.1", 80), LAT_SHIM_ASK);
	assert_int_equal(what_of(im, "12.0.0.1", 80), LAT_SHIM_ASK);
	free(im);
	im = image_of(p, true);
	assert_int_equal(what_of(im, "10.0.0.1", 80), LAT_SHIM_ASK);
	free(im);
	lat_policy_unref(p);
	p = policy_of(e, 2, (struct lat_policy_spec){ .has_connect = 1 });
	im = image_of(p, false);
	assert_int_equal(what_of(im, "12.0.0.1", 80), LAT_SHIM_ASK);
	assert_int_equal(what_of(im, "10.0.0.1", 80), LAT_SHIM_ALLOW);
	free(im);
	lat_policy_unref(p);
}

static void a_port_is_open_to_binds_if_somebody_may_come_in(void **state)
{
	struct lat_entry e[] = { entry("10.42.0.0/16", LAT_DIR_IN, IPPROTO_TCP, 22, 2),
		entry("2001:db8::/32", LAT_DIR_IN, IPPROTO_UDP, 53, 2), entry("0.0.0.0/0", LAT_DIR_OUT, LAT_PROTO_ANY, 0, 2),
		entry("10.43.0.0/16", LAT_DIR_IN, IPPROTO_TCP, 23, 1) };
	struct lat_policy *p = policy_of(e, 4, (struct lat_policy_spec){ 0 });
	struct lat_shim_image *im = image_of(p, false);
	struct lat_shim_answer a;

	assert_true(lat_shim_may_come_in(im, IPPROTO_TCP, 22, &a));
	assert_int_equal(a.rule, 2);
	assert_false(lat_shim_may_come_in(im, IPPROTO_UDP, 22, &a));
	assert_int_equal(a.rule, 0);
	assert_true(lat_shim_may_come_in(im, IPPROTO_UDP, 53, &a));
	assert_false(lat_shim_may_come_in(im, IPPROTO_TCP, 23, &a));
	free(im);
	lat_policy_unref(p);
}

/* Bytes of a good image are changed; a copy of its own lets a sanitizer see a read beyond it. */
static void garbage_denies_or_is_found_out(void **state)
{
	uint64_t seed = 99;
	struct lat_entry entries[60];
	struct lat_policy *p;
	struct lat_shim_image *im;

	for (size_t i = 0; i < 60; i++)
		entries[i] = gen_entry(&seed, RULES);
	p = policy_of(entries, 60, (struct lat_policy_spec){ .default_action = LAT_ACTION_ALLOW });
	im = image_of(p, false);
	assert_false(lat_shim_valid(im, im->size - 1));
	assert_false(lat_shim_valid(im, 8));
	for (unsigned round = 0; round < 20000; round++) {
		struct lat_shim_image *copy = aligned_alloc(16, (im->size + 15) & ~15u);
		struct lat_flow f = gen_flow(&seed, entries, 60);
		struct lat_shim_flow s = shim_flow(&f);
		struct lat_shim_answer a;

		memcpy(copy, im, im->size);
		for (unsigned k = gen_below(&seed, 8) + 1; k > 0; k--) {
			uint32_t at = gen_below(&seed, gen_below(&seed, 2) ? im->size : sizeof(*im));

			((uint8_t *)copy)[at] = (uint8_t)gen_next(&seed);
		}
		if (lat_shim_valid(copy, im->size)) {
			if (lat_shim_find(copy, &s) < 0) {
				lat_shim_judge(copy, &s, &a);
				assert_int_equal(a.what, LAT_SHIM_DENY);
			}
			lat_shim_may_come_in(copy, f.proto, f.dport, &a);
		}
		free(copy);
	}
	free(im);
	lat_policy_unref(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(agrees_with_the_tables),
		cmocka_unit_test(what_a_name_could_decide_is_asked),
		cmocka_unit_test(a_port_is_open_to_binds_if_somebody_may_come_in),
		cmocka_unit_test(garbage_denies_or_is_found_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
