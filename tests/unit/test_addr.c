/* Addresses: what is private, what is refused as text, prefixes and socket forms. */
#include "base/addr.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static struct lat_addr addr(const char *text)
{
	struct lat_addr a;

	if (lat_addr_parse(text, &a) != 0)
		fail_msg("%s does not parse", text);
	return a;
}

static bool is_private(const char *text)
{
	struct lat_addr a = addr(text);

	return lat_addr_is_private(&a);
}

static void private_classes_are_private_to_their_edges(void **state)
{
	static const char *const yes[] = {
		"0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "127.0.0.1",
		"127.255.255.255", "169.254.0.0", "169.254.169.254", "172.16.0.0", "172.31.255.255", "192.0.0.2",
		"192.168.0.0", "192.168.255.255", "224.0.0.1", "239.255.255.255", "240.0.0.0", "255.255.255.255",
		"::", "::1", "::127.0.0.1", "::2", "::ffff:10.0.0.1", "fc00::", "fdff:ffff::1", "fe80::1", "febf::1",
		"fec0::1", "ff02::1", "64:ff9b::7f00:1", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "64:ff9b:1:ffff::8.8.8.8",
		"2002:7f00:1::1", "2002:c0a8:101::1", "2002:a9fe:a9fe::", "::ffff:0:127.0.0.1", "2001::1",
		"2001:0:ffff::8",
	};
	static const char *const no[] = {
		"1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
		"169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.167.255.255",
		"192.169.0.0", "223.255.255.255", "203.0.113.9", "198.51.100.1", "2001:db8::1", "2606:4700::1111",
		"64:ff9b::8.8.8.8", "2002:808:808::1", "fbff::1", "fe00::1", "fe7f::1", "::ffff:8.8.8.8",
		"::1:0:0:0", "2001:1::1", "::ffff:0:8.8.8.8",
	};

	for (unsigned i = 0; i < sizeof(yes) / sizeof(yes[0]); i++)
		if (!is_private(yes[i]))
			fail_msg("%s must be private", yes[i]);
	for (unsigned i = 0; i < sizeof(no) / sizeof(no[0]); i++)
		if (is_private(no[i]))
			fail_msg("%s must not be private", no[i]);
}

static void loopback_and_any_are_told(void **state)
{
	struct lat_addr a;

	a = addr("127.3.4.5");
	assert_true(lat_addr_is_loopback(&a));
	a = addr("::1");
	assert_true(lat_addr_is_loopback(&a));
	a = addr("::ffff:127.0.0.1");
	assert_true(lat_addr_is_loopback(&a));
	a = addr("::2");
	assert_false(lat_addr_is_loopback(&a));
	a = addr("128.0.0.1");
	assert_false(lat_addr_is_loopback(&a));
	a = addr("0.0.0.0");
	assert_true(lat_addr_is_any(&a));
	a = addr("::");
	assert_true(lat_addr_is_any(&a));
	a = addr("0.0.0.1");
	assert_false(lat_addr_is_any(&a));
	a = addr("::1");
	assert_false(lat_addr_is_any(&a));
}

static void text_that_is_no_plain_address_is_refused(void **state)
{
	static const char *const bad[] = { "", " ", "127.1", "0x7f000001", "0x7f.0.0.1", "2130706433", "1.2.3.4.5", "1.2.3",
		"256.0.0.1", "01.2.3.4", "1.2.3.4 ", " 1.2.3.4", "1.2.3.4/32", "1.2.3.-4", "localhost", "::g", ":::",
		"1::2::3", "12345::", "fe80::1%lo", "fe80::1%1", "[::1]", "::ffff:1.2.3", "1.2.3.4:80", "::1/128",
		"1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "\x31\xc0\x80", "*" };
	struct lat_addr out;

	memset(&out, 0x5a, sizeof(out));
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (lat_addr_parse(bad[i], &out) != -EINVAL)
			fail_msg("'%s' must be refused", bad[i]);
		for (unsigned k = 0; k < 16; k++)
			assert_int_equal(out.b[k], 0x5a);
	}
}

static void a_mapped_address_is_the_ipv4_address(void **state)
{
	struct lat_addr a = addr("192.0.2.7"), b = addr("::ffff:192.0.2.7"), c = addr("::ffff:c000:207");
	char text[LAT_ADDR_TEXT];

	assert_true(lat_addr_equal(&a, &b));
	assert_true(lat_addr_equal(&a, &c));
	assert_true(lat_addr_is4(&b));
	assert_string_equal(lat_addr_format(&b, text, sizeof(text)), "192.0.2.7");
}

