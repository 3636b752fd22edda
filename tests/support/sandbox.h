/* Runs parts of a test program inside a real sandbox, with the test as its supervisor. The command
 * is the test program itself, started again as `PROGRAM --inside NAME [ARG]`; what NAME returns is
 * the exit status. As root, everything is run twice: as root, and as the user nobody. Where no
 * sandbox can be had, the program ends with 77 (skipped). */
#ifndef TESTS_SUPPORT_SANDBOX_H
#define TESTS_SUPPORT_SANDBOX_H
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "launcher/launcher.h"
#include "protocol.h"

#define BOUND_MS 20000
#define NOBODY 65534
#define GROUP_KEPT 4 /* a supplementary group of nobody in these tests */
#define FAR4 "203.0.113.9"
#define FAR6 "2001:db8::9"

struct inside {
	const char *name;
	int (*run)(const char *arg);
};

/* One run; what the supervisor of the test does, and what it saw. */
struct run {
	struct lat_launch_spec spec;
	struct lat_sandbox box;
	uint32_t mark; /* verdict of queued packets */
	int refuse;    /* errno of every connect; 0: make the connect on a duplicate */
	bool probe;    /* self-check before go */
	unsigned want; /* UDP sockets to ask for before go */
	void (*ready)(struct run *r);
	void (*accepted)(struct run *r, int fd);
	void (*packet)(struct run *r, const uint8_t *ip, size_t len);
	unsigned notified, queued, sockets;
	int pool[LAT_MSG_MAX_FDS];
	struct lat_msg probed, failed;
	int status; /* of the command; -1: it did not run */
};

static char sandbox_self[4096];

static void sandbox_notified(struct run *r)
{
	struct seccomp_notif q = { 0 };
	struct seccomp_notif_resp a = { 0 };
	struct sockaddr_storage to = { 0 };
	char path[64];
	int mem, pidfd, fd;

	if (ioctl(r->box.notify, SECCOMP_IOCTL_NOTIF_RECV, &q))
		return;
	r->notified++;
	a.id = q.id;
	a.error = -r->refuse;
	if (!r->refuse) {
		snprintf(path, sizeof(path), "/proc/%u/mem", q.pid);
		mem = open(path, O_RDONLY | O_CLOEXEC);
		pidfd = (int)syscall(SYS_pidfd_open, q.pid, 0);
		fd = (int)syscall(SYS_pidfd_getfd, pidfd, (int)q.data.args[0], 0);
		if (pread(mem, &to, (size_t)q.data.args[2], (off_t)q.data.args[1]) < 0)
			a.error = -EFAULT;
		else if (connect(fd, (struct sockaddr *)&to, (socklen_t)q.data.args[2]))
			a.error = -errno;
		close(mem);
		close(pidfd);
		close(fd);
	}
	ioctl(r->box.notify, SECCOMP_IOCTL_NOTIF_SEND, &a);
}

static void sandbox_verdict(struct run *r, uint32_t id)
{
	char buf[256];
	const struct nfqnl_msg_verdict_hdr verdict = { htonl(NF_ACCEPT), id };
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
	struct nfgenmsg *g = mnl_nlmsg_put_extra_header(h, sizeof(*g));
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };

	h->nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT;
	h->nlmsg_flags = NLM_F_REQUEST;
	mnl_attr_put(h, NFQA_VERDICT_HDR, sizeof(verdict), &verdict);
	mnl_attr_put_u32(h, NFQA_MARK, htonl(r->mark));
	sendto(r->box.queue, h, h->nlmsg_len, 0, (struct sockaddr *)&kernel, sizeof(kernel));
}

static void sandbox_queued(struct run *r)
{
	static char buf[1 << 17];
	ssize_t got = recv(r->box.queue, buf, sizeof(buf), 0);
	struct nlmsghdr *h = (struct nlmsghdr *)buf;
	const struct nlattr *attr;
	uint32_t id = 0;

	if (got <= 0 || h->nlmsg_type != (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET))
		return;
	r->queued++;
	mnl_attr_for_each(attr, h, sizeof(struct nfgenmsg))
	{
		if (mnl_attr_get_type(attr) == NFQA_PACKET_HDR)
			id = ((struct nfqnl_msg_packet_hdr *)mnl_attr_get_payload(attr))->packet_id;
		if (mnl_attr_get_type(attr) == NFQA_PAYLOAD && r->packet)
			r->packet(r, mnl_attr_get_payload(attr), mnl_attr_get_payload_len(attr));
	}
	sandbox_verdict(r, id);
}

