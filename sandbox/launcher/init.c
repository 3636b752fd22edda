/* pid 1 of the sandbox: prepares it as a list of steps, starts the command's process, then serves
 * the supervisor, reaps, and ends with the command, whereupon the kernel kills whatever is left
 * inside.
 *
 * It dies with the supervisor (parent-death signal, and the end of the control socket), and the
 * sandbox with it. */
#include "base/mem.h"
#include "launcher/setup.h"
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define OOM_FILE "/proc/self/oom_score_adj"

static int die_with_supervisor(struct lat_setup *s)
{
	struct pollfd p = { s->control, 0, 0 };

	if (prctl(PR_SET_PDEATHSIG, SIGKILL))
		return lat_setup_fail(s, -errno, "prctl(PR_SET_PDEATHSIG)");
	/* It may have died before that call. */
	if (poll(&p, 1, 0) > 0)
		_exit(125);
	return 0;
}

static int open_root(struct lat_setup *s)
{
	s->given[LAT_GIVEN_ROOT] = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return s->given[LAT_GIVEN_ROOT] < 0 ? lat_setup_fail(s, -errno, "opening /") : 0;
}

/* Without memory, the first to go. Whoever has raised that may lower it to what it was: the command inherits it, init does
 * not keep it. */
static int offer_to_oom(char was[16])
{
	lat_autoclose int fd = open(OOM_FILE, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, was, 15);

	if (n <= 0)
		return -errno;
	was[n] = '\0';
	return lat_write_file(OOM_FILE, "1000");
}

/* Starts the command's process in a user namespace of its own and takes its seccomp listener. */
static int start_command(struct lat_setup *s)
{
	struct lat_msg msg = { .type = LAT_MSG_GO };
	size_t n = 1;
	int pair[2], r;
	char was[16];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return lat_setup_fail(s, -errno, "socketpair");
	r = s->spec->oom_first ? offer_to_oom(was) : 0;
	if (r)
		return lat_setup_fail(s, r, OOM_FILE);
	s->command_pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, 0);
	if (s->command_pid < 0)
		return lat_setup_fail(
			s, -errno, "user namespace of the command (a second one below the first)");
	if (s->command_pid == 0) {
		s->command = pair[1];
		close(pair[0]);
		lat_command_main(s);
	}
	s->command = pair[0];
	close(pair[1]);
	if (s->spec->oom_first)
		lat_write_file(OOM_FILE, was);
	r = lat_identity_inner(s, s->command_pid);
	if (!r)
		r = lat_msg_send(s->command, &msg, NULL, 0);
	if (!r)
		r = lat_msg_receive(s->command, &msg, &s->given[LAT_GIVEN_NOTIFY], &n);
	if (r)
		return s->failure.type ? r
				       : lat_setup_fail(s, r, "the command's process ended early");
	if (msg.type == LAT_MSG_FAILED || n != 1) {
		s->failure = msg;
		return -EPROTO;
	}
	return 0;
}

/* Where init is now is the root of what the sandbox knows of cgroups. */
static int enter_cgroup_namespace(struct lat_setup *s)
{
	if (s->spec->place && unshare(CLONE_NEWCGROUP))
		return lat_setup_fail(s, -errno, "cgroup namespace");
	return 0;
}

static const struct {
	int (*run)(struct lat_setup *);
	bool trap; /* not in the host's network */
} steps[] = {
	{ lat_identity_outer, false },
	{ die_with_supervisor, false },
	{ enter_cgroup_namespace, false },
	{ lat_network_up, true },
	{ lat_sockets_open, true },
	{ lat_trap_install, true },
	{ lat_network_sysctls, true },
	{ lat_mounts_set, false },
	{ open_root, false },
	{ start_command, false },
};

static int report_ready(struct lat_setup *s)
{
	struct lat_msg ready = { .type = LAT_MSG_READY };
	int fds[LAT_GIVEN_COUNT], r;
	size_t count = 0;

	for (size_t i = 0; i < LAT_GIVEN_COUNT; i++) {
		if (s->given[i] < 0)
			continue;
		fds[count++] = s->given[i];
		ready.extra |= 1u << i;
	}
	memcpy(ready.text, s->warning, sizeof(ready.text));
	r = lat_msg_send(s->control, &ready, fds, count);
	for (size_t i = 0; i < count; i++)
		close(fds[i]);
	return r;
}

