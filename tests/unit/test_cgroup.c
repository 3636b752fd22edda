/* kernel/cgroup.h: groups are made where the host has them, hold their limits, and leave nothing, however their maker ends. */
#include "kernel/cgroup.h"
#include "base/clock.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static char say[LAT_CGROUP_SAY];
static char unit_name[32];

/* A group, or the test is skipped: with the reason. */
static struct lat_cgroup *make(struct lat_cgroup_options o)
{
	struct lat_cgroup *g = NULL;
	int r;

	if (!o.name)
		o.name = unit_name;
	r = lat_cgroup_make(&o, &g, say);
	if (r < 0) {
		print_message("no group here: %s\n", say);
		if (r == -EACCES || r == -EPERM || r == -EROFS || r == -EOPNOTSUPP || r == -ENODEV)
			skip();
		fail();
	}
	return g;
}

static bool any_left(struct lat_cgroup *g, char paths[8][512], unsigned *count)
{
	if (g) {
		*count = 0;
		for (const char *p; (p = lat_cgroup_path_at(g, *count)) != NULL; ++*count)
			snprintf(paths[*count], 512, "%s", p);
	}
	for (unsigned i = 0; i < *count; i++)
		if (access(paths[i], F_OK) == 0)
			return true;
	return false;
}

/* What is to come true without anybody telling: looked at until it does, at most 10 s. */
#define EVENTUALLY(what)                                                                                                        \
	do {                                                                                                                    \
		for (int tries_ = 0; !(what) && tries_ < 2000; tries_++)                                                       \
			poll(NULL, 0, 5);                                                                                       \
		assert_true(what);                                                                                              \
	} while (0)

/* A child that waits for the group, then runs body and ends with what it returns. */
static pid_t child_in(struct lat_cgroup *g, int (*body)(void *), void *ctx)
{
	int go[2];
	pid_t pid;

	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		char byte;

		/* As an exec would: the group's lock is not for its members. */
		dup2(go[0], 3);
		close_range(4, ~0u, 0);
		_exit(read(3, &byte, 1) == 1 ? body(ctx) : 99);
	}
	close(go[0]);
	assert_true(pid > 0);
	assert_int_equal(lat_cgroup_join(g, pid), 0);
	assert_int_equal(write(go[1], "g", 1), 1);
	close(go[1]);
	return pid;
}

static int wait_for(pid_t pid)
{
	int status = 0;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static int forever(void *ctx)
{
	(void)ctx;
	for (;;)
		pause();
	return 0;
}

static void a_group_is_made_and_leaves_nothing(void **state)
{
	struct lat_cgroup *g = make((struct lat_cgroup_options){ .limits = { .pids = 10 } });
	char paths[8][512];
	unsigned count;
	pid_t pid;

	(void)state;
	assert_true(any_left(g, paths, &count));
	assert_true(count > 0);
	pid = child_in(g, forever, NULL);
	lat_cgroup_close(g);
	assert_true(WIFSIGNALED(wait_for(pid)));
	assert_false(any_left(NULL, paths, &count));
}

static void a_copy_in_a_forked_child_is_not_the_group(void **state)
{
	struct lat_cgroup *g = make((struct lat_cgroup_options){ .limits = { .pids = 10 } });
	char paths[8][512];
	unsigned count;
	pid_t member = child_in(g, forever, NULL), pid = fork();

	(void)state;
	if (pid == 0) {
		lat_cgroup_close(g);
		_exit(0);
	}
	assert_int_equal(wait_for(pid), 0);
	assert_true(any_left(g, paths, &count));
	assert_int_equal(waitpid(member, NULL, WNOHANG), 0);
	lat_cgroup_close(g);
	wait_for(member);
	assert_false(any_left(NULL, paths, &count));
}

static void programs_get_a_v2_group_with_its_id(void **state)
{
	struct lat_cgroup *g = make((struct lat_cgroup_options){ .programs = true });
	struct stat st;

	(void)state;
	assert_non_null(lat_cgroup_path(g));
	assert_int_equal(stat(lat_cgroup_path(g), &st), 0);
	assert_true(lat_cgroup_id(g) == st.st_ino);
	lat_cgroup_close(g);
}

static void a_name_in_use_is_refused_or_made_unique(void **state)
{
	struct lat_cgroup *g = make((struct lat_cgroup_options){ .limits = { .pids = 10 } }), *other = NULL;
	struct lat_cgroup_options o = { .name = unit_name, .limits = { .pids = 10 } };

	(void)state;
	assert_int_equal(lat_cgroup_make(&o, &other, say), -EEXIST);
	assert_null(other);
	o.unique = true;
	assert_int_equal(lat_cgroup_make(&o, &other, say), 0);
	assert_string_not_equal(lat_cgroup_path_at(g, 0), lat_cgroup_path_at(other, 0));
	lat_cgroup_close(other);
	lat_cgroup_close(g);
}

static void bad_names_are_refused(void **state)
{
	static const char *const bad[] = { "", ".", "..", ".x", "a/b", "a\nb" };
	struct lat_cgroup *g = NULL;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(lat_cgroup_make(&(struct lat_cgroup_options){ .name = bad[i] }, &g, say), -EINVAL);
		assert_null(g);
		assert_true(say[0] != '\0');
	}
}

