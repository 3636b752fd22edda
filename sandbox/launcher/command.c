/* The process that becomes the command: gives up its capabilities, installs the filter, waits for
 * the word, execs. */
#include "base/mem.h"
#include "launcher/setup.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

extern char **environ;

/* What the caller handed to us at exec: the command gets the same, whatever the supervisor changed
 * for itself. */
static struct {
	sigset_t mask;
	bool ignored[NSIG];
	struct rlimit files;
} at_start;

__attribute__((constructor)) static void remember_start(void)
{
	struct sigaction now;

	/* A closed standard descriptor would become the first thing that we open, and go to the
	 * command. */
	for (int fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
			abort();
	sigprocmask(SIG_SETMASK, NULL, &at_start.mask);
	for (int sig = 1; sig < NSIG; sig++)
		at_start.ignored[sig] = !sigaction(sig, NULL, &now) && now.sa_handler == SIG_IGN;
	getrlimit(RLIMIT_NOFILE, &at_start.files);
}

_Noreturn static void fail(struct lat_setup *s)
{
	lat_msg_send(s->command, &s->failure, NULL, 0);
	_exit(125);
}

static void restore_signals(void)
{
	for (int sig = 1; sig < NSIG; sig++) {
		struct sigaction action = { .sa_handler =
						    at_start.ignored[sig] ? SIG_IGN : SIG_DFL };

		sigaction(sig, &action, NULL);
	}
	sigprocmask(SIG_SETMASK, &at_start.mask, NULL);
}

static void set_limits(struct lat_setup *s)
{
	setrlimit(RLIMIT_NOFILE, &at_start.files);
	for (size_t i = 0; i < s->spec->rlimit_count; i++) {
		const struct lat_rlimit *limit = &s->spec->rlimits[i];
		struct rlimit now;

		if (getrlimit(limit->resource, &now))
			memset(&now, 0xff, sizeof(now));
		now.rlim_cur = limit->value;
		if (limit->value < now.rlim_max)
			now.rlim_max = limit->value;
		if (setrlimit(limit->resource, &now)) {
			lat_setup_fail(s, -errno, "limit of resource %d to %llu", limit->resource,
				(unsigned long long)limit->value);
			fail(s);
		}
	}
}

/* Is there a file of this name on PATH? execvpe says EACCES also for a folder on PATH that may not
 * be searched. */
static bool on_path(const char *name)
{
	const char *path = getenv("PATH");
	char file[4096];
	struct stat st;

	if (strchr(name, '/'))
		return true;
	while (path && *path) {
		int len = (int)strcspn(path, ":");

		snprintf(file, sizeof(file), "%.*s/%s", len, path, name);
		if (!stat(file, &st))
			return true;
		path += len + (path[len] == ':');
	}
	return false;
}

_Noreturn void lat_command_become(struct lat_setup *s)
{
	const char *name = s->spec->argv[0];
	int r;

	lat_stdio_clean();
	set_limits(s);
	/* On exec, not now: a failure still has to be told. */
	if (syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC)) {
		lat_setup_fail(s, -errno, "close_range");
		fail(s);
	}
	restore_signals();
	execvpe(name, s->spec->argv, environ);
	r = errno == EACCES && !on_path(name) ? -ENOENT : -errno;
	lat_setup_fail(s, r, "%.200s", name);
	s->failure.extra = r == -ENOENT || r == -ENOTDIR ? 127 : 126;
	fail(s);
}

/* kill(0, ...) reaches the whole process group, outside the pid namespace too. Where a terminal sends its signals to the group,
 * the command has to stay in it; anywhere else it gets one of its own. */
static void leave_group(void)
{
	lat_autoclose int terminal = open("/dev/tty", O_RDONLY | O_NOCTTY | O_CLOEXEC);

	if (terminal < 0 && errno == ENXIO)
		setpgid(0, 0);
}

_Noreturn void lat_command_main(struct lat_setup *s)
{
	struct lat_msg msg, ready = { .type = LAT_MSG_READY };
	int listener;

	if (lat_msg_receive(s->command, &msg, NULL, NULL)) /* the maps are written */
		_exit(125);
	if (lat_identity_drop(s))
		fail(s);
	listener = lat_filter_install(&s->filter);
	if (listener < 0) {
		lat_setup_fail(s, listener, "seccomp filter with a listener%s",
			listener == -EBUSY ? " (this process already has one: a sandbox around it?)"
					   : "");
		fail(s);
	}
	if (lat_msg_send(s->command, &ready, &listener, 1))
		_exit(125);
	close(listener);
	while (!lat_msg_receive(s->command, &msg, NULL, NULL)) {
		struct lat_msg probed = { .type = LAT_MSG_PROBED };

		if (msg.type == LAT_MSG_GO) {
			leave_group();
			lat_command_become(s);
		}
		if (msg.type != LAT_MSG_PROBE)
			continue;
		probed.value = lat_probe_run(s, &probed.extra);
		lat_msg_send(s->command, &probed, NULL, 0);
	}
	_exit(125);
}
