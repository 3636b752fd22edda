/* The flow engine on TCP, through a real trap: a program inside, servers outside, this process in between. */
#include "core/flows.h"
#include "base/clock.h"
#include "base/mem.h"
#include "support/dial.h"
#include "support/engine.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

/* ---- inside ---- */

static int inside_echo(void *arg)
{
	struct target *t = arg;
	int fd = target_connect(t, SOCK_STREAM);
	char buf[64];

	if (fd < 0)
		return errno;
	if (write(fd, "hello", 5) != 5 || read(fd, buf, sizeof(buf)) != 5 || memcmp(buf, "hello", 5) != 0)
		return 200;
	if (shutdown(fd, SHUT_WR) < 0 || read(fd, buf, sizeof(buf)) != 0)
		return 201;
	return 0;
}

static int inside_connect(void *arg)
{
	struct target *t = arg;

	return target_connect(t, SOCK_STREAM) < 0 ? errno : 0;
}

/* ---- tests ---- */

static void allowed_flow_reaches_its_server(void **state)
{
	struct engine *e = *state;

	assert_int_equal(engine_run(e, inside_echo, &(struct target){ FAR4, 80 }), 0);
	assert_int_equal(engine_run(e, inside_echo, &(struct target){ FAR6, 80 }), 0);
	engine_settle(e);
	assert_int_equal(e->judged, 2);
	assert_int_equal(e->closed, 2);
	assert_int_equal(e->last.bytes_out, 5);
	assert_int_equal(e->last.bytes_in, 5);
	assert_int_equal(e->last.flow.dport, 80);
}

static void refusal_shows_the_errno_of_its_verdict(void **state)
{
	struct engine *e = *state;
	static const struct { int verdict, seen4, seen6; } cases[] = {
		{ 0, ECONNREFUSED, ECONNREFUSED },
		{ EHOSTUNREACH, EHOSTUNREACH, EHOSTUNREACH },
		{ ENETUNREACH, ENETUNREACH, ENETUNREACH },
		{ EACCES, EHOSTUNREACH, EACCES },
	};

	e->action = LAT_ACTION_DENY;
	for (size_t i = 0; i < LAT_ARRAY_SIZE(cases); i++) {
		e->err = (uint16_t)cases[i].verdict;
		assert_int_equal(engine_run(e, inside_connect, &(struct target){ FAR4, 80 }), cases[i].seen4);
		assert_int_equal(engine_run(e, inside_connect, &(struct target){ FAR6, 80 }), cases[i].seen6);
	}
	assert_int_equal(e->closed, e->judged);
}

static void failed_dial_shows_the_errno_of_the_network(void **state)
{
	struct engine *e = *state;

	assert_int_equal(engine_run(e, inside_connect, &(struct target){ FAR4, 81 }), ECONNREFUSED);
	assert_int_equal(e->dial_err, ECONNREFUSED);
	assert_int_equal(engine_run(e, inside_connect, &(struct target){ "198.51.100.1", 80 }), EHOSTUNREACH);
	assert_int_equal(engine_run(e, inside_connect, &(struct target){ "192.0.2.1", 80 }), ENETUNREACH);
	assert_int_equal(engine_run(e, inside_connect, &(struct target){ "2001:db8:1::1", 80 }), ENETUNREACH);
	assert_int_equal(e->closed, e->judged);
}

#define T(name) cmocka_unit_test_setup_teardown(name, engine_setup, engine_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(allowed_flow_reaches_its_server),
		T(refusal_shows_the_errno_of_its_verdict),
		T(failed_dial_shows_the_errno_of_the_network),
	};

	outside_enter();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
