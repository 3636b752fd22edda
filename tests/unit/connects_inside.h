/* The stage of test_connects.c: a child with trapped connect(2) in namespaces of its own, and the parent's loop. */
#ifndef LAT_TEST_CONNECTS_INSIDE_H
#define LAT_TEST_CONNECTS_INSIDE_H
#include "base/clock.h"
#include "base/mem.h"
#include "core/connects.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <cmocka.h>

#define ALIAS "198.51.100.7" /* on lo of the child's namespace */
#define REFUSED_PORT 7777
#define HELD_PORT 7778
#define T(f) cmocka_unit_test_setup_teardown(f, prepare, clean)

/* In the child: no cmocka there. */
#define CHECK(x)                                                                                   \
	do {                                                                                       \
		errno = 0;                                                                         \
		if (!(x)) {                                                                        \
			fprintf(stderr, "inside, line %d: %s (errno %d)\n", __LINE__, #x, errno);   \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

static struct {
	/* set before run() */
	void (*when_said)(void);
	bool tell_when_busy; /* the child hears when a call begins to wait, */
	int tell_after;      /* once it has said so many numbers: an earlier call may have waited, too */
	char allow[128];     /* outside socket that a rule names */
	bool kernel;         /* the hooks of kernel mode: `ask` holds what goes to HELD_PORT, nothing is `inside` but the child's */
	int answer;          /* to what is held */
	/* the stage */
	char dir[64], outside[128];
	int host_socket, out_listener;
	int control[2];
	struct lat_connects *connects;
	/* what came of it */
	pid_t child;
	int asked, failed, reached;
	bool still_busy;
	uint64_t held;       /* the question that waits for its answer */
	struct lat_flow flow;
	struct lat_identity who;
	char path[1100], bound[128];
	uint16_t said[8];
	int said_count;
	uint64_t longest_ns;
	struct lat_connects_stats stats;
} sup;

static inline void say(uint16_t a, uint16_t b)
{
	uint16_t two[2] = { a, b };

	CHECK(write(sup.control[1], two, sizeof(two)) == sizeof(two));
}

static inline void hear(void)
{
	char c;

	CHECK(read(sup.control[1], &c, 1) == 1);
}

static int hook_tcp(void *ctx, const struct lat_flow *flow, const struct lat_identity *who)
{
	if (flow->dport == REFUSED_PORT) {
		sup.asked++;
		sup.flow = *flow;
		sup.who = *who;
		return ENETUNREACH;
	}
	return 0;
}

static int hook_ask(void *ctx, uint64_t id, const struct lat_flow *flow, const struct lat_identity *who)
{
	if (flow->dport != HELD_PORT)
		return hook_tcp(ctx, flow, who);
	sup.asked++;
	sup.flow = *flow;
	sup.who = *who;
	sup.held = id;
	return -EINPROGRESS;
}

/* Does the child hold the socket? */
static bool hook_inside(void *ctx, uint32_t inode)
{
	char path[64], wanted[32], target[64];
	bool found = false;

	snprintf(wanted, sizeof(wanted), "socket:[%u]", inode);
	for (int fd = 0; fd < 64 && !found; fd++) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/%d/fd/%d", sup.child, fd);
		n = readlink(path, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = '\0';
		found = strcmp(target, wanted) == 0;
	}
	return found;
}

static bool hook_unix(void *ctx, const char *path, const char *bound, dev_t dev, ino_t ino, const struct lat_identity *who)
{
	struct stat st;

	snprintf(sup.path, sizeof(sup.path), "%s", path);
	snprintf(sup.bound, sizeof(sup.bound), "%s", bound);
	return sup.allow[0] && stat(sup.allow, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

static void hook_failed(void *ctx, const char *what, int err, const struct lat_identity *who)
{
	sup.failed++;
}

static int install_filter(void)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_connect, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = { LAT_ARRAY_SIZE(f), f };

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &p);
}

static void write_file(const char *path, const char *text)
{
	lat_autoclose int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write(fd, text, strlen(text)) < 0)
		return;
}

static int enter_namespaces(void)
{
	unsigned uid = geteuid(), gid = getegid();
	struct ifreq ifr = { .ifr_name = "lo" };
	struct sockaddr_in *sin = (struct sockaddr_in *)&ifr.ifr_addr;
	lat_autoclose int s = -1;
	char map[64];

	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
		return -errno;
	write_file("/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "%u %u 1", uid, uid);
	write_file("/proc/self/uid_map", map);
	snprintf(map, sizeof(map), "%u %u 1", gid, gid);
	write_file("/proc/self/gid_map", map);
	s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	ifr.ifr_flags = IFF_UP | IFF_RUNNING | IFF_LOOPBACK;
	if (s < 0 || ioctl(s, SIOCSIFFLAGS, &ifr) < 0)
		return -errno;
	strcpy(ifr.ifr_name, "lo:1");
	*sin = (struct sockaddr_in){ .sin_family = AF_INET };
	inet_pton(AF_INET, ALIAS, &sin->sin_addr);
	return ioctl(s, SIOCSIFADDR, &ifr) < 0 ? -errno : 0;
}

static bool can_run(void)
{
	pid_t pid = fork();
	int status = 1;

	if (pid == 0)
		_exit(enter_namespaces() < 0 || install_filter() < 0);
	waitpid(pid, &status, 0);
	return status == 0;
}

static void send_fds(int to, const int *fds, size_t n)
{
	char c = 'f', control[CMSG_SPACE(2 * sizeof(int))] = { 0 };
	struct iovec v = { &c, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = control,
		.msg_controllen = CMSG_SPACE(n * sizeof(int)) };
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);

	*h = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(n * sizeof(int)) };
	memcpy(CMSG_DATA(h), fds, n * sizeof(int));
	CHECK(sendmsg(to, &m, 0) == 1);
}

static void receive_fds(int from, int *fds, size_t n)
{
	char c, control[CMSG_SPACE(2 * sizeof(int))];
	struct iovec v = { &c, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };

	assert_int_equal(recvmsg(from, &m, MSG_CMSG_CLOEXEC), 1);
	assert_non_null(CMSG_FIRSTHDR(&m));
	memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&m)), n * sizeof(int));
}

