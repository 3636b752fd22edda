/* Moves bytes between two connected TCP sockets, as if they were one connection.
 *
 * Each socket is registered once, edge-triggered; EPOLLOUT is added when a receiver is full for the first time (asked for
 * at once, it would wake us for every new connection). A direction copies while messages are small (one read
 * and one write each) and is moved through a pipe by splice while it carries bulk. What a slow reader does not take waits
 * in the direction (at most one buffer or one pipe), and the direction is not read further: back-pressure reaches the
 * sender. FIN is passed on as shutdown, RST as RST, urgent data as urgent data. */
#ifndef LAT_CORE_RELAY_H
#define LAT_CORE_RELAY_H
#include "core/poller.h"
#include <stdbool.h>

struct lat_relays; /* what all relays of one poller share: the copy buffer and the idle pipes */
struct lat_pipe;

/* side[i] -> side[!i] */
struct lat_relay_half {
	uint64_t bytes;
	char *stash;          /* read but not yet taken by the receiver */
	uint32_t stash_at, stash_size;
	struct lat_pipe *pipe; /* set: splice */
	uint16_t small;       /* small transfers in a row while spliced */
	uint8_t sends;        /* capped */
	bool blocked;         /* waits for the receiver's EPOLLOUT */
	bool ending;          /* FIN or error seen in the events: read on until it shows */
	bool urgent;          /* urgent data announced and not yet passed on */
	bool ended, shut;     /* end of stream read; passed on */
	bool broken;          /* it was the receiver that failed */
};

struct lat_relay {
	struct lat_relays *relays;
	struct lat_poll_item side[2]; /* 0: inside, 1: outside */
	struct lat_relay_half half[2];
	/* Called once, when both sockets are closed. err: 0, or the errno that reset the connection. The relay may be
	 * freed in it. */
	void (*ended)(struct lat_relay *relay, int err);
};

/* Makes the process ignore SIGPIPE if it would end by it. */
int lat_relays_new(struct lat_poller *poller, struct lat_relays **out);
void lat_relays_free(struct lat_relays *relays);
/* Takes both descriptors (nonblocking, connected) and registers each that is not yet `registered` with the poller by
 * side[i] and LAT_RELAY_EVENTS. seen: events that a registered outer side had before. The relay must be zeroed but for
 * `ended` and registered sides. It may end within this call. 0, or negative errno (both closed, `ended` not called). */
int lat_relay_start(struct lat_relays *relays, struct lat_relay *relay, const int fds[2], const bool registered[2],
	uint32_t seen);
/* Closes both sockets with RST. `ended` is not called. */
void lat_relay_abort(struct lat_relay *relay);
/* Gives idle pipes of a quiet relay back; call now and then. */
void lat_relay_relax(struct lat_relay *relay);

#define LAT_RELAY_EVENTS (EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLET)

/* So that close sends RST. */
void lat_socket_reset_on_close(int fd);

#endif