/* False when init has gone. */
static bool sandbox_message(struct run *r)
{
	int fds[LAT_MSG_MAX_FDS];
	size_t n = LAT_MSG_MAX_FDS;
	struct lat_msg msg;
	int e = lat_launch_receive(&r->box, &msg, fds, &n);

	if (e)
		return e == -EAGAIN;
	if (msg.type == LAT_MSG_PROBED) {
		r->probed = msg;
		lat_launch_go(&r->box);
	} else if (msg.type == LAT_MSG_SOCKETS) {
		memcpy(r->pool, fds, n * sizeof(int));
		r->sockets = (unsigned)n;
		lat_launch_go(&r->box);
	} else if (msg.type == LAT_MSG_FAILED) {
		r->failed = msg;
	} else if (msg.type == LAT_MSG_EXIT) {
		r->status = msg.value;
	}
	return true;
}

static int sandbox_launch(struct run *r)
{
	struct lat_launch_error error;
	int e = lat_launch(&r->spec, &r->box, &error);

	if (e && error.missing_feature) {
		fprintf(stderr, "skipped: no sandbox here: %s\n", error.text);
		exit(77);
	}
	if (e)
		print_error("lat_launch: %s\n", error.text);
	return e;
}

/* Serves a launched sandbox until it has ended; returns the command's status. */
static int sandbox_serve(struct run *r)
{
	bool alive = true;

	r->status = -1;
	if (r->ready)
		r->ready(r);
	if (r->probe)
		lat_launch_probe(&r->box);
	else if (r->want)
		lat_launch_want_sockets(&r->box, r->want);
	else
		lat_launch_go(&r->box);
	while (alive) {
		struct pollfd p[] = { { r->box.control, POLLIN, 0 }, { r->box.notify, POLLIN, 0 },
			{ r->box.queue, POLLIN, 0 }, { r->box.listener, POLLIN, 0 } };

		if (poll(p, 4, BOUND_MS) <= 0)
			break;
		if (p[1].revents & POLLHUP)
			p[1].revents = 0;
		if (p[1].revents)
			sandbox_notified(r);
		if (p[2].revents)
			sandbox_queued(r);
		if (p[3].revents) {
			int fd = accept4(r->box.listener, NULL, NULL, SOCK_CLOEXEC);

			if (fd >= 0 && r->accepted)
				r->accepted(r, fd);
			close(fd);
		}
		if (p[0].revents)
			alive = sandbox_message(r);
	}
	for (unsigned i = 0; i < r->sockets; i++)
		close(r->pool[i]);
	lat_sandbox_close(&r->box);
	return r->status;
}

static int sandbox_run(struct run *r, const char *const argv[])
{
	r->spec.argv = (char *const *)argv;
	if (sandbox_launch(r))
		return -1;
	return sandbox_serve(r);
}

/* Runs NAME inside. */
static inline int sandbox_inside(struct run *r, const char *name, const char *arg)
{
	const char *const argv[] = { sandbox_self, "--inside", name, arg, NULL };

	return sandbox_run(r, argv);
}

static int sandbox_main(int argc, char **argv, const struct inside *table, int (*tests)(void))
{
	int status = 0;
	ssize_t n;
	pid_t pid;

	if (argc >= 3 && !strcmp(argv[1], "--inside")) {
		for (; table->name; table++)
			if (!strcmp(table->name, argv[2]))
				_exit(table->run(
					argc > 3 ? argv[3]
						 : "")); /* no leak check: it needs ptrace */
		_exit(99);
	}
	n = readlink("/proc/self/exe", sandbox_self, sizeof(sandbox_self) - 1);
	if (n <= 0)
		return 99;
	prctl(PR_SET_DUMPABLE, 0); /* as the supervisor does */
	setenv("ASAN_OPTIONS", "detect_leaks=0",
		1); /* for what runs inside: its leak check needs ptrace */
	if (geteuid())
		return tests();
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		const gid_t groups[] = { GROUP_KEPT };

		if (setgroups(1, groups) || setresgid(NOBODY, NOBODY, NOBODY) ||
			setresuid(NOBODY, NOBODY, NOBODY))
			_exit(98);
		if (access(sandbox_self, X_OK)) {
			fprintf(stderr, "skipped as nobody: %s cannot be executed\n", sandbox_self);
			_exit(0);
		}
		exit(tests());
	}
	waitpid(pid, &status, 0);
	if (!WIFEXITED(status) || (WEXITSTATUS(status) && WEXITSTATUS(status) != 77))
		fprintf(stderr, "as nobody: failed\n");
	n = tests();
	return n ? (int)n : WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

#endif
