/* A set of descriptors with callbacks on one epoll instance, so that a subsystem with thousands of sockets is one
 * descriptor (lat_poller_fd) and one dispatch for whatever loop drives it. Level-triggered unless EPOLLET is asked for.
 * Callbacks may add and delete any item, themselves included; a deleted item gets no further callback, also not from
 * events already fetched. The poller owns neither items nor descriptors. */
#ifndef LAT_CORE_POLLER_H
#define LAT_CORE_POLLER_H
#include <stddef.h>
#include <stdint.h>

struct lat_poll_item {
	int fd;
	void (*ready)(struct lat_poll_item *item, uint32_t epoll_events);
	uint32_t events; /* as registered; poller's */
};

struct lat_poller;

int lat_poller_new(struct lat_poller **out);
void lat_poller_free(struct lat_poller *poller); /* NULL is fine */
int lat_poller_fd(const struct lat_poller *poller);
/* item->fd and item->ready must be set. 0 or negative errno. */
int lat_poller_add(struct lat_poller *poller, struct lat_poll_item *item, uint32_t epoll_events);
int lat_poller_change(struct lat_poller *poller, struct lat_poll_item *item, uint32_t epoll_events);
/* Makes the kernel look again: an edge-triggered item that is still ready gets another callback, behind the others. */
int lat_poller_rearm(struct lat_poller *poller, struct lat_poll_item *item);
/* Like del, for a descriptor that the caller closes right away (close unregisters it if there is no duplicate). */
void lat_poller_forget(struct lat_poller *poller, struct lat_poll_item *item);
/* Before the descriptor is closed. Safe on an item that was never added. */
void lat_poller_del(struct lat_poller *poller, struct lat_poll_item *item);
/* Runs at most `budget` callbacks, waiting at most timeout_ms (-1: for ever, 0: not). Returns how many ran, or negative
 * errno (-EINTR included). */
int lat_poller_dispatch(struct lat_poller *poller, int budget, int timeout_ms);

#endif
