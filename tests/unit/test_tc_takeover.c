/* The tc enforcer beyond its agent's life: taking over after a death, two at a time, what is left behind, and every bpf(2) call
 * failing in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "support/tc_life.h"
#include <dlfcn.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

/* ---- the n-th bpf(2) call fails ---- */

static long calls, fail_at; /* 0: none fails */

/* In place of libc's, for libbpf too: this program's symbol comes first. */
long syscall(long number, ...)
{
	static long (*real)(long, ...);
	long a[6];
	va_list args;

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "syscall");
	if (number == SYS_bpf && ++calls == fail_at) {
		errno = ENOMEM;
		return -1;
	}
	return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static void nothing_is_left_after(long n, bool opened)
{
	if (!opened && (hooks() != 0 || access(TC_PINS, F_OK) == 0))
		fail_msg("the failure of bpf call %ld leaves something: %s", n, say);
}

/* ---- taking over ---- */

/* A child that guards v0 by a policy and waits; its pid. */
static pid_t start_agent(uint16_t port)
{
	int pipes[2];
	char ok = 0;
	pid_t pid;

	assert_int_equal(pipe(pipes), 0);
	pid = fork();
	if (pid == 0) {
		struct lat_tc *tc;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(pipes[0]);
		if (try_open(&tc, true) == 0 && apply_port(tc, 1, port, LAT_ACTION_ALLOW, false) == 0 &&
			write(pipes[1], "y", 1) == 1)
			pause();
		_exit(1);
	}
	close(pipes[1]);
	assert_int_equal(read(pipes[0], &ok, 1), 1);
	close(pipes[0]);
	return pid;
}

