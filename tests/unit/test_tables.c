/* The decision tables give the lowest matching rule: compared with a linear scan on random rule sets, and by hand. */
#include "core/tables.h"
#include "../support/flowgen.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static struct lat_entry entry(const char *prefix, uint8_t proto, uint16_t lo, uint16_t hi, uint32_t rule)
{
	struct lat_entry e = { .rule = rule, .port_lo = lo, .port_hi = hi, .dir = LAT_DIR_OUT, .proto = proto };

	assert_int_equal(lat_prefix_parse(prefix, &e.prefix), 0);
	return e;
}

static uint32_t ask(const struct lat_tables *t, uint8_t dir, uint8_t proto, const char *addr, uint16_t port)
{
	struct lat_flow f = { .dport = port, .proto = proto, .dir = dir };

	assert_int_equal(lat_addr_parse(addr, &f.remote), 0);
	return lat_tables_lookup(t, &f);
}

static uint32_t out(const struct lat_tables *t, uint8_t proto, const char *addr, uint16_t port)
{
	return ask(t, LAT_DIR_OUT, proto, addr, port);
}

static struct lat_tables *build(const struct lat_entry *entries, size_t count)
{
	struct lat_tables *t = NULL;

	assert_int_equal(lat_tables_build(entries, count, &t), 0);
	return t;
}

static void compare(const struct lat_entry *entries, size_t count, unsigned flows, uint64_t seed)
{
	struct lat_tables *t = build(entries, count);
	uint64_t state = seed;

	for (unsigned i = 0; i < flows; i++) {
		struct lat_flow f = gen_flow(&state, entries, count);
		uint32_t want = gen_scan(entries, count, &f), got = lat_tables_lookup(t, &f);
		char text[LAT_ENDPOINT_TEXT];

		if (want == got)
			continue;
		fail_msg("seed %llu, %zu entries: proto %u dir %u %s: rule %u, the scan says %u", (unsigned long long)seed,
			count, f.proto, f.dir, lat_endpoint_format(&f.remote, f.dport, text, sizeof(text)), got, want);
	}
	lat_tables_free(t);
}

static void empty_tables_match_nothing(void **state)
{
	struct lat_tables *t = build(NULL, 0);

	assert_int_equal(out(t, IPPROTO_TCP, "10.0.0.1", 80), 0);
	assert_int_equal(out(t, IPPROTO_TCP, "::", 0), 0);
	assert_int_equal(out(t, IPPROTO_ICMP, "255.255.255.255", 0), 0);
	lat_tables_free(t);
	lat_tables_free(NULL);
}

static void a_shorter_prefix_with_a_lower_rule_wins(void **state)
{
	struct lat_entry e[] = {
		entry("10.0.0.0/8", IPPROTO_TCP, 443, 443, 1),
		entry("10.1.0.0/16", IPPROTO_TCP, 0, 65535, 2),
		entry("10.1.2.3", LAT_PROTO_ANY, 0, 65535, 3),
		entry("0.0.0.0/0", LAT_PROTO_ANY, 0, 65535, 4),
	};
	struct lat_tables *t = build(e, 4);

	assert_int_equal(out(t, IPPROTO_TCP, "10.1.2.3", 443), 1);
	assert_int_equal(out(t, IPPROTO_TCP, "10.1.2.3", 80), 2);
	assert_int_equal(out(t, IPPROTO_UDP, "10.1.2.3", 443), 3);
	assert_int_equal(out(t, IPPROTO_ICMP, "10.1.2.3", 0), 3);
	assert_int_equal(out(t, IPPROTO_UDP, "10.1.2.4", 443), 4);
	assert_int_equal(out(t, IPPROTO_TCP, "::ffff:10.9.9.9", 443), 1);
	assert_int_equal(out(t, IPPROTO_TCP, "2001:db8::1", 443), 0);
	assert_int_equal(ask(t, LAT_DIR_IN, IPPROTO_TCP, "10.1.2.3", 443), 0);
	lat_tables_free(t);
}

