/* Name rules and pins: what a name opens, for how long, and what it must never open. */
#include "core/names.h"
#include "../support/flowgen.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#define SEC 1000000000ull

static struct lat_name_entry name_rule(const char *pattern, uint32_t rule, bool allows)
{
	return (struct lat_name_entry){ .pattern = pattern, .rule = rule, .port_hi = 65535, .proto = LAT_PROTO_ANY,
		.allows = allows };
}

static struct lat_names *build(const struct lat_name_entry *e, size_t n)
{
	struct lat_names *names = NULL;

	assert_int_equal(lat_names_build(e, n, &names), 0);
	return names;
}

static struct lat_pins *pins_new(size_t max)
{
	struct lat_pins *pins = NULL;

	assert_int_equal(lat_pins_new(max, &pins), 0);
	return pins;
}

static struct lat_addr addr(const char *text)
{
	struct lat_addr a;

	assert_int_equal(lat_addr_parse(text, &a), 0);
	return a;
}

static void pin(struct lat_pins *pins, const char *address, const char *name, uint64_t until)
{
	struct lat_addr a = addr(address);

	assert_int_equal(lat_pins_add(pins, &a, name, until), 0);
}

static uint32_t ask(const struct lat_names *names, struct lat_pins *pins, const char *address, uint8_t proto,
	uint16_t port, uint64_t now)
{
	struct lat_flow f = { .remote = addr(address), .dport = port, .proto = proto };

	return lat_names_lookup(names, pins, &f, now);
}

static const char *name_of(struct lat_pins *pins, const char *address, uint64_t now)
{
	struct lat_addr a = addr(address);
	const char *name = lat_pins_name(pins, &a, now);

	return name ? name : "";
}

static void patterns_match_whole_labels_at_every_depth(void **state)
{
	assert_true(lat_name_matches("host.example", "host.example"));
	assert_false(lat_name_matches("host.example", "a.host.example"));
	assert_true(lat_name_matches("*.host.example", "a.host.example"));
	assert_true(lat_name_matches("*.host.example", "a.b.host.example"));
	assert_false(lat_name_matches("*.host.example", "host.example"));
	assert_false(lat_name_matches("*.host.example", "ahost.example"));
	assert_false(lat_name_matches("*.host.example", ".host.example"));
	assert_false(lat_name_matches("*.host.example", "host.example.evil"));
	assert_false(lat_name_matches("*.host.example", ""));
}

static void names_are_normalized_or_refused(void **state)
{
	static const char *const bad[] = { "", ".", "..", "a..b", ".a", "a.b..", "a b", "a/b", "a:b", "*.a", "a\xc3\xa9", "1.2.3.4",
		"127.1", "2130706433", "0x7f000001", "0x7f.1", "a.1", "a.0x1f", "::1", "a.0x", "a\n", "host.example,evil" };
	char out[LAT_NAME_MAX], label[80], longest[300] = "";

	assert_int_equal(lat_name_normalize("API.Example.", 12, out), 0);
	assert_string_equal(out, "api.example");
	assert_int_equal(lat_name_normalize("_srv-1.x", 8, out), 0);
	assert_string_equal(out, "_srv-1.x");
	assert_int_equal(lat_name_normalize("1.a", 3, out), 0);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (lat_name_normalize(bad[i], strlen(bad[i]), out) != -EINVAL)
			fail_msg("'%s' must be refused", bad[i]);
	assert_string_equal(out, "1.a");
	assert_int_equal(lat_name_normalize("a\0b.example", 11, out), -EINVAL);
	memset(label, 'a', 64);
	label[64] = '\0';
	assert_int_equal(lat_name_normalize(label, 63, out), 0);
	assert_int_equal(lat_name_normalize(label, 64, out), -EINVAL);
	for (unsigned i = 0; i < 126; i++)
		strcat(longest, "a.");
	strcat(longest, "b"); /* 253 */
	assert_int_equal(lat_name_normalize(longest, 253, out), 0);
	assert_int_equal(strlen(out), 253);
	strcat(longest, ".");
	assert_int_equal(lat_name_normalize(longest, 254, out), 0);
	longest[253] = 'c';
	assert_int_equal(lat_name_normalize(longest, 254, out), -EINVAL);
}

