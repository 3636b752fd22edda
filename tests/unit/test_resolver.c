/* The host's resolver against a scripted name server in namespaces of the test's own. */
#include "loop/resolver.h"
#include "base/clock.h"
#include "support/dns_upstream.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static struct upstream upstream;
static uv_loop_t loop;
static struct lat_resolver *resolver;

struct got {
	int calls;
	struct lat_resolved result;
	uint64_t at_ns;
};

static void done(void *arg, const struct lat_resolved *result)
{
	struct got *got = arg;

	got->calls++;
	got->result = *result;
	got->at_ns = lat_now_ns();
}

static struct got ask(const char *name, int family)
{
	struct got got = {0};

	assert_int_equal(lat_resolver_ask(resolver, name, family, done, &got), 0);
	assert_int_equal(got.calls, 0); /* never inside the call */
	while (!got.calls)
		uv_run(&loop, UV_RUN_ONCE);
	return got;
}

static const char *text(const struct got *got, size_t i)
{
	static char buf[LAT_ADDR_TEXT];

	assert_true(i < got->result.addr_count);
	return lat_addr_format(&got->result.addrs[i].addr, buf, sizeof(buf));
}

static void finds_addresses_of_each_family(void **state)
{
	struct got got = ask("plain.example", 4);

	assert_int_equal(got.result.status, 0);
	assert_int_equal(got.result.addr_count, 1);
	assert_string_equal(text(&got, 0), "203.0.113.1");
	assert_int_equal(got.result.addrs[0].ttl, 60);
	got = ask("plain.example", 6);
	assert_string_equal(text(&got, 0), "2001:db8::1");
}

static void hosts_file_comes_first_and_sends_nothing(void **state)
{
	struct got got = ask("fromhosts.example", 4);

	assert_int_equal(got.result.status, 0);
	assert_string_equal(text(&got, 0), "203.0.113.77");
	got = ask("fromhosts.example", 6);
	assert_string_equal(text(&got, 0), "2001:db8::77");
	assert_int_equal(ask("four.fromhosts.example", 6).result.status, -ENODATA);
	assert_string_equal(
		(got = ask("four.fromhosts.example", 4), text(&got, 0)), "203.0.113.78");
	assert_false(upstream_saw(&upstream, "fromhosts"));
}

static void follows_aliases_in_any_order(void **state)
{
	const char *names[] = {"chain.example", "backwards.example"};

	for (int i = 0; i < 2; i++) {
		struct got got = ask(names[i], 4);

		assert_int_equal(got.result.status, 0);
		assert_string_equal(text(&got, 0), "203.0.113.2");
		assert_int_equal(got.result.addrs[0].ttl, 30);
		assert_int_equal(got.result.cname_count, 2);
		assert_string_equal(got.result.cnames[0].alias, names[i]);
		assert_string_equal(got.result.cnames[0].target, "one.chain.example");
		assert_int_equal(got.result.cnames[0].ttl, 120);
		assert_string_equal(got.result.cnames[1].target, "two.other.example");
	}
}

static void records_of_other_names_do_not_count(void **state)
{
	struct got got = ask("stranger.example", 4);

	assert_int_equal(got.result.addr_count, 1);
	assert_string_equal(text(&got, 0), "203.0.113.4");
}

static void mapped_address_is_no_ipv6_address(void **state)
{
	assert_int_equal(ask("mapped.example", 6).result.status, -ENODATA);
}

static void says_what_is_missing(void **state)
{
	assert_int_equal(ask("nx.example", 4).result.status, -ENOENT);
	assert_int_equal(ask("empty.example", 4).result.status, -ENODATA);
	assert_int_equal(ask("dangling.example", 4).result.status, -ENODATA);
}

static void failures_are_failures(void **state)
{
	assert_int_equal(ask("servfail.example", 4).result.status, -EAGAIN);
	assert_int_equal(ask("loop.example", 4).result.status, -EAGAIN);
	assert_int_equal(ask("long.example", 4).result.status, -EAGAIN);
	assert_true(ask("garbage.example", 4).result.status < 0);
}

static void truncated_answer_is_fetched_over_tcp(void **state)
{
	struct got got = ask("many.example", 4);

	assert_int_equal(got.result.status, 0);
	assert_int_equal(got.result.addr_count, LAT_RESOLVE_MAX_ADDRS);
	assert_string_equal(text(&got, 63), "203.0.113.63");
}

static void answer_of_64_kib_is_read_and_bounded(void **state)
{
	struct got got = ask("huge.example", 4);

	assert_int_equal(got.result.status, 0);
	assert_int_equal(got.result.addr_count, 1);
}

static void forged_answer_with_another_id_is_ignored(void **state)
{
	struct got got = ask("wrongid.example", 4);

	assert_int_equal(got.result.addr_count, 1);
	assert_string_equal(text(&got, 0), "203.0.113.7");
}

