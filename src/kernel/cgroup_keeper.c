/* The keeper: a process outside the group that outlives its maker for as long as it takes to kill and remove what that leaves,
 * so that kill -9 of the maker leaves nothing. It holds the group's locks (they belong to the open directory, which it
 * inherits), a pidfd of the maker, and nothing else. Without exec, so it allocates nothing. */
#include "base/mem.h"
#include "kernel/cgroup_impl.h"
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define KILL_MS 60000

/* Closes all but the descriptors given. */
static void close_others(const int *keep, unsigned count)
{
	unsigned from = 0;

	for (;;) {
		unsigned next = ~0u;

		for (unsigned i = 0; i < count; i++)
			if (keep[i] >= 0 && (unsigned)keep[i] >= from && (unsigned)keep[i] < next)
				next = (unsigned)keep[i];
		if (next == ~0u)
			break;
		if (next > from)
			syscall(SYS_close_range, from, next - 1, 0);
		from = next + 1;
	}
	syscall(SYS_close_range, from, ~0u, 0);
}

static _Noreturn void keep(struct lat_cgroup *group, int maker, int word)
{
	int fds[3 * LAT_CG_DIRS + 2] = { maker, word };
	unsigned n = 2;
	struct pollfd p[] = { { maker, POLLIN, 0 }, { word, POLLIN, 0 } };
	sigset_t all;
	char done;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	setsid();
	prctl(PR_SET_NAME, "lattice-keeper", 0, 0, 0);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	for (unsigned i = 0; i < group->count; i++) {
		fds[n++] = group->dir[i].base;
		fds[n++] = group->dir[i].parent;
		fds[n++] = group->dir[i].fd;
	}
	close_others(fds, n);
	if (chdir("/") < 0)
		_exit(1);
	while (poll(p, 2, -1) < 0 && errno == EINTR) {
	}
	if (p[1].revents & POLLIN && read(word, &done, 1) == 1)
		_exit(0); /* removed already */
	lat_cg_kill_all(group->dir, group->count, KILL_MS);
	lat_cg_remove_all(group->dir, group->count);
	for (unsigned i = 0; i < group->count; i++)
		if (group->dir[i].moved)
			lat_cg_v2_move_back(&group->dir[i]);
	_exit(0);
}

int lat_cg_keeper_start(struct lat_cgroup *group)
{
	int maker = (int)syscall(SYS_pidfd_open, getpid(), 0), ends[2], r;
	pid_t pid;

	if (maker < 0)
		return -errno;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
		r = -errno;
		close(maker);
		return r;
	}
	/* Without an exit signal: nobody's wait for children sees it. */
	pid = (pid_t)syscall(SYS_clone, 0, NULL, NULL, NULL, 0);
	r = -errno;
	if (pid == 0)
		keep(group, maker, ends[0]);
	close(maker);
	close(ends[0]);
	if (pid < 0) {
		close(ends[1]);
		return r;
	}
	group->keeper = pid;
	group->keeper_word = ends[1];
	return 0;
}

void lat_cg_keeper_stop(struct lat_cgroup *group, bool removed, bool wait)
{
	if (group->keeper <= 0)
		return;
	if (removed)
		send(group->keeper_word, "", 1, MSG_NOSIGNAL); /* it may have been killed */
	lat_close(&group->keeper_word);
	while (wait && waitpid(group->keeper, NULL, __WCLONE) < 0 && errno == EINTR) {
	}
	group->keeper = 0;
}
