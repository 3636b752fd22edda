/* See trap_caps.h. Each probe has a network namespace of its own, which ends with its process. */
#include "core/trap_caps.h"
#include "base/mem.h"
#include "kernel/queue.h"
#include "launcher/nft.h"
#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define PROBE_PORT 9

/* A new network namespace with its loopback up. */
static int enter(void)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	lat_autoclose int fd = -1;
	int r = lat_cap_enter(CLONE_NEWNET);

	if (r < 0)
		return r;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return fd < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr) < 0 ? -errno : 0;
}

enum what { PLAIN, QUEUE, QUEUE_COMPAT, TPROXY };

/* TCP to PROBE_PORT: accepted, queued or sent to a listener. */
static int set_rule(enum what what)
{
	static const struct lat_nft_hook hook = { NF_INET_PRE_ROUTING, -150, false };
	uint16_t port = htons(PROBE_PORT);
	lat_autoclose int fd = -1;
	struct lat_nft n = { 0 };
	int r = lat_nft_begin(&n, "probe");

	if (r < 0)
		return r;
	n.family = NFPROTO_IPV4;
	n.compat_queue = what == QUEUE_COMPAT;
	lat_nft_table(&n);
	lat_nft_chain(&n, "probe", &hook);
	lat_nft_rule(&n, "probe");
	lat_nft_l4proto(&n, IPPROTO_TCP);
	lat_nft_transport(&n, 2, 2, &port, NULL);
	if (what == PLAIN)
		lat_nft_accept(&n);
	else if (what == TPROXY)
		lat_nft_tproxy(&n, PROBE_PORT + 1);
	else
		lat_nft_queue(&n, 0);
	r = lat_nft_end(&n);
	if (r == 0) {
		fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
		r = fd < 0 ? -errno : lat_nft_send(fd, &n);
	}
	lat_nft_free(&n);
	return r;
}

static int nf_tables(char *detail, size_t size)
{
	int r = enter();

	return r < 0 ? r : set_rule(PLAIN);
}

static void count_packet(void *ctx, const struct lat_queue_packet *p)
{
	++*(int *)ctx;
}

/* Starts a connection to the rule's port; its first packet has to come out of the queue. */
static int queued(enum what what)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(PROBE_PORT),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	lat_autoclose int fd = -1, tcp = -1;
	struct lat_queue *queue;
	struct pollfd wait = { .events = POLLIN };
	uint64_t odd = 0;
	int packets = 0, r = enter();

	if (r < 0)
		return r;
	r = set_rule(what);
	if (r < 0)
		return r;
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	tcp = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 || tcp < 0)
		return -errno;
	r = lat_queue_open(fd, 0, 8, &queue);
	if (r < 0)
		return r;
	if (connect(tcp, (struct sockaddr *)&to, sizeof(to)) < 0 && errno != EINPROGRESS) {
		r = -errno;
	} else {
		wait.fd = fd;
		r = poll(&wait, 1, 1000) == 1 ? lat_queue_receive(queue, count_packet, &packets, &odd) : -ENOMSG;
	}
	lat_queue_free(queue);
	return r < 0 ? r : packets > 0 ? 0 : -ENOMSG;
}

static int queue_native(char *detail, size_t size)
{
	return queued(QUEUE);
}

static int queue_compat(char *detail, size_t size)
{
	return queued(QUEUE_COMPAT);
}

static int tproxy(char *detail, size_t size)
{
	lat_autoclose int fd = -1;
	int on = 1, r = enter();

	if (r < 0)
		return r;
	r = set_rule(TPROXY);
	if (r < 0)
		return r;
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return fd < 0 || setsockopt(fd, SOL_IP, IP_TRANSPARENT, &on, sizeof(on)) < 0 ? -errno : 0;
}

const struct lat_cap_test lat_trap_caps[] = {
	{ "nf_tables", nf_tables },
	{ "nfqueue", queue_native },
	{ "nfqueue_compat", queue_compat },
	{ "tproxy", tproxy },
	{ NULL, NULL },
};