static void text_goes_round_and_fits(void **state)
{
	static const char *const same[] = { "0.0.0.0", "255.255.255.255", "::", "::1", "2001:db8::1:0:0:1",
		"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" };
	char text[LAT_ADDR_TEXT], endpoint[LAT_ENDPOINT_TEXT], tiny[4];

	for (unsigned i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
		struct lat_addr a = addr(same[i]);

		assert_string_equal(lat_addr_format(&a, text, sizeof(text)), same[i]);
		assert_string_equal(lat_addr_format(&a, tiny, sizeof(tiny)), strlen(same[i]) < sizeof(tiny) ? same[i] : "");
	}
	struct lat_addr v6 = addr(same[5]), v4 = addr("192.0.2.1");

	assert_string_equal(lat_endpoint_format(&v6, 65535, endpoint, sizeof(endpoint)),
		"[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535");
	assert_string_equal(lat_endpoint_format(&v4, 80, endpoint, sizeof(endpoint)), "192.0.2.1:80");
}

static void check_prefix(const char *text, int want, const char *address, unsigned family, unsigned len)
{
	struct lat_prefix p, before;
	struct lat_addr a;
	int r;

	memset(&p, 0x77, sizeof(p));
	before = p;
	r = lat_prefix_parse(text, &p);
	if (r != want)
		fail_msg("'%s' gives %d, not %d", text, r, want);
	if (want != 0) {
		assert_memory_equal(&p, &before, sizeof(p));
		return;
	}
	a = addr(address);
	assert_true(lat_addr_equal(&p.addr, &a));
	assert_int_equal(p.family, family);
	assert_int_equal(p.len, len);
}

static void prefixes_parse_and_refuse(void **state)
{
	check_prefix("10.0.0.0/8", 0, "10.0.0.0", 4, 8);
	check_prefix("0.0.0.0/0", 0, "0.0.0.0", 4, 0);
	check_prefix("10.1.2.3", 0, "10.1.2.3", 4, 32);
	check_prefix("10.1.2.3/32", 0, "10.1.2.3", 4, 32);
	check_prefix("::/0", 0, "::", 6, 0);
	check_prefix("2001:db8::/32", 0, "2001:db8::", 6, 32);
	check_prefix("2001:db8::1", 0, "2001:db8::1", 6, 128);
	check_prefix("::ffff:10.0.0.0/104", 0, "10.0.0.0", 4, 8);
	check_prefix("::ffff:0.0.0.0/96", 0, "0.0.0.0", 4, 0);
	check_prefix("::ffff:10.1.2.3", 0, "10.1.2.3", 4, 32);
	check_prefix("::ffff:0:0/95", -EDOM, NULL, 0, 0);
	check_prefix("::ffff:10.0.0.0/8", -EDOM, NULL, 0, 0);
	check_prefix("::ffff:10.0.0.1/104", -EDOM, NULL, 0, 0);
	check_prefix("10.0.0.0/33", -ERANGE, NULL, 0, 0);
	check_prefix("::/129", -ERANGE, NULL, 0, 0);
	check_prefix("::/99999999999999999999999", -ERANGE, NULL, 0, 0);
	check_prefix("10.0.0.1/8", -EDOM, NULL, 0, 0);
	check_prefix("10.0.0.1/31", -EDOM, NULL, 0, 0);
	check_prefix("1.0.0.0/0", -EDOM, NULL, 0, 0);
	check_prefix("2001:db8::1/127", -EDOM, NULL, 0, 0);
	check_prefix("8000::/0", -EDOM, NULL, 0, 0);
	check_prefix("10.0.0.0/", -EINVAL, NULL, 0, 0);
	check_prefix("10.0.0.0/ 8", -EINVAL, NULL, 0, 0);
	check_prefix("10.0.0.0/+8", -EINVAL, NULL, 0, 0);
	check_prefix("10.0.0.0/-1", -EINVAL, NULL, 0, 0);
	check_prefix("10.0.0.0/8x", -EINVAL, NULL, 0, 0);
	check_prefix("10.0.0.0/0x8", -EINVAL, NULL, 0, 0);
	check_prefix("10.0.0.0/8/8", -EINVAL, NULL, 0, 0);
	check_prefix("10/8", -EINVAL, NULL, 0, 0);
	check_prefix("/8", -EINVAL, NULL, 0, 0);
	check_prefix("", -EINVAL, NULL, 0, 0);
	check_prefix("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/8", -EINVAL, NULL, 0, 0);
}