static void give_sockets(struct lat_setup *s, int wanted)
{
	struct lat_msg msg = { .type = LAT_MSG_SOCKETS };
	int fds[LAT_MSG_MAX_FDS];
	size_t count = 0;

	while (wanted-- > 0 && count < LAT_MSG_MAX_FDS) {
		int fd = lat_sockets_udp(s->ipv6);

		if (fd < 0) {
			msg.value = -fd;
			break;
		}
		fds[count++] = fd;
	}
	lat_msg_send(s->control, &msg, fds, count);
	for (size_t i = 0; i < count; i++)
		close(fds[i]);
}

static void obey(struct lat_setup *s)
{
	struct lat_msg msg;

	if (lat_msg_receive(s->control, &msg, NULL, NULL))
		_exit(125); /* the supervisor is gone */
	switch (msg.type) {
	case LAT_MSG_PROBE:
	case LAT_MSG_GO:
		lat_msg_send(s->command, &msg, NULL, 0);
		break;
	case LAT_MSG_SIGNAL:
		kill(s->command_pid, msg.value);
		break;
	case LAT_MSG_WANT:
		give_sockets(s, msg.value);
		break;
	}
}

/* Word from the command's process; its end means that it has become the command. */
static void pass_on(struct lat_setup *s)
{
	struct lat_msg msg;
	int r = lat_msg_receive(s->command, &msg, NULL, NULL);

	if (r)
		msg = (struct lat_msg){ .type = LAT_MSG_EXECED, .value = s->command_pid };
	lat_msg_send(s->control, &msg, NULL, 0);
	if (msg.type == LAT_MSG_FAILED)
		_exit(125);
	if (r)
		lat_close(&s->command);
}

static void reap(struct lat_setup *s, int signals)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;

	if (read(signals, &info, sizeof(info)) < 0 && errno != EAGAIN)
		_exit(125);
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		struct lat_msg msg = { .type = LAT_MSG_EXIT };

		if (pid != s->command_pid)
			continue;
		msg.value = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
		lat_msg_send(s->control, &msg, NULL, 0);
		_exit(0);
	}
}

_Noreturn static void serve(struct lat_setup *s, int signals)
{
	for (;;) {
		struct pollfd p[] = { { s->control, POLLIN, 0 }, { s->command, POLLIN, 0 },
			{ signals, POLLIN, 0 } };

		if (poll(p, LAT_ARRAY_SIZE(p), -1) < 0 && errno != EINTR)
			_exit(125);
		if (p[0].revents)
			obey(s);
		if (p[1].revents)
			pass_on(s);
		if (p[2].revents)
			reap(s, signals);
	}
}

/* init keeps nothing of the caller's open: a reader of the command's output must see its end. */
static void let_go_of_stdio(void)
{
	lat_autoclose int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int fd = 0; fd < 3; fd++)
		if (null < 0 || dup2(null, fd) < 0)
			close(fd);
}

_Noreturn void lat_init_main(struct lat_setup *s)
{
	struct lat_msg msg;
	sigset_t all;
	int signals, r = 0;

	prctl(PR_SET_NAME, "lattice-init");
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	/* Nothing of the supervisor's comes along. */
	syscall(SYS_close_range, 3, s->control - 1, 0);
	syscall(SYS_close_range, s->control + 1, ~0U, 0);
	if (lat_setup_waits(s))
		r = lat_msg_receive(s->control, &msg, NULL, NULL);
	for (size_t i = 0; i < LAT_ARRAY_SIZE(steps) && !r; i++)
		if (!steps[i].trap || s->spec->network == LAT_NETWORK_TRAP)
			r = steps[i].run(s);
	sigemptyset(&all);
	sigaddset(&all, SIGCHLD);
	signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
	if (!r && signals < 0)
		r = lat_setup_fail(s, -errno, "signalfd");
	if (!r && prctl(PR_SET_DUMPABLE, 0))
		r = lat_setup_fail(s, -errno, "prctl(PR_SET_DUMPABLE)");
	if (!r)
		r = report_ready(s);
	if (r) {
		lat_msg_send(s->control, &s->failure, NULL, 0);
		_exit(125);
	}
	let_go_of_stdio();
	serve(s, signals);
}