static int daemonise(void *ctx)
{
	(void)ctx;
	for (int i = 0; i < 2; i++) {
		if (fork() > 0)
			_exit(0);
		setsid();
	}
	return forever(NULL);
}

static bool has_members(const char *path)
{
	char file[600], byte;
	int fd;
	bool any;

	snprintf(file, sizeof(file), "%s/cgroup.procs", path);
	fd = open(file, O_RDONLY | O_CLOEXEC);
	any = fd >= 0 && read(fd, &byte, 1) == 1;
	if (fd >= 0)
		close(fd);
	return any;
}

static void kill_ends_daemons_and_groups_below(void **state)
{
	struct lat_cgroup *g = make((struct lat_cgroup_options){ .limits = { .pids = 20 } });
	char below[512], file[600], text[16], paths[8][512];
	unsigned count;
	pid_t pid;
	int fd;

	(void)state;
	wait_for(child_in(g, daemonise, NULL));
	EVENTUALLY(has_members(lat_cgroup_path_at(g, 0)));
	snprintf(below, sizeof(below), "%.490s/below", lat_cgroup_path_at(g, 0));
	assert_int_equal(mkdir(below, 0755), 0);
	pid = fork();
	if (pid == 0)
		_exit(forever(NULL));
	snprintf(file, sizeof(file), "%s/cgroup.procs", below);
	snprintf(text, sizeof(text), "%d", pid);
	fd = open(file, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0 && write(fd, text, strlen(text)) > 0);
	close(fd);
	any_left(g, paths, &count);
	assert_int_equal(lat_cgroup_kill(g, 10000), 0);
	assert_true(WIFSIGNALED(wait_for(pid)));
	for (unsigned i = 0; i < count; i++)
		assert_false(has_members(paths[i]));
	lat_cgroup_close(g);
	assert_false(any_left(NULL, paths, &count));
}

/* A maker that is killed while a daemon runs in its group. */
static pid_t doomed_maker(char paths[8][512], unsigned *count)
{
	struct { char paths[8][512]; unsigned count; } told;
	int ends[2];
	pid_t pid;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		struct lat_cgroup *g = NULL;
		struct lat_cgroup_options o = { .name = unit_name, .unique = true, .limits = { .pids = 20 } };

		if (lat_cgroup_make(&o, &g, say) < 0)
			_exit(77);
		wait_for(child_in(g, daemonise, NULL));
		EVENTUALLY(has_members(lat_cgroup_path_at(g, 0)));
		any_left(g, told.paths, &told.count);
		if (write(ends[1], &told, sizeof(told)) != sizeof(told))
			_exit(1);
		_exit(forever(NULL));
	}
	close(ends[1]);
	if (read(ends[0], &told, sizeof(told)) != sizeof(told)) {
		close(ends[0]);
		wait_for(pid);
		skip();
	}
	close(ends[0]);
	memcpy(paths, told.paths, sizeof(told.paths));
	*count = told.count;
	return pid;
}