static void ports_narrow_an_entry_to_tcp_and_udp(void **state)
{
	struct lat_entry e[] = {
		entry("0.0.0.0/0", LAT_PROTO_ANY, 1, 65535, 1),
		entry("0.0.0.0/0", IPPROTO_ICMP, 0, 80, 2),
		entry("0.0.0.0/0", 132, 0, 65535, 3),
	};
	struct lat_tables *t = build(e, 3);

	assert_int_equal(out(t, IPPROTO_TCP, "192.0.2.1", 1), 1);
	assert_int_equal(out(t, IPPROTO_UDP, "192.0.2.1", 65535), 1);
	assert_int_equal(out(t, IPPROTO_TCP, "192.0.2.1", 0), 0);
	assert_int_equal(out(t, IPPROTO_ICMP, "192.0.2.1", 0), 0);
	assert_int_equal(out(t, 132, "192.0.2.1", 9), 3);
	lat_tables_free(t);
}

static void each_family_has_its_own_zero_prefix(void **state)
{
	struct lat_entry e[] = {
		entry("::/0", LAT_PROTO_ANY, 0, 65535, 1),
		entry("0.0.0.0/0", LAT_PROTO_ANY, 0, 65535, 2),
	};
	struct lat_tables *t = build(e, 2);

	assert_int_equal(out(t, IPPROTO_TCP, "::", 80), 1);
	assert_int_equal(out(t, IPPROTO_TCP, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 80), 1);
	assert_int_equal(out(t, IPPROTO_TCP, "::ffff:1.2.3.4", 80), 2);
	assert_int_equal(out(t, IPPROTO_TCP, "255.255.255.255", 80), 2);
	lat_tables_free(t);
}

static void a_parent_with_many_ports_is_asked_too(void **state)
{
	enum { PORTS = 500 };
	struct lat_entry e[PORTS + 3];
	struct lat_tables *t;

	for (unsigned i = 0; i < PORTS; i++)
		e[i] = entry("10.0.0.0/8", IPPROTO_TCP, (uint16_t)(1000 + 2 * i), (uint16_t)(1000 + 2 * i), 10 + i);
	e[PORTS] = entry("10.1.0.0/16", IPPROTO_TCP, 1000, 2000, 200);
	e[PORTS + 1] = entry("10.1.1.0/24", LAT_PROTO_ANY, 0, 65535, 400);
	e[PORTS + 2] = entry("10.1.1.1", IPPROTO_UDP, 53, 53, 1);
	t = build(e, PORTS + 3);
	assert_int_equal(out(t, IPPROTO_TCP, "10.1.1.1", 1000), 10);
	assert_int_equal(out(t, IPPROTO_TCP, "10.1.1.1", 1001), 200);
	assert_int_equal(out(t, IPPROTO_TCP, "10.1.1.1", 1400), 200);
	assert_int_equal(out(t, IPPROTO_TCP, "10.1.1.1", 3000), 400);
	assert_int_equal(out(t, IPPROTO_UDP, "10.1.1.1", 53), 1);
	assert_int_equal(out(t, IPPROTO_TCP, "10.2.0.0", 1998), 509);
	lat_tables_free(t);
}

static void every_length_nested_in_every_other_is_right(void **state)
{
	struct lat_entry e[129 + 33];
	struct lat_tables *t;
	struct lat_flow f = { .proto = IPPROTO_TCP, .dport = 1 };
	size_t n = 0;

	for (unsigned family = 4; family <= 6; family += 2) {
		for (unsigned len = 0; len <= (family == 4 ? 32u : 128u); len++) {
			struct lat_entry *x = &e[n++];

			*x = entry(family == 4 ? "255.255.255.255" : "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
				IPPROTO_TCP, 0, 65535, 129 - len);
			x->prefix.len = (uint8_t)len;
		}
	}
	t = build(e, n);
	for (unsigned len = 0; len <= 128; len++) {
		memset(f.remote.b, 0xff, 16);
		if (len < 128)
			f.remote.b[len / 8] ^= (uint8_t)(0x80 >> len % 8);
		assert_int_equal(lat_tables_lookup(t, &f), gen_scan(e, n, &f));
		assert_int_equal(lat_tables_lookup(t, &f), 129 - len);
	}
	lat_tables_free(t);
	compare(e, n, 5000, 7);
}

static void host_bits_beyond_the_length_do_not_count(void **state)
{
	struct lat_entry e = entry("10.1.2.3", IPPROTO_TCP, 80, 80, 5);
	struct lat_tables *t;

	e.prefix.len = 8;
	t = build(&e, 1);
	assert_int_equal(out(t, IPPROTO_TCP, "10.200.0.1", 80), 5);
	assert_int_equal(out(t, IPPROTO_TCP, "11.0.0.0", 80), 0);
	lat_tables_free(t);
}

