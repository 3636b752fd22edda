/* The sockets that the supervisor gets from inside the trap. */
#include "base/mem.h"
#include "launcher/setup.h"
#include "launcher/trap.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <string.h>

#define NONBLOCK (SOCK_NONBLOCK | SOCK_CLOEXEC)
#define QUEUE_PACKETS                                                                              \
	4096u /* held at once; more are dropped. Each may be 64 KiB of the kernel's memory */
#define BACKLOG 65535

static int set(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) ? -errno : 0;
}

/* A dual-stack socket, or an IPv4 one where there is no IPv6, that may have any address. */
static int transparent(int type, bool ipv6)
{
	lat_autoclose int fd = socket(ipv6 ? AF_INET6 : AF_INET, type | NONBLOCK, 0);
	int r;

	if (fd < 0)
		return -errno;
	r = set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (!r)
		r = set(fd, SOL_IP, IP_TRANSPARENT, 1);
	if (!r && ipv6)
		r = set(fd, SOL_IPV6, IPV6_V6ONLY, 0);
	if (!r && ipv6)
		r = set(fd, SOL_IPV6, IPV6_TRANSPARENT, 1);
	return r ? r : lat_take_fd(&fd);
}

int lat_sockets_udp(bool ipv6)
{
	return transparent(SOCK_DGRAM, ipv6);
}

static int open_listener(struct lat_setup *s)
{
	struct sockaddr_in6 any6 = { .sin6_family = AF_INET6,
		.sin6_port = htons(LAT_TRAP_LISTENER_PORT) };
	struct sockaddr_in any4 = { .sin_family = AF_INET,
		.sin_port = htons(LAT_TRAP_LISTENER_PORT) };
	lat_autoclose int fd = transparent(SOCK_STREAM, s->ipv6);

	if (fd < 0)
		return fd;
	if (bind(fd, s->ipv6 ? (struct sockaddr *)&any6 : (struct sockaddr *)&any4,
		    s->ipv6 ? sizeof(any6) : sizeof(any4)) ||
		listen(fd, BACKLOG))
		return -errno;
	return lat_take_fd(&fd);
}

int lat_sockets_netlink(int protocol)
{
	lat_autoclose int fd = socket(AF_NETLINK, SOCK_RAW | NONBLOCK, protocol);
	struct sockaddr_nl local = { .nl_family = AF_NETLINK };

	if (fd < 0 || bind(fd, (struct sockaddr *)&local, sizeof(local)))
		return -errno;
	return lat_take_fd(&fd);
}

/* Binds queue 0 to the socket, whole packets. Without a reader the kernel drops what is queued. */
static int open_queue(void)
{
	lat_autoclose int fd = lat_sockets_netlink(NETLINK_NETFILTER);
	const struct nfqnl_msg_config_cmd bind_it = { .command = NFQNL_CFG_CMD_BIND };
	const struct nfqnl_msg_config_params whole = { htonl(0xffff), NFQNL_COPY_PACKET };
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	char buf[512];
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
	struct nfgenmsg *g = mnl_nlmsg_put_extra_header(h, sizeof(*g));
	ssize_t got;

	if (fd < 0)
		return fd;
	h->nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	g->res_id = htons(LAT_TRAP_QUEUE);
	mnl_attr_put(h, NFQA_CFG_CMD, sizeof(bind_it), &bind_it);
	mnl_attr_put(h, NFQA_CFG_PARAMS, sizeof(whole), &whole);
	mnl_attr_put_u32(h, NFQA_CFG_QUEUE_MAXLEN, htonl(QUEUE_PACKETS));
	if (sendto(fd, h, h->nlmsg_len, 0, (struct sockaddr *)&kernel, sizeof(kernel)) < 0)
		return -errno;
	got = recv(fd, buf, sizeof(buf), 0);
	if (got < 0)
		return -errno;
	h = (struct nlmsghdr *)buf;
	if (!mnl_nlmsg_ok(h, (int)got) || h->nlmsg_type != NLMSG_ERROR)
		return -EPROTO;
	if (((struct nlmsgerr *)mnl_nlmsg_get_payload(h))->error)
		return ((struct nlmsgerr *)mnl_nlmsg_get_payload(h))->error;
	/* A burst that does not fit is dropped packets, which TCP and programs repeat, not a
	 * failing socket. */
	set(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, 1);
	set(fd, SOL_SOCKET, SO_RCVBUF, 4 << 20);
	return lat_take_fd(&fd);
}

static int open_raw(int family)
{
	lat_autoclose int fd = socket(family, SOCK_RAW | NONBLOCK, IPPROTO_RAW);
	int r;

	if (fd < 0)
		return -errno;
	r = family == AF_INET ? set(fd, SOL_IP, IP_HDRINCL, 1) : set(fd, SOL_IPV6, IPV6_HDRINCL, 1);
	return r ? r : lat_take_fd(&fd);
}

static int open_dns(int type)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(53) };
	lat_autoclose int fd = socket(AF_INET, type | NONBLOCK, 0);

	inet_pton(AF_INET, LAT_TRAP_DNS, &at.sin_addr);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&at, sizeof(at)) ||
		(type == SOCK_STREAM && listen(fd, 128)))
		return -errno;
	return lat_take_fd(&fd);
}

int lat_sockets_open(struct lat_setup *s)
{
	const struct {
		enum lat_given which;
		const char *what;
		int fd;
	} made[] = {
		{ LAT_GIVEN_LISTENER, "transparent listener (TPROXY)", open_listener(s) },
		{ LAT_GIVEN_QUEUE, "binding netfilter queue 0 (NFQUEUE)", open_queue() },
		{ LAT_GIVEN_DIAG, "sock_diag netlink socket", lat_sockets_netlink(NETLINK_SOCK_DIAG) },
		{ LAT_GIVEN_NFT, "netfilter netlink socket", lat_sockets_netlink(NETLINK_NETFILTER) },
		{ LAT_GIVEN_RAW4, "raw socket", open_raw(AF_INET) },
		{ LAT_GIVEN_DNS_UDP, "UDP socket on " LAT_TRAP_DNS " port 53",
			open_dns(SOCK_DGRAM) },
		{ LAT_GIVEN_DNS_TCP, "TCP socket on " LAT_TRAP_DNS " port 53",
			open_dns(SOCK_STREAM) },
	};

	for (size_t i = 0; i < LAT_ARRAY_SIZE(made); i++) {
		if (made[i].fd < 0)
			return lat_setup_fail(s, made[i].fd, "trap: %s", made[i].what);
		s->given[made[i].which] = made[i].fd;
	}
	if (s->ipv6) {
		s->given[LAT_GIVEN_RAW6] = open_raw(AF_INET6);
		if (s->given[LAT_GIVEN_RAW6] < 0)
			return lat_setup_fail(s, s->given[LAT_GIVEN_RAW6], "trap: raw IPv6 socket");
	}
	return 0;
}