static void kill_agent(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void what_a_killed_agent_left_holds_and_is_taken_over(void **state)
{
	struct packet_bytes p = tcp4(US, 50, THEM, 80, SYN), back = tcp4(THEM, 80, US, 50, ACK);
	struct lat_tc_status status;
	struct lat_tc *tc;
	pid_t pid = start_agent(80);

	assert_int_equal(hooks(), 2);
	assert_int_equal(try_open(&tc, true), -EBUSY);
	assert_non_null(strstr(say, "another agent guards v0"));
	kill_agent(pid);
	assert_int_equal(hooks(), 2);
	assert_int_equal(try_open(&tc, false), -EEXIST);
	assert_int_equal(hooks(), 2);
	tc = must_open(true);
	assert_int_equal(hooks(), 2);
	assert_int_equal(lat_tc_status(tc, &status), 0);
	assert_true(status.adopted);
	assert_int_equal(status.generation, 1);
	assert_true(passes(tc, OUT, &p));
	assert_int_equal(apply_port(tc, 2, 80, LAT_ACTION_ALLOW, false), 0);
	assert_true(passes(tc, IN, &back));
	/* Left on purpose, and taken over with its open flows. */
	lat_tc_close(tc, true);
	assert_int_equal(hooks(), 2);
	tc = must_open(true);
	assert_int_equal(generation_of(tc), 2);
	assert_true(passes(tc, IN, &back));
	lat_tc_close(tc, false);
	nothing_is_left();
}

static void what_a_killed_agent_left_can_be_removed(void **state)
{
	pid_t pid = start_agent(80);

	assert_int_equal(lat_tc_clear(TC_PINS, NULL, say), -EBUSY);
	kill_agent(pid);
	assert_int_equal(hooks(), 2);
	assert_int_equal(lat_tc_clear(TC_PINS, NULL, say), 1);
	nothing_is_left();
	assert_int_equal(lat_tc_clear(TC_PINS, NULL, say), 0);
}

static void a_device_made_anew_is_guarded_anew(void **state)
{
	struct lat_tc *tc;

	kill_agent(start_agent(80));
	assert_int_equal(system("ip link del v0 && ip link add v0 type veth peer name v1 && ip link set v0 up && "
		"ip link set v1 up"), 0);
	tc = must_open(true);
	assert_int_equal(generation_of(tc), 0);
	assert_int_equal(hooks(), 2);
	lat_tc_close(tc, false);
	nothing_is_left();
}

static void maps_of_another_version_hold_until_ours_are_filled(void **state)
{
	struct packet_bytes p = tcp4(US, 60, THEM, 81, SYN);
	struct lat_tc *tc;
	char command[256];

	kill_agent(start_agent(80));
	/* Says that it is of another version. */
	snprintf(command, sizeof(command), "bpftool map update pinned " TC_PINS "/*/lat_config key 0 0 0 0 value "
		"99 0 0 0 %d 0 0 0  0 0 0 0 0 0 0 0  4 0 0 0  %d %d 0 0", (int)if_nametoindex("v0"),
		tcx_hooks() == 2, tcx_hooks() == 0); /* TCX, made the qdisc */
	assert_int_equal(system(command), 0);
	tc = must_open(true);
	assert_non_null(strstr(say, "have version 99"));
	assert_int_equal(hooks(), 2);
	assert_int_equal(apply_port(tc, 5, 81, LAT_ACTION_ALLOW, false), 0);
	assert_int_equal(hooks(), 2);
	assert_true(passes(tc, OUT, &p));
	lat_tc_close(tc, true);
	tc = must_open(true);
	assert_null(strstr(say, "version"));
	assert_int_equal(generation_of(tc), 5);
	lat_tc_close(tc, false);
	nothing_is_left();
}

static void others_programs_stay(void **state)
{
	char folder[512] = "", command[700];
	struct lat_tc *tc;

	assert_true(readlink("/proc/self/exe", folder, sizeof(folder) - 1) > 0);
	*strrchr(folder, '/') = '\0';

	setenv("LATTICE_NO_TCX", "1", 1);
	snprintf(command, sizeof(command), "tc qdisc add dev v0 clsact && tc filter add dev v0 egress bpf da obj "
		"%s/empty.bpf.o sec tc", folder);
	assert_int_equal(system(command), 0);
	tc = must_open(false);
	assert_non_null(strstr(say, "clsact"));
	assert_int_equal(hooks(), 2);
	lat_tc_close(tc, false);
	assert_int_equal(hooks(), 0);
	assert_int_equal(count_of("tc filter show dev v0 egress | grep -c empty"), 1);
	assert_int_equal(system("tc qdisc del dev v0 clsact"), 0);
	kill_agent(start_agent(80)); /* ours alone: taken over and removed with the qdisc */
	tc = must_open(true);
	assert_int_equal(hooks(), 2);
	assert_int_equal(generation_of(tc), 1);
	lat_tc_close(tc, false);
	nothing_is_left();
	unsetenv("LATTICE_NO_TCX");
}

/* ---- failures ---- */

static void a_start_that_fails_leaves_nothing(void **state)
{
	struct lat_tc *tc;
	long n = 0;
	int r;

	do {
		calls = 0;
		fail_at = ++n;
		r = try_open(&tc, false);
		fail_at = 0;
		if (r == 0 && calls >= n) /* a probe of libbpf, or an attachment by TCX that clsact stood in for */
			lat_tc_close(tc, false);
		nothing_is_left_after(n, r == 0 && calls < n);
	} while (r < 0 || calls >= n);
	lat_tc_close(tc, false);
	nothing_is_left();
	assert_true(n > 20);
	print_message("%ld bpf calls failed in turn\n", n - 1);
}

static void an_apply_that_fails_leaves_the_old_policy(void **state)
{
	struct lat_tc *tc = must_open(false);
	struct packet_bytes good = tcp4(US, 70, THEM, 80, SYN), bad = tcp4(US, 70, THEM, 81, SYN);
	long n = 0;
	int r;

	assert_int_equal(apply_port(tc, 1, 80, LAT_ACTION_ALLOW, false), 0);
	do {
		calls = 0;
		fail_at = ++n;
		r = apply_port(tc, 2, 81, LAT_ACTION_ALLOW, false);
		fail_at = 0;
		if (r < 0) {
			assert_int_equal(generation_of(tc), 1);
			assert_true(passes(tc, OUT, &good));
			assert_false(passes(tc, OUT, &bad));
		} else if (calls >= n) { /* it could do without */
			assert_int_equal(apply_port(tc, 1, 80, LAT_ACTION_ALLOW, false), 0);
		}
	} while (r < 0 || calls >= n);
	assert_true(n > 5);
	assert_int_equal(generation_of(tc), 2);
	lat_tc_close(tc, false);
	nothing_is_left();
}

static void a_takeover_that_fails_leaves_all_in_force(void **state)
{
	struct lat_tc *tc;
	long n = 0;
	int r;

	kill_agent(start_agent(80));
	do {
		calls = 0;
		fail_at = ++n;
		r = try_open(&tc, true);
		fail_at = 0;
		if (r == 0 && calls >= n) { /* it could do without */
			assert_int_equal(hooks(), 2);
			lat_tc_close(tc, true);
			r = -EAGAIN;
		}
		assert_int_equal(hooks(), 2);
	} while (r < 0);
	assert_int_equal(generation_of(tc), 1);
	lat_tc_close(tc, false);
	nothing_is_left();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_a_killed_agent_left_holds_and_is_taken_over),
		cmocka_unit_test(what_a_killed_agent_left_can_be_removed),
		cmocka_unit_test(a_device_made_anew_is_guarded_anew),
		cmocka_unit_test(maps_of_another_version_hold_until_ours_are_filled),
		cmocka_unit_test(others_programs_stay),
		cmocka_unit_test(a_start_that_fails_leaves_nothing),
		cmocka_unit_test(an_apply_that_fails_leaves_the_old_policy),
		cmocka_unit_test(a_takeover_that_fails_leaves_all_in_force),
	};

	tc_world();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
