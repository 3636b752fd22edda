/* Network devices, their addresses, and routes, of one network namespace: a netlink socket of its own (libnl-route).
 *
 * Every call is a question and its answer, which the kernel gives at once; nothing here waits for anything else. What
 * changes by itself comes from a watch: its descriptor is readable, and dispatch hands out what happened. */
#ifndef LAT_KERNEL_LINK_H
#define LAT_KERNEL_LINK_H
#include "base/addr.h"
#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

struct lat_links;

/* fd: a netlink route socket (lat_netns_socket), taken also on failure; -1: one of this process's namespace. */
int lat_links_open(int fd, struct lat_links **out);
void lat_links_close(struct lat_links *links); /* NULL is fine */

/* A name that the kernel takes for a device as it is: 1 to 15 bytes, no '/', ':', '%', space or control character, not "."
 * or "..". */
bool lat_link_name_ok(const char *name);

struct lat_link {
	char name[IFNAMSIZ];
	char kind[16];   /* "veth", "tun", "wireguard" ...; "" for hardware and loopback */
	char alias[256]; /* text that somebody attached to it, or "" */
	char mac[18];    /* "02:00:00:00:00:01", or "" */
	char qdisc[16];
	uint32_t index, mtu;
	bool up, running; /* set up; and able to carry packets */
};
typedef void lat_link_fn(void *ctx, const struct lat_link *link);

int lat_link_list(struct lat_links *links, lat_link_fn *fn, void *ctx);
/* -ENODEV when there is none. */
int lat_link_get(struct lat_links *links, const char *name, struct lat_link *out);

/* What lat_link_set changes; zeroed: nothing. */
struct lat_link_change {
	bool set_up, up;
	uint32_t mtu;       /* 0: as it is */
	const char *rename; /* NULL: as it is */
	const char *alias;  /* NULL: as it is */
	int netns;          /* 0: stays; else the descriptor of the namespace that it goes to */
};
int lat_link_set(struct lat_links *links, uint32_t index, const struct lat_link_change *change);
/* A device of a kind without settings of its own: "dummy", "bridge", "ifb", "wireguard" ... -EEXIST when the name is taken,
 * -EOPNOTSUPP when this kernel has no such kind. */
int lat_link_add(struct lat_links *links, const char *kind, const char *name);
/* A pair; the peer in namespace `netns` (0: this one). */
int lat_link_add_veth(struct lat_links *links, const char *name, const char *peer, int netns);
int lat_link_delete(struct lat_links *links, uint32_t index);

/* Addresses: "10.42.0.1/24" is an address with the length of its network. */
struct lat_link_address {
	struct lat_addr addr;
	uint8_t family, len; /* 4 or 6 */
	uint32_t index;      /* device */
	bool tentative;      /* IPv6: not usable yet */
};
typedef void lat_link_address_fn(void *ctx, const struct lat_link_address *address);

/* Parses it. 0; -EINVAL: no address; -ERANGE: a length beyond the family. *out is untouched on failure. */
int lat_link_address_parse(const char *text, struct lat_link_address *out);
int lat_link_address_list(struct lat_links *links, lat_link_address_fn *fn, void *ctx);
/* IPv6 addresses are usable at once (no duplicate detection): on a tunnel nobody else could have them. */
int lat_link_address_add(struct lat_links *links, const struct lat_link_address *address);
int lat_link_address_delete(struct lat_links *links, const struct lat_link_address *address);

struct lat_link_route {
	struct lat_prefix to;
	uint32_t index;  /* device; 0: none */
	struct lat_addr via;
	bool has_via;
	uint32_t metric; /* 0: the kernel's choice */
	uint32_t table;  /* 0: main */
	uint8_t protocol; /* who made it: RTPROT_STATIC when 0 is given */
};
typedef void lat_link_route_fn(void *ctx, const struct lat_link_route *route);

/* The routes to networks and hosts of all tables but "local". */
int lat_link_route_list(struct lat_links *links, lat_link_route_fn *fn, void *ctx);
int lat_link_route_add(struct lat_links *links, const struct lat_link_route *route, bool replace);
int lat_link_route_delete(struct lat_links *links, const struct lat_link_route *route);

struct lat_link_qdisc {
	uint32_t index, handle, parent;
	char kind[16];
};
typedef void lat_link_qdisc_fn(void *ctx, const struct lat_link_qdisc *qdisc);

int lat_link_qdisc_list(struct lat_links *links, lat_link_qdisc_fn *fn, void *ctx);
/* The hook for programs on the way in and out. add: -EEXIST when it is there. */
int lat_link_clsact(struct lat_links *links, uint32_t index, bool add);

/* ---- changes ---- */

struct lat_link_event {
	enum { LAT_LINK_EVENT_LINK, LAT_LINK_EVENT_ADDRESS, LAT_LINK_EVENT_ROUTE, LAT_LINK_EVENT_RESYNC, LAT_LINK_EVENT_COUNT } what;
	bool gone; /* removed; else made or changed */
	/* RESYNC: the kernel had more to say than the socket holds; ask for everything again. The rest is unset then. */
	struct lat_link link;            /* LINK: name, index, mtu, up, running */
	struct lat_link_address address; /* ADDRESS */
	struct lat_link_route route;     /* ROUTE */
};
typedef void lat_link_event_fn(void *ctx, const struct lat_link_event *event);
struct lat_link_watch;

/* fd as for lat_links_open. buffer: bytes that may wait, 0 for a megabyte. */
int lat_link_watch_open(int fd, uint32_t buffer, struct lat_link_watch **out);
void lat_link_watch_close(struct lat_link_watch *watch); /* NULL is fine */
int lat_link_watch_fd(const struct lat_link_watch *watch);
/* Hands out what is there, at most about `budget` events. 0, or negative errno. */
int lat_link_watch_dispatch(struct lat_link_watch *watch, unsigned budget, lat_link_event_fn *fn, void *ctx);

#endif