static void a_killed_maker_leaves_nothing(void **state)
{
	char paths[8][512];
	unsigned count;
	pid_t pid = doomed_maker(paths, &count);

	(void)state;
	assert_true(any_left(NULL, paths, &count));
	kill(pid, SIGKILL);
	wait_for(pid);
	EVENTUALLY(!any_left(NULL, paths, &count));
}

/* The child of pid that has this name. */
static pid_t child_named(pid_t parent, const char *name)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;
	pid_t found = 0;

	while (proc && !found && (e = readdir(proc)) != NULL) {
		char path[300], line[256], comm[64];
		int pid, ppid;
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%s/stat", e->d_name);
		f = fopen(path, "re");
		if (!f)
			continue;
		if (fgets(line, sizeof(line), f) && sscanf(line, "%d (%63[^)]) %*c %d", &pid, comm, &ppid) == 3 &&
			ppid == parent && strcmp(comm, name) == 0)
			found = pid;
		fclose(f);
	}
	if (proc)
		closedir(proc);
	return found;
}

static void what_a_killed_keeper_left_is_swept_by_the_next(void **state)
{
	char paths[8][512];
	unsigned count;
	pid_t pid = doomed_maker(paths, &count), keeper = 0;
	struct lat_cgroup *g;
	struct pollfd end;

	(void)state;
	EVENTUALLY((keeper = child_named(pid, "lattice-keeper")) != 0);
	end = (struct pollfd){ (int)syscall(SYS_pidfd_open, keeper, 0), POLLIN, 0 };
	kill(keeper, SIGKILL);
	assert_int_equal(poll(&end, 1, 10000), 1); /* until then it holds the lock */
	close(end.fd);
	kill(pid, SIGKILL);
	wait_for(pid);
	assert_true(any_left(NULL, paths, &count));
	g = make((struct lat_cgroup_options){ .unique = true, .limits = { .pids = 20 } });
	/* The name is free again: the new group may have taken it. */
	for (unsigned i = 0; i < count; i++)
		assert_false(strcmp(lat_cgroup_path_at(g, i), paths[i]) != 0 && access(paths[i], F_OK) == 0);
	lat_cgroup_close(g);
	EVENTUALLY(!any_left(NULL, paths, &count));
}

static void the_keeper_holds_no_descriptor_but_its_own(void **state)
{
	struct lat_cgroup *g = make((struct lat_cgroup_options){ .limits = { .pids = 20 } });
	pid_t keeper = 0;
	char path[64], target[512];
	struct dirent *e;
	DIR *fds;

	(void)state;
	EVENTUALLY((keeper = child_named(getpid(), "lattice-keeper")) != 0);
	assert_int_not_equal(getsid(keeper), getsid(0));
	snprintf(path, sizeof(path), "/proc/%d/fd", keeper);
	fds = opendir(path);
	if (fds) { /* only for root: it is not dumpable */
		while ((e = readdir(fds)) != NULL) {
			ssize_t n = readlinkat(dirfd(fds), e->d_name, target, sizeof(target) - 1);

			if (e->d_name[0] == '.' || n < 0)
				continue;
			target[n] = '\0';
			assert_true(strncmp(target, "/sys/fs/cgroup", 14) == 0 || strstr(target, "pidfd") || strncmp(target, "socket:", 7) == 0 ||
				strncmp(target, "/", 1) == 0);
		}
		closedir(fds);
	}
	lat_cgroup_close(g);
	assert_int_equal(kill(keeper, 0), -1);
}

