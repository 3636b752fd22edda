/* Changes of link.h, as the kernel tells them to its multicast groups. */
#include "base/mem.h"
#include "kernel/link_impl.h"
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>

struct lat_link_watch {
	struct nl_sock *sk;
	/* The kernel's largest message to a group fits; aligned for its headers. */
	_Alignas(struct nlmsghdr) uint8_t buf[32768];
};

int lat_link_watch_open(int fd, uint32_t buffer, struct lat_link_watch **out)
{
	static const int groups[] = { RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_ROUTE,
		RTNLGRP_IPV6_ROUTE };
	lat_autofree struct lat_link_watch *watch = calloc(1, sizeof(*watch));
	int own, size = (int)(buffer ? buffer : 1u << 20), r;

	if (!watch) {
		lat_close(&fd);
		return -ENOMEM;
	}
	r = lat_links_socket(fd, &watch->sk);
	if (r < 0)
		return r;
	own = nl_socket_get_fd(watch->sk);
	if (setsockopt(own, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
		setsockopt(own, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	if (fcntl(own, F_SETFL, O_NONBLOCK) < 0)
		r = -errno;
	for (size_t i = 0; r == 0 && i < LAT_ARRAY_SIZE(groups); i++) {
		if (setsockopt(own, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &groups[i], sizeof(groups[i])) < 0)
			r = -errno;
	}
	if (r < 0) {
		nl_socket_free(watch->sk);
		return r;
	}
	*out = lat_take(&watch);
	return 0;
}

void lat_link_watch_close(struct lat_link_watch *watch)
{
	if (!watch)
		return;
	nl_socket_free(watch->sk);
	free(watch);
}

int lat_link_watch_fd(const struct lat_link_watch *watch)
{
	return nl_socket_get_fd(watch->sk);
}

static bool decode(const struct nlmsghdr *h, struct lat_link_event *event)
{
	event->gone = h->nlmsg_type == RTM_DELLINK || h->nlmsg_type == RTM_DELADDR || h->nlmsg_type == RTM_DELROUTE;
	if (lat_link_decode(h, &event->link))
		event->what = LAT_LINK_EVENT_LINK;
	else if (lat_link_decode_address(h, &event->address))
		event->what = LAT_LINK_EVENT_ADDRESS;
	else if (lat_link_decode_route(h, &event->route))
		event->what = LAT_LINK_EVENT_ROUTE;
	else
		return false;
	return true;
}

int lat_link_watch_dispatch(struct lat_link_watch *watch, unsigned budget, lat_link_event_fn *fn, void *ctx)
{
	unsigned seen = 0;

	while (seen < budget) {
		struct lat_link_event event = { 0 };
		struct sockaddr_nl from;
		struct iovec iov = { watch->buf, sizeof(watch->buf) };
		struct msghdr m = { .msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &iov, .msg_iovlen = 1 };
		ssize_t n = recvmsg(lat_link_watch_fd(watch), &m, MSG_DONTWAIT);
		struct nlmsghdr *h = (struct nlmsghdr *)watch->buf;
		int left = (int)n;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return 0;
		if (n < 0 && errno != ENOBUFS)
			return -errno;
		if (n < 0 || m.msg_flags & MSG_TRUNC) {
			event.what = LAT_LINK_EVENT_RESYNC;
			fn(ctx, &event);
			seen++;
			continue;
		}
		if (m.msg_namelen != sizeof(from) || from.nl_pid != 0)
			continue; /* not from the kernel */
		for (; nlmsg_ok(h, left); h = nlmsg_next(h, &left)) {
			memset(&event, 0, sizeof(event));
			if (!decode(h, &event))
				continue;
			fn(ctx, &event);
			seen++;
		}
	}
	return 0;
}
