/* See netns.h. Entering changes the whole process (a user namespace is not a thread's), so it is always a child that
 * enters; what it makes comes back as a descriptor over a socket pair. */
#include "kernel/netns.h"
#include "base/mem.h"
#include "kernel/caps.h"
#include "kernel/fdpass.h"
#include <fcntl.h>
#include <net/if.h>
#include <netlink/netlink.h>
#include <netlink/route/link.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

struct lat_netns {
	int user, net;
};

static void reap(pid_t pid)
{
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
	}
}

/* ---- making ---- */

static int lo_up(void)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	lat_autoclose int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	return fd < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr) < 0 ? -errno : 0;
}

static int send_namespace(int sock, const char *path)
{
	lat_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);

	return lat_fd_send(sock, fd, fd < 0 ? -errno : 0);
}

static int make(int sock)
{
	int r = lat_cap_enter(CLONE_NEWNET);

	if (r == 0)
		r = lo_up();
	if (r < 0)
		return lat_fd_send(sock, -1, r);
	r = send_namespace(sock, "/proc/self/ns/user");
	return r < 0 ? r : send_namespace(sock, "/proc/self/ns/net");
}

int lat_netns_open(struct lat_netns **out)
{
	lat_autofree struct lat_netns *ns = NULL;
	lat_autoclose int user = -1, net = -1;
	int pair[2], r = 0;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	pid = fork();
	if (pid == 0) {
		close(pair[0]);
		_exit(make(pair[1]) < 0);
	}
	if (pid < 0)
		r = -errno;
	close(pair[1]);
	if (pid > 0) {
		user = lat_fd_receive(pair[0]);
		net = user < 0 ? user : lat_fd_receive(pair[0]);
		r = net < 0 ? net : 0;
		reap(pid);
	}
	close(pair[0]);
	if (r < 0)
		return r;
	ns = calloc(1, sizeof(*ns));
	if (!ns)
		return -ENOMEM;
	ns->user = lat_take_fd(&user);
	ns->net = lat_take_fd(&net);
	*out = lat_take(&ns);
	return 0;
}

void lat_netns_close(struct lat_netns *ns)
{
	if (!ns)
		return;
	close(ns->user);
	close(ns->net);
	free(ns);
}

int lat_netns_fd(const struct lat_netns *ns)
{
	return ns->net;
}

/* ---- using ---- */

pid_t lat_netns_fork(const struct lat_netns *ns, int (*fn)(void *ctx), void *ctx)
{
	pid_t pid = fork();

	if (pid < 0)
		return -errno;
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (setns(ns->user, CLONE_NEWUSER) < 0 || setns(ns->net, CLONE_NEWNET) < 0)
			_exit(125);
		_exit(fn(ctx));
	}
	return pid;
}

struct wanted {
	int family, type, protocol, sock;
};

static int make_socket(void *ctx)
{
	const struct wanted *w = ctx;
	int fd = socket(w->family, w->type | SOCK_CLOEXEC | SOCK_NONBLOCK, w->protocol);

	return lat_fd_send(w->sock, fd, fd < 0 ? -errno : 0) < 0;
}

int lat_netns_socket(const struct lat_netns *ns, int family, int type, int protocol)
{
	struct wanted wanted = { family, type, protocol, -1 };
	int pair[2], r;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	wanted.sock = pair[1];
	pid = lat_netns_fork(ns, make_socket, &wanted);
	close(pair[1]);
	r = pid < 0 ? pid : lat_fd_receive(pair[0]);
	close(pair[0]);
	if (pid > 0)
		reap(pid);
	return r;
}

static void each_link(struct nl_cache *cache, void (*fn)(void *ctx, const struct lat_netns_link *link), void *ctx)
{
	for (struct nl_object *o = nl_cache_get_first(cache); o; o = nl_cache_get_next(o)) {
		struct rtnl_link *l = (struct rtnl_link *)o;
		struct lat_netns_link link = { .index = (uint32_t)rtnl_link_get_ifindex(l),
			.mtu = rtnl_link_get_mtu(l), .up = rtnl_link_get_flags(l) & IFF_UP };

		snprintf(link.name, sizeof(link.name), "%s", rtnl_link_get_name(l));
		fn(ctx, &link);
	}
}

int lat_netns_links(const struct lat_netns *ns, void (*fn)(void *ctx, const struct lat_netns_link *link), void *ctx)
{
	lat_autoclose int fd = lat_netns_socket(ns, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	struct nl_sock *sk;
	struct nl_cache *cache;
	int r = -EIO;

	if (fd < 0)
		return fd;
	if (fcntl(fd, F_SETFL, 0) < 0)
		return -errno;
	sk = nl_socket_alloc();
	if (!sk)
		return -ENOMEM;
	if (nl_socket_set_fd(sk, NETLINK_ROUTE, fd) == 0) {
		lat_take_fd(&fd); /* nl_socket_free closes it */
		if (rtnl_link_alloc_cache(sk, AF_UNSPEC, &cache) == 0) {
			each_link(cache, fn, ctx);
			nl_cache_free(cache);
			r = 0;
		}
	}
	nl_socket_free(sk);
	return r;
}
