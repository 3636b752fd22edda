/* A trap namespace for tests of the flow engine, with the rules of the real one, and an "outside" that is the test's own
 * network namespace: nothing of the machine is touched. Where that cannot be had, the program ends with 77 (skipped).
 *
 *   outside_enter();               once, before any thread: 203.0.113.9 and 2001:db8::9 are the far hosts
 *   struct trap t; trap_open(&t);  descriptors of the sockets inside
 *   pid = trap_spawn(&t, fn, arg); fn runs inside, its result is the exit status */
#ifndef TESTS_SUPPORT_TRAP_H
#define TESTS_SUPPORT_TRAP_H
#include "launcher/trap.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define FAR4 "203.0.113.9"
#define FAR6 "2001:db8::9"
#define TRAP_POOL 24

struct trap {
	pid_t keeper;
	int control, queue, listener, raw4, raw6, userns, netns;
	int pool[TRAP_POOL];
};

static void trap_skip(const char *what)
{
	fprintf(stderr, "skipped: %s: %s\n", what, strerror(errno));
	exit(77);
}

static int trap_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), r;

	if (fd < 0)
		return -1;
	r = write(fd, text, strlen(text)) < 0 ? -1 : 0;
	close(fd);
	return r;
}

/* A new user and network namespace in which we are root. */
static int trap_unshare(void)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();
	char map[64];

	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
		return -1;
	trap_write("/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "0 %u 1", uid);
	if (trap_write("/proc/self/uid_map", map) < 0)
		return -1;
	snprintf(map, sizeof(map), "0 %u 1", gid);
	return trap_write("/proc/self/gid_map", map);
}

static void trap_tool(const char *command)
{
	if (system(command) != 0) {
		errno = 0;
		trap_skip(command);
	}
}

__attribute__((unused)) static void outside_enter(void)
{
	signal(SIGPIPE, SIG_IGN);
	if (trap_unshare() < 0)
		trap_skip("user and network namespace");
	trap_tool("ip link set lo up && ip addr add " FAR4 "/32 dev lo && ip addr add 203.0.113.10/32 dev lo && "
		  "ip -6 addr add " FAR6 "/128 dev lo nodad && "
		  "ip route add unreachable 198.51.100.0/24 && ip route add prohibit 198.51.101.0/24");
}

/* The rules of the real trap; host port 7777. */
static void trap_rules(void)
{
	static const struct lat_port_span host = { 7777, 7777, 0 };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER), r = -1;

	for (int compat = 0; r && compat < 2; compat++) {
		struct lat_nft nft;

		memset(&nft, 0, sizeof(nft));
		r = lat_trap_build(&nft, true, compat, &host, 1);
		if (!r)
			r = lat_nft_send(fd, &nft);
		lat_nft_free(&nft);
	}
	close(fd);
	errno = -r;
	if (r)
		trap_skip("rules of the trap");
}

static int trap_pass(int via, const int *fds, int count)
{
	char control[CMSG_SPACE(64 * sizeof(int))] = { 0 }, byte = 'x';
	struct iovec io = { &byte, 1 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control,
		.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
	memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)count);
	return sendmsg(via, &m, 0) == 1 ? 0 : -1;
}

static int trap_take(int via, int *fds, int count)
{
	char control[CMSG_SPACE(64 * sizeof(int))], byte;
	struct iovec io = { &byte, 1 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c;

	if (recvmsg(via, &m, MSG_CMSG_CLOEXEC) != 1)
		return -1;
	c = CMSG_FIRSTHDR(&m);
	if (!c || c->cmsg_len != CMSG_LEN(sizeof(int) * (size_t)count))
		return -1;
	memcpy(fds, CMSG_DATA(c), sizeof(int) * (size_t)count);
	return 0;
}

static void trap_keeper(int via)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons(LAT_TRAP_LISTENER_PORT) };
	int fds[4 + TRAP_POOL], on = 1, off = 0;
	char byte;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (trap_unshare() < 0)
		trap_skip("nested namespaces");
	trap_tool("ip link set lo up && ip addr add 192.0.0.2/32 dev lo && ip -6 addr add fd6c:6174:7469::2/128 dev lo nodad"
		  " && ip route add local default dev lo src 192.0.0.2 && "
		  "ip -6 route add local default dev lo src fd6c:6174:7469::2 && echo 0 0 > /proc/sys/net/ipv4/ping_group_range");
	trap_rules();
	fds[0] = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	fds[1] = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(fds[1], SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(fds[1], IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	setsockopt(fds[1], SOL_IP, IP_TRANSPARENT, &on, sizeof(on));
	setsockopt(fds[1], SOL_IPV6, IPV6_TRANSPARENT, &on, sizeof(on));
	if (bind(fds[1], (struct sockaddr *)&any, sizeof(any)) < 0 || listen(fds[1], 4096) < 0)
		trap_skip("listener");
	fds[2] = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	fds[3] = socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	for (int i = 0; i < TRAP_POOL; i++) {
		fds[4 + i] = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		setsockopt(fds[4 + i], IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
		setsockopt(fds[4 + i], SOL_IP, IP_TRANSPARENT, &on, sizeof(on));
		setsockopt(fds[4 + i], SOL_IPV6, IPV6_TRANSPARENT, &on, sizeof(on));
	}
	if (trap_pass(via, fds, 4 + TRAP_POOL) < 0)
		trap_skip("passing descriptors");
	(void)!read(via, &byte, 1); /* until the test is done or gone */
	_exit(0);
}

static int trap_ns(pid_t pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

__attribute__((unused)) static void trap_open(struct trap *t)
{
	int pair[2], fds[4 + TRAP_POOL], status;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		trap_skip("socketpair");
	fflush(NULL);
	t->keeper = fork();
	if (t->keeper == 0) {
		close(pair[0]);
		trap_keeper(pair[1]);
	}
	close(pair[1]);
	if (trap_take(pair[0], fds, 4 + TRAP_POOL) < 0) {
		waitpid(t->keeper, &status, 0);
		exit(77); /* the keeper said why */
	}
	t->control = pair[0];
	t->queue = fds[0];
	t->listener = fds[1];
	t->raw4 = fds[2];
	t->raw6 = fds[3];
	memcpy(t->pool, fds + 4, sizeof(t->pool));
	t->userns = trap_ns(t->keeper, "user");
	t->netns = trap_ns(t->keeper, "net");
}

__attribute__((unused)) static void trap_close(struct trap *t)
{
	int status;

	close(t->control);
	close(t->queue);
	close(t->listener);
	close(t->raw4);
	close(t->raw6);
	close(t->userns);
	close(t->netns);
	waitpid(t->keeper, &status, 0);
}

__attribute__((unused)) static pid_t trap_spawn(struct trap *t, int (*fn)(void *arg), void *arg)
{
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (setns(t->userns, CLONE_NEWUSER) < 0 || setns(t->netns, CLONE_NEWNET) < 0) {
		perror("setns");
		_exit(99);
	}
	_exit(fn(arg));
}

#endif