static void a_name_opens_only_its_pinned_addresses_until_their_end(void **state)
{
	struct lat_name_entry e = name_rule("api.example", 3, true);
	struct lat_names *names = build(&e, 1);
	struct lat_pins *pins = pins_new(8);

	pin(pins, "203.0.113.9", "api.example", 10 * SEC);
	pin(pins, "203.0.113.10", "other.example", 10 * SEC);
	assert_int_equal(ask(names, pins, "203.0.113.9", IPPROTO_TCP, 443, 0), 3);
	assert_int_equal(ask(names, pins, "::ffff:203.0.113.9", IPPROTO_TCP, 443, 0), 3);
	assert_int_equal(ask(names, pins, "203.0.113.9", IPPROTO_TCP, 443, 10 * SEC - 1), 3);
	assert_int_equal(ask(names, pins, "203.0.113.9", IPPROTO_TCP, 443, 10 * SEC), 0);
	assert_int_equal(ask(names, pins, "203.0.113.10", IPPROTO_TCP, 443, 0), 0);
	assert_int_equal(ask(names, pins, "203.0.113.11", IPPROTO_TCP, 443, 0), 0);
	lat_pins_free(pins);
	lat_names_free(names);
}

static void the_lowest_rule_of_all_pinned_names_wins(void **state)
{
	struct lat_name_entry e[] = {
		name_rule("*.example", 9, true), name_rule("*.cdn.example", 4, true), name_rule("a.cdn.example", 6, false),
		name_rule("b.example", 2, true),
	};
	struct lat_names *names;
	struct lat_pins *pins = pins_new(8);

	e[1].port_lo = e[1].port_hi = 443;
	e[1].proto = IPPROTO_TCP;
	names = build(e, 4);
	pin(pins, "203.0.113.1", "a.cdn.example", SEC);
	assert_int_equal(ask(names, pins, "203.0.113.1", IPPROTO_TCP, 443, 0), 4);
	assert_int_equal(ask(names, pins, "203.0.113.1", IPPROTO_TCP, 80, 0), 6);
	assert_int_equal(ask(names, pins, "203.0.113.1", IPPROTO_UDP, 443, 0), 6);
	pin(pins, "203.0.113.1", "b.example", SEC);
	assert_int_equal(ask(names, pins, "203.0.113.1", IPPROTO_TCP, 80, 0), 2);
	assert_string_equal(name_of(pins, "203.0.113.1", 0), "b.example");
	pin(pins, "203.0.113.1", "a.cdn.example", SEC);
	assert_string_equal(name_of(pins, "203.0.113.1", 0), "a.cdn.example");
	lat_pins_free(pins);
	lat_names_free(names);
}

static void ports_narrow_a_name_rule_to_tcp_and_udp(void **state)
{
	struct lat_name_entry e[] = { name_rule("a.example", 1, true), name_rule("a.example", 2, true) };
	struct lat_names *names;
	struct lat_pins *pins = pins_new(1);

	e[0].port_lo = 1;
	names = build(e, 2);
	pin(pins, "203.0.113.1", "a.example", SEC);
	assert_int_equal(ask(names, pins, "203.0.113.1", IPPROTO_UDP, 1, 0), 1);
	assert_int_equal(ask(names, pins, "203.0.113.1", IPPROTO_UDP, 0, 0), 2);
	assert_int_equal(ask(names, pins, "203.0.113.1", IPPROTO_ICMP, 5, 0), 2);
	lat_pins_free(pins);
	lat_names_free(names);
}

