/* See notify_spawn.h. */
#include "kernel/notify_spawn.h"
#include "base/mem.h"
#include "kernel/fdpass.h"
#include <seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

int lat_notify_number(const char *name)
{
	int nr = seccomp_syscall_resolve_name(name);

	return nr < 0 ? -ENOENT : nr;
}

char *lat_notify_name(int nr)
{
	return seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, nr);
}

/* Installs the filter on this process: the listener, or negative errno. */
static int install(const int *nrs, size_t count)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	int r = filter ? 0 : -ENOMEM;

	for (size_t i = 0; r == 0 && i < count; i++)
		r = seccomp_rule_add(filter, SCMP_ACT_NOTIFY, nrs[i], 0);
	if (r == 0)
		r = seccomp_load(filter);
	if (r == 0)
		r = seccomp_notify_fd(filter);
	if (filter)
		seccomp_release(filter);
	return r;
}

static bool needed_here(int nr)
{
	return nr == SCMP_SYS(sendmsg) || nr == SCMP_SYS(exit_group) || nr == SCMP_SYS(close);
}

int lat_notify_spawn(const int *nrs, size_t count, int (*fn)(void *ctx), void *ctx, pid_t *pid, int *listener)
{
	int pair[2], got;
	pid_t child;

	for (size_t i = 0; i < count; i++)
		if (needed_here(nrs[i]))
			return -EINVAL;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	child = fork();
	if (child == 0) {
		int fd, r;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fd = install(nrs, count);
		r = lat_fd_send(pair[1], fd < 0 ? -1 : fd, fd < 0 ? fd : 0);
		if (fd < 0 || r < 0)
			_exit(125);
		close(fd);
		close(pair[0]);
		close(pair[1]);
		_exit(fn(ctx));
	}
	got = child < 0 ? -errno : 0;
	close(pair[1]);
	if (child > 0)
		got = lat_fd_receive(pair[0]);
	close(pair[0]);
	if (got < 0 && child > 0) {
		kill(child, SIGKILL);
		while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {
		}
	}
	if (got < 0)
		return got;
	*pid = child;
	*listener = got;
	return 0;
}