static _Noreturn void inside(void (*play)(void))
{
	int fds[2];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	alarm(60);
	CHECK(enter_namespaces() == 0);
	fds[0] = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
	fds[1] = install_filter();
	CHECK(fds[0] >= 0 && fds[1] >= 0);
	send_fds(sup.control[1], fds, 2);
	close(fds[1]);
	hear();
	alarm(0);
	play();
	_exit(0);
}

/* One turn of the supervisor's loop, and how long it kept the loop from turning. */
static void turn(struct lat_poller *poller)
{
	struct pollfd p = { .fd = lat_poller_fd(poller), .events = POLLIN };
	uint64_t begin;

	poll(&p, 1, lat_connects_busy(sup.connects) ? 10 : 50);
	begin = lat_now_ns();
	lat_poller_dispatch(poller, 16, 0);
	lat_connects_tick(sup.connects, lat_now_ns());
	if (sup.held) {
		uint64_t id = sup.held;

		sup.held = 0;
		lat_connects_answered(sup.connects, id + 1000, EPERM); /* nobody's */
		lat_connects_answered(sup.connects, id, sup.answer);
		lat_connects_answered(sup.connects, id, EPERM); /* it was answered */
	}
	if (lat_now_ns() - begin > sup.longest_ns)
		sup.longest_ns = lat_now_ns() - begin;
}

static void listen_to_child(void)
{
	uint16_t two[2];

	if (recv(sup.control[0], two, sizeof(two), MSG_DONTWAIT) != sizeof(two))
		return;
	if (sup.said_count <= 6) {
		memcpy(&sup.said[sup.said_count], two, sizeof(two));
		sup.said_count += 2;
	}
	if (sup.when_said && (sup.said_count == 4 || two[1] == 0)) {
		sup.when_said();
		assert_int_equal(send(sup.control[0], "g", 1, MSG_NOSIGNAL), 1);
	}
}

