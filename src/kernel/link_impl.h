/* What link.c, link_address.c and link_watch.c share. */
#ifndef LAT_KERNEL_LINK_IMPL_H
#define LAT_KERNEL_LINK_IMPL_H
#include "kernel/link.h"
#include <netlink/addr.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>

struct lat_links {
	struct nl_sock *sk;
	int error; /* what the kernel answered last, negative errno: libnl keeps only a rough class of it */
};

/* A connected route socket on fd (taken; -1: a new one). */
int lat_links_socket(int fd, struct nl_sock **out);
/* Of a libnl result: 0, or the negative errno that the kernel gave, or the nearest one. */
int lat_links_result(struct lat_links *links, int nl);

typedef int lat_links_each(struct lat_links *links, const struct nlmsghdr *h, void *arg);
/* Sends a dump request (header of `size` bytes behind the netlink header) and calls each for every answer. Once more when
 * the kernel says that something changed in between, up to a bound: entries may come twice then, so `again` is called first. */
int lat_links_dump(struct lat_links *links, int type, const void *header, size_t size, lat_links_each *each, void *arg);
/* Sends one request and waits for the kernel's word on it. The message is taken. */
int lat_links_do(struct lat_links *links, struct nl_msg *msg);

/* Decoders of one message; false: not of this kind or malformed. */
bool lat_link_decode(const struct nlmsghdr *h, struct lat_link *out);
bool lat_link_decode_address(const struct nlmsghdr *h, struct lat_link_address *out);
bool lat_link_decode_route(const struct nlmsghdr *h, struct lat_link_route *out);

#endif