static void a_private_address_needs_private_ok_but_denies_always(void **state)
{
	struct lat_name_entry e[] = { name_rule("a.example", 1, true), name_rule("a.example", 2, true),
		name_rule("b.example", 3, false) };
	struct lat_names *names;
	struct lat_pins *pins = pins_new(8);

	e[1].private_ok = 1;
	names = build(e, 3);
	pin(pins, "10.0.0.1", "a.example", SEC);
	pin(pins, "203.0.113.1", "a.example", SEC);
	pin(pins, "127.0.0.1", "b.example", SEC);
	assert_int_equal(ask(names, pins, "10.0.0.1", IPPROTO_TCP, 1, 0), 2);
	assert_int_equal(ask(names, pins, "203.0.113.1", IPPROTO_TCP, 1, 0), 1);
	assert_int_equal(ask(names, pins, "127.0.0.1", IPPROTO_TCP, 1, 0), 3);
	lat_pins_free(pins);
	lat_names_free(names);
}

static void resolvable_is_what_some_rule_could_allow(void **state)
{
	struct lat_name_entry e[] = {
		name_rule("ads.example", 1, false), name_rule("*.example", 2, true), name_rule("half.example", 3, false),
		name_rule("tcp.site", 4, false), name_rule("*.site", 5, true), name_rule("late.org", 6, false),
		name_rule("in.lan", 7, true), name_rule("in.lan", 8, true),
	};
	struct lat_names *names;
	bool private_ok = true;

	e[3].proto = IPPROTO_TCP;
	e[7].private_ok = 1;
	names = build(e, 8);
	assert_false(lat_names_resolvable(names, "ads.example", &private_ok));
	assert_true(private_ok); /* untouched */
	assert_true(lat_names_resolvable(names, "x.ads.example", &private_ok));
	assert_false(private_ok);
	assert_true(lat_names_resolvable(names, "half.example", NULL));
	assert_true(lat_names_resolvable(names, "tcp.site", NULL)); /* udp is left */
	assert_false(lat_names_resolvable(names, "site", NULL));
	assert_false(lat_names_resolvable(names, "example", NULL));
	assert_false(lat_names_resolvable(names, "late.org", NULL));
	assert_false(lat_names_resolvable(names, "", NULL));
	assert_true(lat_names_resolvable(names, "in.lan", &private_ok));
	assert_true(private_ok);
	lat_names_free(names);
}

static void odd_patterns_are_refused(void **state)
{
	static const char *const bad[] = { "", "*", "*.", "*.*.x", "a.*.x", "A.example", "a.example.", "*a.example", "10.0.0.1" };
	struct lat_names *names = (void *)bad;
	struct lat_name_entry e;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		e = name_rule(bad[i], 1, true);
		if (lat_names_build(&e, 1, &names) != -EINVAL)
			fail_msg("'%s' must be refused", bad[i]);
	}
	e = name_rule("a.example", 0, true);
	assert_int_equal(lat_names_build(&e, 1, &names), -EINVAL);
	e = name_rule("a.example", 1, true);
	e.dir = LAT_DIR_COUNT;
	assert_int_equal(lat_names_build(&e, 1, &names), -EINVAL);
	assert_ptr_equal(names, bad);
}

static void a_full_table_drops_the_pin_that_ends_first(void **state)
{
	struct lat_pins *pins = pins_new(3);

	pin(pins, "192.0.2.1", "a", 30);
	pin(pins, "192.0.2.2", "b", 10);
	pin(pins, "192.0.2.3", "c", 20);
	pin(pins, "192.0.2.4", "d", 5);
	assert_string_equal(name_of(pins, "192.0.2.2", 0), "");
	assert_string_equal(name_of(pins, "192.0.2.4", 0), "d");
	pin(pins, "192.0.2.4", "d", 50); /* told again: lives longer */
	pin(pins, "192.0.2.5", "e", 40);
	assert_string_equal(name_of(pins, "192.0.2.3", 0), "");
	assert_string_equal(name_of(pins, "192.0.2.4", 0), "d");
	pin(pins, "192.0.2.4", "d", 1); /* an earlier answer still counts */
	assert_string_equal(name_of(pins, "192.0.2.4", 49), "d");
	lat_pins_expire(pins, 30);
	assert_string_equal(name_of(pins, "192.0.2.1", 0), "");
	assert_string_equal(name_of(pins, "192.0.2.5", 0), "e");
	lat_pins_free(pins);
}

