/* The launch of preload mode: a child in the caller's own namespaces, which waits for the word and becomes the command.
 * Nothing is around it but NO_NEW_PRIVS, so that no set-user-ID program drops the library. */
#include "base/mem.h"
#include "launcher/setup.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

extern char **environ;

_Noreturn static void wait_and_become(struct lat_setup *s)
{
	struct lat_msg msg;

	if (s->spec->environment)
		environ = s->spec->environment;
	while (!lat_msg_receive(s->command, &msg, NULL, NULL))
		if (msg.type == LAT_MSG_GO)
			lat_command_become(s);
	_exit(125);
}

int lat_launch_plain(struct lat_setup *s, struct lat_sandbox *out)
{
	struct lat_sandbox sandbox = { -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, true };
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return lat_setup_fail(s, -errno, "socketpair");
	sandbox.init = fork();
	if (sandbox.init == 0) {
		close(pair[0]);
		s->command = pair[1];
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
			_exit(125);
		wait_and_become(s);
	}
	r = sandbox.init < 0 ? lat_setup_fail(s, -errno, "fork") : 0;
	close(pair[1]);
	sandbox.control = pair[0];
	if (!r) {
		sandbox.pidfd = (int)syscall(SYS_pidfd_open, sandbox.init, 0);
		if (sandbox.pidfd < 0 || fcntl(sandbox.control, F_SETFL, O_NONBLOCK))
			r = lat_setup_fail(s, -errno, "pidfd_open");
	}
	if (!r && s->spec->place) {
		char say[256] = "";

		r = s->spec->place(s->spec->place_ctx, sandbox.init, say);
		if (r)
			lat_setup_fail(s, r, "cgroup: %s", say);
	}
	if (r) {
		close(sandbox.control); /* the child ends by that */
		lat_close(&sandbox.pidfd);
		if (sandbox.init > 0)
			waitpid(sandbox.init, NULL, 0);
		return r;
	}
	*out = sandbox;
	return 0;
}

int lat_launch_status(struct lat_sandbox *sandbox)
{
	siginfo_t info = { .si_pid = 0 };

	if (!sandbox->plain || sandbox->init <= 0 ||
		waitid(P_PIDFD, (id_t)sandbox->pidfd, &info, WEXITED | WNOHANG) || !info.si_pid)
		return -1;
	sandbox->init = -1;
	return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}