static bool contains(const char *prefix, const char *address)
{
	struct lat_addr a = addr(address);
	struct lat_prefix p;

	assert_int_equal(lat_prefix_parse(prefix, &p), 0);
	return lat_prefix_contains(&p, &a);
}

static void containment_is_exact_and_keeps_families_apart(void **state)
{
	assert_true(contains("10.0.0.0/8", "10.255.255.255"));
	assert_false(contains("10.0.0.0/8", "11.0.0.0"));
	assert_true(contains("10.0.0.0/8", "::ffff:10.1.1.1"));
	assert_true(contains("192.0.2.128/25", "192.0.2.128"));
	assert_false(contains("192.0.2.128/25", "192.0.2.127"));
	assert_true(contains("0.0.0.0/0", "255.0.0.1"));
	assert_false(contains("0.0.0.0/0", "2001:db8::1"));
	assert_true(contains("::/0", "ffff::"));
	assert_false(contains("::/0", "1.2.3.4"));
	assert_false(contains("::/0", "::ffff:1.2.3.4"));
	assert_true(contains("::/96", "::1.2.3.4"));
	assert_true(contains("2001:db8::/33", "2001:db8:7fff::1"));
	assert_false(contains("2001:db8::/33", "2001:db8:8000::"));
	assert_true(contains("2001:db8::1", "2001:db8::1"));
	assert_false(contains("2001:db8::1", "2001:db8::"));
}

static void sockaddrs_are_checked_for_length_and_family(void **state)
{
	struct sockaddr_storage ss;
	struct lat_addr a = addr("192.0.2.9"), b, untouched;
	uint16_t port = 7;
	socklen_t len = lat_addr_to_sockaddr(&a, 443, false, &ss);

	assert_int_equal(len, sizeof(struct sockaddr_in));
	assert_int_equal(ss.ss_family, AF_INET);
	memset(&b, 0x11, sizeof(b));
	untouched = b;
	for (socklen_t n = 0; n < len; n++)
		assert_int_equal(lat_addr_from_sockaddr((struct sockaddr *)&ss, n, &b, &port), -EINVAL);
	assert_true(lat_addr_equal(&b, &untouched));
	assert_int_equal(port, 7);
	assert_int_equal(lat_addr_from_sockaddr((struct sockaddr *)&ss, len, &b, &port), 0);
	assert_true(lat_addr_equal(&a, &b));
	assert_int_equal(port, 443);

	len = lat_addr_to_sockaddr(&a, 53, true, &ss);
	assert_int_equal(len, sizeof(struct sockaddr_in6));
	assert_int_equal(ss.ss_family, AF_INET6);
	for (socklen_t n = 0; n < 24; n++)
		assert_int_equal(lat_addr_from_sockaddr((struct sockaddr *)&ss, n, &b, &port), -EINVAL);
	for (socklen_t n = 24; n <= len; n += 4) { /* the kernel takes an address without the scope, too */
		b = untouched;
		assert_int_equal(lat_addr_from_sockaddr((struct sockaddr *)&ss, n, &b, &port), 0);
		assert_true(lat_addr_equal(&a, &b));
		assert_int_equal(port, 53);
	}
	ss.ss_family = AF_UNIX;
	assert_int_equal(lat_addr_from_sockaddr((struct sockaddr *)&ss, sizeof(ss), &b, &port), -EAFNOSUPPORT);
	ss.ss_family = AF_UNSPEC;
	assert_int_equal(lat_addr_from_sockaddr((struct sockaddr *)&ss, sizeof(ss), &b, &port), -EAFNOSUPPORT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(private_classes_are_private_to_their_edges),
		cmocka_unit_test(loopback_and_any_are_told),
		cmocka_unit_test(text_that_is_no_plain_address_is_refused),
		cmocka_unit_test(a_mapped_address_is_the_ipv4_address),
		cmocka_unit_test(text_goes_round_and_fits),
		cmocka_unit_test(prefixes_parse_and_refuse),
		cmocka_unit_test(containment_is_exact_and_keeps_families_apart),
		cmocka_unit_test(sockaddrs_are_checked_for_length_and_family),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