static void answer_without_the_case_that_was_asked_is_not_believed(void **state)
{
	struct got got = ask("folding.example", 4);

	assert_int_equal(got.result.addr_count, 1);
	assert_string_equal(text(&got, 0), "203.0.113.8"); /* the one over TCP */
}

static void every_question_has_its_own_case(void **state)
{
	size_t seen = strlen(upstream.seen), same = 0;
	const char name[] = "a.rather.long.name.for.letters.example";
	char *first, *next;

	for (int i = 0; i < 3; i++)
		ask(name, 4);
	first = upstream.seen + seen;
	for (int i = 1; i < 3; i++) {
		next = first + (sizeof(name) + 2) * (size_t)i;
		same += memcmp(first, next, sizeof(name) - 1) == 0;
		assert_int_equal(strncasecmp(first, next, sizeof(name) - 1), 0);
	}
	assert_int_equal(same, 0);
}

static void search_domains_are_not_tried(void **state)
{
	ask("nx", 4);
	assert_true(upstream_saw(&upstream, "nx/1 "));
	assert_false(upstream_saw(&upstream, "search.example"));
}

static void silence_ends_in_time_and_delays_nobody(void **state)
{
	struct got silent = {0}, plain = {0};
	uint64_t start = lat_now_ns();

	assert_int_equal(lat_resolver_ask(resolver, "silent.example", 4, done, &silent), 0);
	assert_int_equal(lat_resolver_ask(resolver, "plain.example", 4, done, &plain), 0);
	while (!silent.calls)
		uv_run(&loop, UV_RUN_ONCE);
	assert_int_equal(silent.result.status, -ETIMEDOUT);
	assert_true(silent.at_ns - start < 7 * LAT_NS_PER_SEC);
	assert_int_equal(plain.calls, 1);
	assert_true(plain.at_ns - start < LAT_NS_PER_SEC);
}

static void follows_the_hosts_resolv_conf(void **state)
{
	put_file("/etc/resolv.conf", "nameserver 127.0.0.2\n");
	assert_true(ask("plain.example", 4).result.status < 0); /* nobody is there */
	put_file("/etc/resolv.conf", "nameserver 127.0.0.2\nnameserver 127.0.0.1\n");
	assert_int_equal(ask("plain.example", 4).result.status, 0);
	put_file("/etc/resolv.conf", "nameserver 127.0.0.1\n");
}

static void bad_questions_are_refused_at_once(void **state)
{
	char name[300];

	memset(name, 'a', sizeof(name));
	name[299] = '\0';
	assert_int_equal(lat_resolver_ask(resolver, name, 4, done, NULL), -EINVAL);
	assert_int_equal(lat_resolver_ask(resolver, "plain.example", 5, done, NULL), -EINVAL);
}

static void free_cancels_what_is_open(void **state)
{
	struct lat_resolver *mine;
	struct got got[8] = {0};

	assert_int_equal(lat_resolver_new(&loop, &mine), 0);
	for (int i = 0; i < 8; i++)
		assert_int_equal(
			lat_resolver_ask(mine, i % 2 ? "silent.example" : "fromhosts.example", 4,
				done, &got[i]),
			0);
	lat_resolver_free(mine);
	for (int i = 0; i < 8; i++) {
		assert_int_equal(got[i].calls, 1);
		assert_int_equal(got[i].result.status, -ECANCELED);
		assert_int_equal(got[i].result.addr_count, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_addresses_of_each_family),
		cmocka_unit_test(hosts_file_comes_first_and_sends_nothing),
		cmocka_unit_test(follows_aliases_in_any_order),
		cmocka_unit_test(records_of_other_names_do_not_count),
		cmocka_unit_test(mapped_address_is_no_ipv6_address),
		cmocka_unit_test(says_what_is_missing),
		cmocka_unit_test(failures_are_failures),
		cmocka_unit_test(truncated_answer_is_fetched_over_tcp),
		cmocka_unit_test(answer_of_64_kib_is_read_and_bounded),
		cmocka_unit_test(forged_answer_with_another_id_is_ignored),
		cmocka_unit_test(answer_without_the_case_that_was_asked_is_not_believed),
		cmocka_unit_test(every_question_has_its_own_case),
		cmocka_unit_test(search_domains_are_not_tried),
		cmocka_unit_test(silence_ends_in_time_and_delays_nobody),
		cmocka_unit_test(follows_the_hosts_resolv_conf),
		cmocka_unit_test(bad_questions_are_refused_at_once),
		cmocka_unit_test(free_cancels_what_is_open),
	};
	int failed;

	enter_namespaces();
	upstream_start(&upstream);
	uv_loop_init(&loop);
	if (lat_resolver_new(&loop, &resolver) < 0)
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	lat_resolver_free(resolver);
	uv_run(&loop, UV_RUN_DEFAULT);
	failed += uv_loop_close(&loop) != 0; /* no handle is left */
	upstream_stop(&upstream);
	return failed;
}
