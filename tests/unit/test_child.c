/* loop/child: a child's text, status, bounds and end. */
#include "loop/child.h"
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

struct end {
	int calls, error, status, signal;
	size_t out_len;
	char out[128], err[64];
};

static void on_done(void *ctx, const struct lat_child_result *r)
{
	struct end *e = ctx;

	e->calls++;
	e->error = r->error;
	e->status = r->status;
	e->signal = r->signal;
	e->out_len = r->out_len;
	snprintf(e->out, sizeof(e->out), "%s", r->out);
	snprintf(e->err, sizeof(e->err), "%s", r->err);
}

static struct end run(const char *const *argv, const char *input, size_t len, size_t out_max, uint32_t timeout_ms)
{
	struct lat_child_spec spec = { .argv = argv, .input = input, .input_len = len, .out_max = out_max,
		.timeout_ms = timeout_ms };
	struct end end = { 0 };
	struct lat_child *child;
	uv_loop_t loop;

	assert_int_equal(uv_loop_init(&loop), 0);
	assert_int_equal(lat_child_start(&loop, &spec, on_done, &end, &child), 0);
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&loop), 0); /* no handle is left */
	assert_int_equal(end.calls, 1);
	return end;
}

#define RUN(input, max, ms, ...)                                                                   \
	run((const char *const[]){ __VA_ARGS__, NULL }, input, strlen(input), max, ms)

static void gives_text_and_takes_text(void **state)
{
	struct end e = RUN("one\ntwo\n", 100, 5000, "cat");

	assert_int_equal(e.error, 0);
	assert_int_equal(e.status, 0);
	assert_string_equal(e.out, "one\ntwo\n");
	e = RUN("", 100, 5000, "sh", "-c", "echo no >&2; exit 3");
	assert_int_equal(e.status, 3);
	assert_string_equal(e.err, "no\n");
}

static void passes_much_in_and_out(void **state)
{
	size_t len = 8u << 20;
	char *text = malloc(len);
	struct end e;

	assert_non_null(text);
	memset(text, 'x', len);
	e = run((const char *const[]){ "cat", NULL }, text, len, len, 20000);
	assert_int_equal(e.error, 0);
	assert_int_equal(e.out_len, len);
	/* one that does not read: no SIGPIPE, no wait */
	e = run((const char *const[]){ "true", NULL }, text, len, 100, 20000);
	assert_int_equal(e.status, 0);
	free(text);
}

static void ends_what_says_too_much_or_takes_too_long(void **state)
{
	struct end e = RUN("", 1000, 20000, "sh", "-c", "yes");

	assert_int_equal(e.error, -EOVERFLOW);
	e = RUN("", 1000, 50, "sleep", "60");
	assert_int_equal(e.error, -ETIME);
	assert_int_equal(e.signal, SIGKILL);
	/* a grandchild that holds the pipes does not hold us */
	e = RUN("", 1000, 100, "sh", "-c", "sleep 1 & exit 0");
	assert_int_equal(e.error, -ETIME);
	assert_int_equal(e.status, 0);
}

static void has_the_system_folders_and_nothing_else_in_its_environment(void **state)
{
	static const char *const names[] = { "LATTICE_TEST_CHILD", "LATTICE_TEST_ABSENT", NULL };
	static const char *const argv[] = { "env", NULL };
	struct lat_child_spec spec = { .argv = argv, .names = names, .out_max = 1000, .timeout_ms = 5000 };
	struct end end = { 0 };
	struct lat_child *child;
	uv_loop_t loop;

	setenv("LATTICE_TEST_CHILD", "1", 1);
	assert_int_equal(uv_loop_init(&loop), 0);
	assert_int_equal(lat_child_start(&loop, &spec, on_done, &end, &child), 0);
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&loop), 0);
	assert_string_equal(end.out, "PATH=/usr/sbin:/usr/bin:/sbin:/bin\nLC_ALL=C\nLATTICE_TEST_CHILD=1\n");
}

static void says_what_is_not_there_and_can_be_cancelled(void **state)
{
	static const char *const absent[] = { "lattice-no-such-program", NULL }, *const slow[] = { "sleep", "60", NULL };
	struct lat_child_spec spec = { .argv = absent, .out_max = 10, .timeout_ms = 5000 };
	struct end end = { 0 };
	struct lat_child *child = NULL;
	uv_loop_t loop;

	assert_int_equal(uv_loop_init(&loop), 0);
	assert_int_equal(lat_child_start(&loop, &spec, on_done, &end, &child), -ENOENT);
	assert_null(child);
	spec.argv = slow;
	assert_int_equal(lat_child_start(&loop, &spec, on_done, &end, &child), 0);
	lat_child_cancel(child);
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&loop), 0);
	assert_int_equal(end.calls, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gives_text_and_takes_text),
		cmocka_unit_test(passes_much_in_and_out),
		cmocka_unit_test(ends_what_says_too_much_or_takes_too_long),
		cmocka_unit_test(has_the_system_folders_and_nothing_else_in_its_environment),
		cmocka_unit_test(says_what_is_not_there_and_can_be_cancelled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