/* Directories of groups of this test below any hierarchy. */
static unsigned count_groups(void)
{
	static const char *const tops[] = { "", "/unified", "/pids", "/memory", "/cpu", "/cpuacct", "/blkio", "/freezer" };
	unsigned n = 0;

	for (size_t i = 0; i < sizeof(tops) / sizeof(tops[0]); i++) {
		char path[128];
		struct dirent *e;
		DIR *d;

		snprintf(path, sizeof(path), "/sys/fs/cgroup%s/lattice", tops[i]);
		d = opendir(path);
		while (d && (e = readdir(d)) != NULL)
			n += strncmp(e->d_name, unit_name, strlen(unit_name)) == 0;
		if (d)
			closedir(d);
	}
	return n;
}

/* Makes a group with a member and closes it; killed at its stop number `steps`. False: it came to its end. */
static bool die_at(int steps)
{
	struct lat_cgroup_options o = { .name = unit_name, .unique = true, .limits = { .pids = 20 } };
	pid_t pid = fork();
	int status = 0;

	assert_true(pid >= 0);
	if (pid == 0) {
		struct lat_cgroup *g = NULL;

		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0 || raise(SIGSTOP))
			_exit(2);
		if (lat_cgroup_make(&o, &g, say) < 0)
			_exit(1);
		lat_cgroup_close(g);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	while (WIFSTOPPED(status) && steps-- > 0) {
		int sig = WSTOPSIG(status) == SIGTRAP || WSTOPSIG(status) == SIGSTOP ? 0 : WSTOPSIG(status);

		ptrace(PTRACE_SYSCALL, pid, NULL, (void *)(intptr_t)sig);
		waitpid(pid, &status, 0);
	}
	if (WIFEXITED(status)) {
		assert_int_equal(WEXITSTATUS(status), 0);
		return false;
	}
	assert_true(WIFSTOPPED(status));
	kill(pid, SIGKILL);
	wait_for(pid);
	return true;
}

/* Before and after each system call of a group's life. What has no keeper yet is the next maker's to remove. */
static void a_maker_that_dies_at_any_step_leaves_nothing(void **state)
{
	int steps = 0;

	(void)state;
	lat_cgroup_close(make((struct lat_cgroup_options){ .limits = { .pids = 20 } }));
	while (die_at(steps))
		steps++;
	print_message("%d steps\n", steps);
	assert_true(steps > 50);
	lat_cgroup_close(make((struct lat_cgroup_options){ .unique = true, .limits = { .pids = 20 } }));
	EVENTUALLY(count_groups() == 0);
}

static void twenty_at_once_do_not_clash(void **state)
{
	pid_t pid[20];

	(void)state;
	lat_cgroup_close(make((struct lat_cgroup_options){ .limits = { .pids = 20 } }));
	for (int i = 0; i < 20; i++) {
		pid[i] = fork();
		if (pid[i] == 0) {
			struct lat_cgroup *g = NULL;
			struct lat_cgroup_options o = { .name = unit_name, .unique = true, .limits = { .pids = 20 } };

			for (int j = 0; j < 5; j++) {
				if (lat_cgroup_make(&o, &g, say) < 0) {
					fprintf(stderr, "%s\n", say);
					_exit(1);
				}
				lat_cgroup_close(g);
			}
			_exit(0);
		}
	}
	for (int i = 0; i < 20; i++)
		assert_int_equal(wait_for(pid[i]), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_group_is_made_and_leaves_nothing),
		cmocka_unit_test(a_copy_in_a_forked_child_is_not_the_group),
		cmocka_unit_test(programs_get_a_v2_group_with_its_id),
		cmocka_unit_test(a_name_in_use_is_refused_or_made_unique),
		cmocka_unit_test(bad_names_are_refused),
		cmocka_unit_test(kill_ends_daemons_and_groups_below),
		cmocka_unit_test(a_killed_maker_leaves_nothing),
		cmocka_unit_test(what_a_killed_keeper_left_is_swept_by_the_next),
		cmocka_unit_test(the_keeper_holds_no_descriptor_but_its_own),
		cmocka_unit_test(a_maker_that_dies_at_any_step_leaves_nothing),
		cmocka_unit_test(twenty_at_once_do_not_clash),
	};

	snprintf(unit_name, sizeof(unit_name), "unit-%d", getpid());
	return cmocka_run_group_tests(tests, NULL, NULL);
}