/* Lets the child play; its exit status as a shell sees it. */
static int run(void (*play)(void))
{
	const struct lat_connects_hooks hooks = { .tcp = hook_tcp, .unix_path = hook_unix, .failed = hook_failed,
		.ask = sup.kernel ? hook_ask : NULL, .inside = sup.kernel ? hook_inside : NULL };
	struct lat_poller *poller = NULL;
	struct lat_connects_options options = { .hooks = &hooks };
	uint64_t end = lat_now_ns() + 60 * LAT_NS_PER_SEC;
	int fds[2], status = -1;
	bool told = false;

	assert_int_equal(lat_poller_new(&poller), 0);
	sup.child = fork();
	if (sup.child == 0)
		inside(play);
	receive_fds(sup.control[0], fds, 2);
	options.poller = poller;
	options.diag = fds[0];
	options.notify = fds[1];
	options.root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(lat_connects_new(&options, &sup.connects), 0);
	assert_int_equal(send(sup.control[0], "g", 1, 0), 1);
	while (waitpid(sup.child, &status, WNOHANG) == 0) {
		if (lat_now_ns() > end)
			kill(sup.child, SIGKILL);
		turn(poller);
		listen_to_child();
		if (sup.tell_when_busy && !told && sup.said_count >= sup.tell_after && lat_connects_busy(sup.connects))
			told = send(sup.control[0], "b", 1, MSG_NOSIGNAL) == 1;
	}
	for (end = lat_now_ns() + LAT_NS_PER_SEC; lat_connects_busy(sup.connects) && lat_now_ns() < end;)
		turn(poller);
	sup.still_busy = lat_connects_busy(sup.connects);
	lat_connects_get_stats(sup.connects, &sup.stats);
	while (true) {
		int fd = accept4(sup.out_listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0)
			break;
		close(fd);
		sup.reached++;
	}
	lat_connects_free(sup.connects);
	lat_poller_free(poller);
	close(fds[0]);
	close(fds[1]);
	close(options.root);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int prepare(void **state)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	memset(&sup, 0, sizeof(sup));
	strcpy(sup.dir, "/tmp/lat-connects-XXXXXX");
	if (!mkdtemp(sup.dir) || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sup.control) < 0)
		return 1;
	sup.host_socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(sup.outside, sizeof(sup.outside), "%s/outside", sup.dir);
	strcpy(a.sun_path, sup.outside);
	sup.out_listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return bind(sup.out_listener, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(sup.out_listener, 64) < 0;
}

static int clean(void **state)
{
	static const char *const names[] = { "outside", "in", "seq", "link" };
	char path[128];

	lat_close(&sup.host_socket);
	lat_close(&sup.out_listener);
	lat_close(&sup.control[0]);
	lat_close(&sup.control[1]);
	for (size_t i = 0; i < LAT_ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", sup.dir, names[i]);
		unlink(path);
	}
	return rmdir(sup.dir) < 0;
}

/* Addresses and sockets that the programs inside play with. */

static inline struct sockaddr_in loop4(uint16_t port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static inline struct sockaddr_in alias4(uint16_t port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };

	inet_pton(AF_INET, ALIAS, &a.sin_addr);
	return a;
}

static inline int listener(struct sockaddr_in *at, int backlog)
{
	int l = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t n = sizeof(*at);

	CHECK(bind(l, (void *)at, sizeof(*at)) == 0);
	CHECK(listen(l, backlog) == 0);
	CHECK(getsockname(l, (void *)at, &n) == 0);
	return l;
}

static inline int try(int fd, const void *a, socklen_t n)
{
	return connect(fd, a, n) < 0 ? errno : 0;
}

static inline int so_error(int fd)
{
	int e = -1;
	socklen_t n = sizeof(e);

	getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n);
	return e;
}

#endif
