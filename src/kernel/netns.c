/* See netns.h. Entering changes the whole process (a user namespace is not a thread's), so it is always a child that
 * enters; what it makes comes back as a descriptor over a socket pair. */
#include "kernel/netns.h"
#include "base/mem.h"
#include "kernel/caps.h"
#include "kernel/fdpass.h"
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
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

struct dump {
	void (*fn)(void *ctx, const struct lat_netns_link *link);
	void *ctx;
};

static int one_link(const struct nlmsghdr *h, void *arg)
{
	const struct ifinfomsg *info = mnl_nlmsg_get_payload(h);
	struct lat_netns_link link = { .index = (uint32_t)info->ifi_index, .up = info->ifi_flags & IFF_UP };
	const struct dump *dump = arg;
	const struct nlattr *a;

	if (h->nlmsg_type != RTM_NEWLINK)
		return MNL_CB_OK;
	mnl_attr_for_each(a, h, sizeof(*info)) {
		if (mnl_attr_get_type(a) == IFLA_IFNAME && mnl_attr_validate(a, MNL_TYPE_STRING) >= 0)
			snprintf(link.name, sizeof(link.name), "%s", mnl_attr_get_str(a));
		else if (mnl_attr_get_type(a) == IFLA_MTU && mnl_attr_validate(a, MNL_TYPE_U32) >= 0)
			link.mtu = mnl_attr_get_u32(a);
	}
	dump->fn(dump->ctx, &link);
	return MNL_CB_OK;
}

int lat_netns_links(const struct lat_netns *ns, void (*fn)(void *ctx, const struct lat_netns_link *link), void *ctx)
{
	lat_autoclose int fd = lat_netns_socket(ns, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	char buf[16384] __attribute__((aligned(8)));
	struct dump dump = { fn, ctx };
	struct ifinfomsg *info;
	struct nlmsghdr *h;
	int r = MNL_CB_OK;

	if (fd < 0)
		return fd;
	h = mnl_nlmsg_put_header(buf);
	h->nlmsg_type = RTM_GETLINK;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	h->nlmsg_seq = 1;
	info = mnl_nlmsg_put_extra_header(h, sizeof(*info));
	info->ifi_family = AF_UNSPEC;
	if (fcntl(fd, F_SETFL, 0) < 0 || send(fd, h, h->nlmsg_len, 0) < 0)
		return -errno;
	while (r > MNL_CB_STOP) {
		ssize_t n = recv(fd, buf, sizeof(buf), 0);

		if (n < 0)
			return -errno;
		r = mnl_cb_run(buf, (size_t)n, 1, 0, one_link, &dump);
	}
	return r < 0 ? -errno : 0;
}
