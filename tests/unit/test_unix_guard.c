/* kernel/unix_guard.h: a task of a group connects to unix sockets of its group and to no other, by names of any length; who is
 * outside connects its sockets anywhere. */
#include "kernel/unix_guard.h"
#include "base/edition.h"
#include "kernel/cgroup.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static struct lat_cgroup *group;

/* An abstract name of n bytes, the first of which are this text; or (path) a file of the current folder. */
static socklen_t name_of(struct sockaddr_un *sa, const char *text, size_t n, bool path)
{
	memset(sa, 0, sizeof(*sa));
	sa->sun_family = AF_UNIX;
	memset(sa->sun_path, path ? '/' : 'x', n);
	sa->sun_path[0] = path ? '.' : '\0';
	memcpy(path ? sa->sun_path + n - strlen(text) : sa->sun_path + 1, text, strlen(text));
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
}

static int listener(const char *text, size_t n, bool path, int type)
{
	struct sockaddr_un sa;
	socklen_t len = name_of(&sa, text, n, path);
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	return fd < 0 || bind(fd, (struct sockaddr *)&sa, len) || listen(fd, 8) ? -1 : fd;
}

/* 0 or the errno. */
static int dial_on(int fd, const char *text, size_t n, bool path)
{
	struct sockaddr_un sa;
	socklen_t len = name_of(&sa, text, n, path);

	return connect(fd, (struct sockaddr *)&sa, len) ? errno : 0;
}

static int dial(const char *text, size_t n, bool path, int type)
{
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0), r = dial_on(fd, text, n, path);

	close(fd);
	return r;
}

/* In the group; returns a line, or 0. */
static int inside(int outer, int give)
{
	struct iovec byte = { "x", 1 };
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct msghdr m = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), pair[2];

	for (size_t n = 6; n < 40; n++)
		for (int path = 0; path < 2; path++) {
			if (n != 7 && dial(path ? "o.sock" : "outer", n, path, SOCK_STREAM) != (path || n == 20 ? EACCES : ECONNREFUSED))
				return __LINE__;
		}
	if (dial("packets", 16, false, SOCK_SEQPACKET) != EACCES)
		return __LINE__;
	/* Its own, of the same lengths; and one that it got from outside is not its own. */
	if (listener("inner", 14, false, SOCK_STREAM) < 0 || listener("i.sock", 14, true, SOCK_STREAM) < 0)
		return __LINE__;
	if (dial("inner", 14, false, SOCK_STREAM) || dial("i.sock", 14, true, SOCK_STREAM))
		return __LINE__;
	if (dial("i.sock", 26, true, SOCK_STREAM) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return __LINE__;
	if (listen(outer, 9) || dial("outer", 20, false, SOCK_STREAM) != EACCES)
		return __LINE__;
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	return sendmsg(give, &m, 0) == 1 ? 0 : __LINE__;
}

static int receive(int from)
{
	char byte, control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec io = { &byte, 1 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	int fd = -1;

	if (recvmsg(from, &m, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&m))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	return fd;
}

static void only_what_was_made_in_the_group_is_reached(void **state)
{
	int outer = listener("outer", 20, false, SOCK_STREAM), file = listener("o.sock", 6, true, SOCK_STREAM);
	int packets = listener("packets", 16, false, SOCK_SEQPACKET), pair[2], status, fd;
	pid_t pid;

	assert_true(outer >= 0 && file >= 0 && packets >= 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		char go;

		if (read(pair[1], &go, 1) != 1)
			_exit(99);
		status = inside(outer, pair[1]);
		if (status)
			fprintf(stderr, "line %d: %s\n", status, strerror(errno));
		_exit(status != 0);
	}
	assert_int_equal(lat_cgroup_join(group, pid), 0);
	assert_int_equal(write(pair[0], "g", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	/* Its socket, connected by somebody outside: what the supervisor does for a rule. */
	fd = receive(pair[0]);
	assert_true(fd >= 0);
	assert_int_equal(dial_on(fd, "o.sock", 6, true), 0);
	assert_int_equal(dial("o.sock", 6, true, SOCK_STREAM), 0);
	close(fd);
	close(pair[0]);
	close(pair[1]);
	close(outer);
	close(file);
	close(packets);
	unlink("o.sock");
	unlink("i.sock");
}

static void a_group_that_is_not_there_is_an_error(void **state)
{
	char say[LAT_UNIX_GUARD_SAY];

	assert_int_equal(lat_unix_guard("/sys/fs/cgroup/no-such-group", say), -ENOENT);
	assert_non_null(strstr(say, "no-such-group"));
}

static int set_up(void **state)
{
	char name[48], say[LAT_CGROUP_SAY] = "", folder[] = "/tmp/lattice-test-XXXXXX";
	struct lat_cgroup_options options = { .name = name, .programs = true };
	int r;

	snprintf(name, sizeof(name), "unit-unix-guard-%d", (int)getpid());
	r = lat_cgroup_make(&options, &group, say);
	if (r < 0) {
		fprintf(stderr, "skipped: no group here: %s\n", say);
		exit(77);
	}
	r = lat_unix_guard(lat_cgroup_path(group), say);
	if (r == -LAT_EPRO || r == -EOPNOTSUPP) {
		fprintf(stderr, "skipped: %s\n", r == -LAT_EPRO ? "of the pro edition" : say);
		lat_cgroup_close(group);
		exit(77);
	}
	if (r < 0)
		fprintf(stderr, "%s\n", say);
	return r < 0 || !mkdtemp(folder) || chdir(folder) || setenv("FOLDER", folder, 1) ? -1 : 0;
}

static int tear_down(void **state)
{
	lat_cgroup_close(group);
	return chdir("/") || rmdir(getenv("FOLDER"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_what_was_made_in_the_group_is_reached),
		cmocka_unit_test(a_group_that_is_not_there_is_an_error),
	};

	return cmocka_run_group_tests_name("unix_guard", tests, set_up, tear_down);
}