static void pins_refuse_what_cannot_be_kept(void **state)
{
	struct lat_pins *pins = NULL;
	struct lat_addr a = addr("192.0.2.1");
	char name[300];

	assert_int_equal(lat_pins_new(0, &pins), -EINVAL);
	assert_int_equal(lat_pins_new(SIZE_MAX, &pins), -EINVAL);
	assert_null(pins);
	pins = pins_new(1);
	memset(name, 'a', 299);
	name[299] = '\0';
	assert_int_equal(lat_pins_add(pins, &a, "", 5), -EINVAL);
	assert_int_equal(lat_pins_add(pins, &a, name, 5), -EINVAL);
	assert_string_equal(name_of(pins, "192.0.2.1", 0), "");
	lat_pins_free(pins);
	lat_pins_free(NULL);
	lat_names_free(NULL);
}

/* The same table as a plain array: no hash, no heap. */
struct model_pin {
	struct lat_addr addr;
	char name[8];
	uint64_t until, born;
};

static void random_use_agrees_with_a_plain_list(void **state)
{
	enum { MAX = 40 };
	struct model_pin model[MAX];
	uint64_t rng = 5, now = 0;
	size_t used = 0;
	struct lat_pins *pins = pins_new(MAX);

	for (uint64_t step = 1; step < 200000; step++) {
		struct lat_addr a = addr("192.0.2.0");
		char name[8];
		uint64_t until = now + gen_below(&rng, 100) * 1000 + step % 1000; /* ends are distinct enough to order */
		size_t at = 0;

		a.b[15] = (uint8_t)gen_below(&rng, 24);
		snprintf(name, sizeof(name), "n%u", gen_below(&rng, 4));
		until = until * 1000000 + step;
		while (at < used && !(lat_addr_equal(&model[at].addr, &a) && strcmp(model[at].name, name) == 0))
			at++;
		if (at == used && used == MAX) {
			at = 0;
			for (size_t i = 1; i < used; i++)
				if (model[i].until < model[at].until)
					at = i;
			model[at].until = 0;
		} else if (at == used) {
			model[used++].until = 0;
		}
		model[at].addr = a;
		memcpy(model[at].name, name, sizeof(name));
		model[at].until = model[at].until > until ? model[at].until : until;
		model[at].born = step;
		assert_int_equal(lat_pins_add(pins, &a, name, until), 0);
		if (step % 5 == 0)
			now += gen_below(&rng, 400);
		if (step % 50 == 0) {
			lat_pins_expire(pins, now * 1000000);
			for (size_t i = used; i-- > 0;)
				if (model[i].until <= now * 1000000)
					model[i] = model[--used];
		}
		a.b[15] = (uint8_t)gen_below(&rng, 24);
		const struct model_pin *newest = NULL;

		for (size_t i = 0; i < used; i++)
			if (model[i].until > now * 1000000 && lat_addr_equal(&model[i].addr, &a) &&
				(!newest || model[i].born > newest->born))
				newest = &model[i];
		const char *got = lat_pins_name(pins, &a, now * 1000000);

		assert_string_equal(got ? got : "", newest ? newest->name : "");
	}
	lat_pins_free(pins);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(patterns_match_whole_labels_at_every_depth),
		cmocka_unit_test(names_are_normalized_or_refused),
		cmocka_unit_test(a_name_opens_only_its_pinned_addresses_until_their_end),
		cmocka_unit_test(the_lowest_rule_of_all_pinned_names_wins),
		cmocka_unit_test(ports_narrow_a_name_rule_to_tcp_and_udp),
		cmocka_unit_test(a_private_address_needs_private_ok_but_denies_always),
		cmocka_unit_test(resolvable_is_what_some_rule_could_allow),
		cmocka_unit_test(odd_patterns_are_refused),
		cmocka_unit_test(a_full_table_drops_the_pin_that_ends_first),
		cmocka_unit_test(pins_refuse_what_cannot_be_kept),
		cmocka_unit_test(random_use_agrees_with_a_plain_list),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
