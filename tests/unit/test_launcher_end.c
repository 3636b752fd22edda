/* The end: nothing outlives the command, nothing outlives the supervisor, at whatever moment either
 * ends. */
#include "support/sandbox.h"
#include <time.h>

/* Waits with children of its own, one of them a daemon, until it is killed. */
static int in_wait(const char *arg)
{
	pid_t child = fork();

	if (child == 0) {
		setsid();
		if (fork())
			_exit(0);
		for (;;)
			pause();
	}
	waitpid(child, NULL, 0);
	if (write(1, "r", 1) != 1)
		return 1;
	for (;;)
		pause();
}

/* Ends at once and leaves a daemon behind. */
static int in_leave(const char *arg)
{
	if (fork() == 0) {
		setsid();
		for (;;)
			pause();
	}
	return 5;
}

static int in_terminated(const char *arg)
{
	sigset_t set;
	int sig;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	if (write(1, "r", 1) != 1)
		return 1;
	sigwait(&set, &sig);
	return 7;
}

static int run(const char *name)
{
	struct run r = { .refuse = EACCES };

	return sandbox_inside(&r, name, "");
}

/* Standard output as a pipe whose end says that everything that held it has ended. */
static int pipe_stdout(int *keep)
{
	int ends[2];

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	fflush(NULL);
	*keep = fcntl(1, F_DUPFD_CLOEXEC, 3);
	assert_int_equal(dup2(ends[1], 1), 1);
	close(ends[1]);
	return ends[0];
}

static void restore_stdout(int keep)
{
	dup2(keep, 1);
	close(keep);
}

static bool next_is(int fd, ssize_t length)
{
	struct pollfd p = { fd, POLLIN, 0 };
	char byte;

	return poll(&p, 1, BOUND_MS) == 1 && read(fd, &byte, 1) == length;
}

static void daemons_end_with_the_command(void **state)
{
	int keep, out = pipe_stdout(&keep), status = run("leave");

	restore_stdout(keep);
	assert_int_equal(status, 5);
	assert_true(next_is(out, 0));
	close(out);
}

static void everything_ends_with_the_supervisor(void **state)
{
	int keep, out = pipe_stdout(&keep), status;
	pid_t supervisor = fork();

	if (supervisor == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(run("wait") + 1);
	}
	restore_stdout(keep);
	assert_true(next_is(out, 1));
	kill(supervisor, SIGKILL);
	assert_int_equal(waitpid(supervisor, &status, 0), supervisor);
	assert_true(next_is(out, 0));
	close(out);
}

static void closing_ends_everything_and_twice_is_once(void **state)
{
	int keep, out = pipe_stdout(&keep);
	struct run r = { 0 };
	const char *const argv[] = { sandbox_self, "--inside", "wait", NULL };

	r.spec.argv = (char *const *)argv;
	assert_int_equal(sandbox_launch(&r), 0);
	assert_int_equal(lat_launch_go(&r.box), 0);
	restore_stdout(keep);
	assert_true(next_is(out, 1));
	lat_sandbox_close(&r.box);
	assert_true(next_is(out, 0));
	lat_sandbox_close(&r.box);
	assert_int_equal(r.box.control, -1);
	close(out);
}

static void signals_reach_the_command(void **state)
{
	int keep, out = pipe_stdout(&keep);
	struct run r = { 0 };
	const char *const argv[] = { sandbox_self, "--inside", "terminated", NULL };

	r.spec.argv = (char *const *)argv;
	assert_int_equal(sandbox_launch(&r), 0);
	assert_int_equal(lat_launch_go(&r.box), 0);
	restore_stdout(keep);
	assert_true(next_is(out, 1));
	assert_int_equal(lat_launch_signal(&r.box, SIGUSR2), 0);
	assert_int_equal(sandbox_serve(&r), 7);
	close(out);
}

/* From before the namespaces are there until after the command runs: a moment later each time. */
static void nothing_is_left_at_whatever_moment_the_supervisor_dies(void **state)
{
	enum { ROUNDS = 150, STEP_NS = 40000 };

	for (int i = 0; i < ROUNDS; i++) {
		const struct timespec wait = { 0, i * STEP_NS };
		int keep, out = pipe_stdout(&keep), status;
		pid_t supervisor = fork();
		struct pollfd p = { out, 0, 0 };
		char byte;

		if (supervisor == 0)
			_exit(run("wait") + 1);
		restore_stdout(keep);
		nanosleep(&wait, NULL); /* the moment is what is tried, nothing is waited for */
		kill(supervisor, SIGKILL);
		assert_int_equal(waitpid(supervisor, &status, 0), supervisor);
		/* The end of the pipe: all that could hold it has gone. */
		assert_int_equal(poll(&p, 1, BOUND_MS), 1);
		assert_true(p.revents & POLLHUP);
		while (read(out, &byte, 1) > 0)
			;
		close(out);
	}
}

static const struct inside table[] = { { "wait", in_wait }, { "leave", in_leave },
	{ "terminated", in_terminated }, { NULL, NULL } };

static int tests(void)
{
	const struct CMUnitTest all[] = {
		cmocka_unit_test(daemons_end_with_the_command),
		cmocka_unit_test(everything_ends_with_the_supervisor),
		cmocka_unit_test(nothing_is_left_at_whatever_moment_the_supervisor_dies),
		cmocka_unit_test(closing_ends_everything_and_twice_is_once),
		cmocka_unit_test(signals_reach_the_command),
	};

	return cmocka_run_group_tests_name("launcher.end", all, NULL, NULL);
}

int main(int argc, char **argv)
{
	return sandbox_main(argc, argv, table, tests);
}
