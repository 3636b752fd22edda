/* kernel/link.h: what is a name and an address; and devices, in a network namespace of the test's own. */
#include "kernel/link.h"
#include "kernel/netns.h"
#include <errno.h>
#include <linux/netlink.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <cmocka.h>

static void names_are_checked(void **state)
{
	assert_true(lat_link_name_ok("wf0"));
	assert_true(lat_link_name_ok("123456789012345"));
	assert_false(lat_link_name_ok(""));
	assert_false(lat_link_name_ok("1234567890123456"));
	assert_false(lat_link_name_ok(".."));
	assert_false(lat_link_name_ok("a/b"));
	assert_false(lat_link_name_ok("tun%d"));
	assert_false(lat_link_name_ok("a\tb"));
}

static void addresses_have_a_length_of_their_family(void **state)
{
	static const struct { const char *text; int r; uint8_t family, len; } cases[] = {
		{ "10.42.0.1/24", 0, 4, 24 }, { "10.42.0.1", 0, 4, 32 }, { "fd42::1/64", 0, 6, 64 }, { "fd42::1", 0, 6, 128 },
		{ "10.42.0.1/0", 0, 4, 0 }, { "10.42.0.1/33", -ERANGE }, { "fd42::1/129", -ERANGE },
		{ "10.42.0.1/4294967297", -ERANGE }, { "10.42.0.1/-1", -EINVAL }, { "10.42.0.1/", -EINVAL },
		{ "10.42.0.1/ 8", -EINVAL }, { "10.42.0.1/08", -EINVAL }, { "10.42.0/24", -EINVAL }, { "", -EINVAL },
		{ "/24", -EINVAL }, { "wf0/24", -EINVAL },
		{ "1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc/64", -EINVAL },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct lat_link_address a = { .family = 99 };

		assert_int_equal(lat_link_address_parse(cases[i].text, &a), cases[i].r);
		assert_int_equal(a.family, cases[i].r ? 99 : cases[i].family);
		if (cases[i].r == 0)
			assert_int_equal(a.len, cases[i].len);
	}
}

struct seen {
	unsigned count, resync;
};

static void count_link(void *ctx, const struct lat_link *link)
{
	((struct seen *)ctx)->count++;
}

static void count_event(void *ctx, const struct lat_link_event *event)
{
	struct seen *seen = ctx;

	seen->count++;
	seen->resync += event->what == LAT_LINK_EVENT_RESYNC;
}

static int route_socket(struct lat_netns *ns)
{
	int fd = lat_netns_socket(ns, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);

	assert_true(fd >= 0);
	return fd;
}

static void devices_come_and_go(void **state)
{
	struct lat_link link = { .index = 77 };
	struct lat_links *links;
	struct seen seen = { 0 };
	struct lat_netns *ns;

	if (lat_netns_open(&ns) < 0)
		skip();
	assert_int_equal(lat_links_open(route_socket(ns), &links), 0);
	assert_int_equal(lat_link_get(links, "left", &link), -ENODEV);
	assert_int_equal(link.index, 77);
	assert_int_equal(lat_link_add_veth(links, "left", "right", 0), 0);
	assert_int_equal(lat_link_add_veth(links, "left", "third", 0), -EEXIST);
	assert_int_equal(lat_link_add(links, "no-such-kind", "x"), -EOPNOTSUPP);
	assert_int_equal(lat_link_add(links, "bridge", "a/b"), -EINVAL);
	assert_int_equal(lat_link_get(links, "left", &link), 0);
	assert_int_equal(lat_link_list(links, count_link, &seen), 0);
	assert_true(seen.count >= 3);
	assert_int_equal(lat_link_delete(links, link.index), 0);
	assert_int_equal(lat_link_delete(links, link.index), -ENODEV);
	assert_int_equal(lat_link_delete(links, 0), -ENODEV);
	lat_links_close(links);
	lat_netns_close(ns);
}

/* More messages than one socket buffer of a list. */
static void long_lists_are_whole(void **state)
{
	struct lat_links *links;
	struct lat_link link;
	struct seen seen = { 0 };
	struct lat_netns *ns;
	char a[16], b[16];

	if (lat_netns_open(&ns) < 0)
		skip();
	assert_int_equal(lat_links_open(route_socket(ns), &links), 0);
	for (int i = 0; i < 40; i++) {
		snprintf(a, sizeof(a), "a%d", i);
		snprintf(b, sizeof(b), "b%d", i);
		assert_int_equal(lat_link_add_veth(links, a, b, 0), 0);
	}
	assert_int_equal(lat_link_list(links, count_link, &seen), 0);
	assert_true(seen.count >= 81);
	assert_int_equal(lat_link_get(links, "b39", &link), 0);
	lat_links_close(links);
	lat_netns_close(ns);
}

static void lost_changes_are_told(void **state)
{
	struct lat_link_watch *watch;
	struct lat_links *links;
	struct seen seen = { 0 };
	struct lat_netns *ns;
	struct lat_link link;

	if (lat_netns_open(&ns) < 0)
		skip();
	assert_int_equal(lat_links_open(route_socket(ns), &links), 0);
	assert_int_equal(lat_link_watch_open(route_socket(ns), 4096, &watch), 0);
	assert_int_equal(lat_link_watch_dispatch(watch, 64, count_event, &seen), 0);
	assert_int_equal(seen.count, 0);
	assert_int_equal(lat_link_add_veth(links, "left", "right", 0), 0);
	assert_int_equal(lat_link_get(links, "left", &link), 0);
	for (uint32_t mtu = 1300; mtu < 1400; mtu++)
		assert_int_equal(lat_link_set(links, link.index, &(struct lat_link_change){ .mtu = mtu }), 0);
	assert_int_equal(lat_link_watch_dispatch(watch, 1000, count_event, &seen), 0);
	assert_int_equal(seen.resync, 1);
	assert_true(seen.count > 1 && seen.count < 100);
	lat_link_watch_close(watch);
	lat_links_close(links);
	lat_netns_close(ns);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_checked),
		cmocka_unit_test(addresses_have_a_length_of_their_family),
		cmocka_unit_test(devices_come_and_go),
		cmocka_unit_test(long_lists_are_whole),
		cmocka_unit_test(lost_changes_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
