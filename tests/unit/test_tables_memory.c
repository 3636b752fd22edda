/* Wherever memory runs out while tables, names, pins or a policy are built, the answer is -ENOMEM, the output stays, and
 * nothing stays behind. The allocator is counted by standing in front of glibc's; not under a sanitizer, which does that
 * itself. */
#include "core/policy.h"
#include "../support/flowgen.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

#ifdef SANITIZED
int main(void)
{
	puts("allocations are counted by the sanitizer");
	return 77;
}
#else

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void __libc_free(void *p);

static bool counting;
static long until_failure, live;

static bool fails(void)
{
	return counting && until_failure-- <= 0;
}

void *malloc(size_t size)
{
	if (fails())
		return NULL;
	live += counting;
	return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
	if (fails())
		return NULL;
	live += counting;
	return __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
	if (fails())
		return NULL;
	live += counting && !p;
	return __libc_realloc(p, size);
}

void free(void *p)
{
	live -= counting && p;
	__libc_free(p);
}

/* Lets every allocation fail in turn, until all of them succeed. `build` returns the result and frees what it got. */
static void starve(int (*build)(void *), void *arg, unsigned at_least)
{
	unsigned failures = 0;

	for (long n = 0;; n++) {
		int r;

		until_failure = n;
		live = 0;
		counting = true;
		r = build(arg);
		counting = false;
		assert_int_equal(live, 0);
		if (r == 0)
			break;
		assert_int_equal(r, -ENOMEM);
		failures++;
	}
	assert_in_range(failures, at_least, 100000);
}

struct entries {
	struct lat_entry list[300];
	struct lat_name_entry names[40];
	char text[40][24];
};

static void fill(struct entries *e)
{
	uint64_t s = 11;

	for (size_t i = 0; i < 300; i++)
		e->list[i] = gen_entry(&s, 40);
	for (size_t i = 0; i < 40; i++) {
		snprintf(e->text[i], sizeof(e->text[0]), "%sn%zu.example", i & 1 ? "*." : "", i);
		e->names[i] = (struct lat_name_entry){ .pattern = e->text[i], .rule = (uint32_t)i + 1, .port_hi = 65535 };
	}
}

static int build_tables(void *arg)
{
	struct entries *e = arg;
	struct lat_tables *t = (void *)arg;
	int r = lat_tables_build(e->list, 300, &t);

	if (r == 0)
		lat_tables_free(t);
	else
		assert_ptr_equal(t, arg);
	return r;
}

static int build_names(void *arg)
{
	struct entries *e = arg;
	struct lat_names *names = NULL;
	int r = lat_names_build(e->names, 40, &names);

	lat_names_free(names);
	return r;
}

static int build_pins(void *arg)
{
	struct lat_pins *pins = NULL;
	struct lat_addr a = { { 0 } };
	int r = lat_pins_new(64, &pins);

	for (unsigned i = 0; r == 0 && i < 200; i++) { /* adding asks for no memory */
		a.b[15] = (uint8_t)i;
		assert_int_equal(lat_pins_add(pins, &a, "a.example", i), 0);
	}
	lat_pins_free(pins);
	return r;
}

static int build_policy(void *arg)
{
	struct entries *e = arg;
	static const char *const paths[] = { "/run/a.sock", "/run/b.sock" };
	static const struct lat_host_port ports[] = { { 80, 81, IPPROTO_TCP } };
	struct lat_rule rules[40];
	struct lat_policy_spec spec = { .name = "p", .rules = rules, .rule_count = 40, .entries = e->list, .entry_count = 300,
		.names = e->names, .name_count = 40, .host_ports = ports, .host_port_count = 1, .unix_paths = paths,
		.unix_path_count = 2 };
	struct lat_policy *p = NULL;
	int r;

	for (size_t i = 0; i < 40; i++)
		rules[i] = (struct lat_rule){ .where = "p.lua:1", .reason = i & 1 ? "because" : NULL, .text = "allow" };
	r = lat_policy_build(1, &spec, &p);
	lat_policy_unref(p);
	return r;
}

static void starved_tables_leave_nothing(void **state)
{
	struct entries e;

	fill(&e);
	starve(build_tables, &e, 20);
}

static void starved_names_and_pins_leave_nothing(void **state)
{
	struct entries e;

	fill(&e);
	starve(build_names, &e, 4);
	starve(build_pins, NULL, 4);
}

static void a_starved_policy_leaves_nothing(void **state)
{
	struct entries e;

	fill(&e);
	starve(build_policy, &e, 25);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(starved_tables_leave_nothing),
		cmocka_unit_test(starved_names_and_pins_leave_nothing),
		cmocka_unit_test(a_starved_policy_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