static void odd_entries_are_refused_and_the_output_stays(void **state)
{
	struct lat_entry good = entry("10.0.0.0/8", IPPROTO_TCP, 1, 2, 1), bad[8];
	struct lat_tables *t = (void *)&good;

	for (unsigned i = 0; i < 8; i++)
		bad[i] = good;
	bad[0].port_lo = 3;
	bad[1].rule = 0;
	bad[2].dir = LAT_DIR_COUNT;
	bad[3].prefix.family = 5;
	bad[4].prefix.len = 33;
	bad[5].prefix.family = 6;
	bad[5].prefix.len = 129;
	lat_addr_parse("2001:db8::", &bad[6].prefix.addr);
	bad[7].rule = UINT32_MAX;
	for (unsigned i = 0; i < 8; i++) {
		struct lat_entry pair[] = { good, bad[i] };

		assert_int_equal(lat_tables_build(pair, 2, &t), -EINVAL);
		assert_ptr_equal(t, &good);
	}
}

static void a_flow_of_no_direction_matches_nothing(void **state)
{
	struct lat_entry e = entry("0.0.0.0/0", LAT_PROTO_ANY, 0, 65535, 1);
	struct lat_tables *t = build(&e, 1);

	assert_int_equal(ask(t, LAT_DIR_COUNT, IPPROTO_TCP, "10.0.0.1", 1), 0);
	assert_int_equal(ask(t, 255, IPPROTO_TCP, "10.0.0.1", 1), 0);
	lat_tables_free(t);
}

static void random_sets_agree_with_the_scan(void **state)
{
	static const unsigned sizes[] = { 1, 2, 5, 12, 40, 120, 300 };

	for (uint64_t seed = 1; seed <= 280; seed++) {
		size_t n = sizes[seed % 7];
		uint64_t s = seed;
		struct lat_entry *e = calloc(n, sizeof(*e));

		for (size_t i = 0; i < n; i++)
			e[i] = gen_entry(&s, (uint32_t)n);
		compare(e, n, 2000, seed);
		free(e);
	}
}

static void big_sets_agree_with_the_scan_and_stay_small(void **state)
{
	enum { N = 100000 };
	struct lat_entry *e = calloc(N, sizeof(*e));
	uint64_t s = 42;
	struct lat_tables *t;

	for (unsigned i = 0; i < N; i++) {
		e[i] = gen_entry(&s, N);
		e[i].rule = i + 1;
		if (i % 4) { /* most are far apart, as in real lists */
			for (unsigned b = 12; b < 16; b++)
				e[i].prefix.addr.b[b] = (uint8_t)gen_next(&s);
			gen_mask(&e[i].prefix);
		}
	}
	t = build(e, N);
	assert_true(lat_tables_bytes(t) < 40u << 20);
	lat_tables_free(t);
	compare(e, N, 1000, 99);
	free(e);
}

static void equal_answers_share_one_node(void **state)
{
	enum { N = 20000 };
	struct lat_entry *e = calloc(N, sizeof(*e));
	struct lat_tables *t;

	for (uint32_t i = 0; i < N; i++) {
		uint8_t b[4] = { 10, (uint8_t)(i >> 8), (uint8_t)i, 7 };

		e[i] = entry("10.0.0.0", IPPROTO_TCP, 443, 443, 3);
		lat_addr_from4(&e[i].prefix.addr, b);
	}
	t = build(e, N);
	assert_int_equal(out(t, IPPROTO_TCP, "10.1.1.7", 443), 3);
	assert_true(lat_tables_bytes(t) < 2u << 20);
	lat_tables_free(t);
	free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(empty_tables_match_nothing),
		cmocka_unit_test(a_shorter_prefix_with_a_lower_rule_wins),
		cmocka_unit_test(ports_narrow_an_entry_to_tcp_and_udp),
		cmocka_unit_test(each_family_has_its_own_zero_prefix),
		cmocka_unit_test(a_parent_with_many_ports_is_asked_too),
		cmocka_unit_test(every_length_nested_in_every_other_is_right),
		cmocka_unit_test(host_bits_beyond_the_length_do_not_count),
		cmocka_unit_test(odd_entries_are_refused_and_the_output_stays),
		cmocka_unit_test(a_flow_of_no_direction_matches_nothing),
		cmocka_unit_test(random_sets_agree_with_the_scan),
		cmocka_unit_test(big_sets_agree_with_the_scan_and_stay_small),
		cmocka_unit_test(equal_answers_share_one_node),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
