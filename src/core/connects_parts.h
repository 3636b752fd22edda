/* The inside of connects: what connects.c (a notification), connects_dial.c (a flow that is dialled
 * before its call is made) and connects_wait.c (a call that must wait) share.
 *
 * The wait table has an order of states: free -> (EPOLL) | (RETRY) | (ASKED -> EPOLL) -> free. ASKED: the hook's answer is
 * awaited, the call not yet made. EPOLL: the socket connects, the poller brings
 * the end. RETRY: the backlog of a unix listener is full; the tick tries again, on the same file. Only connects_wait.c moves
 * them. */
#ifndef LAT_CORE_CONNECTS_PARTS_H
#define LAT_CORE_CONNECTS_PARTS_H
#include "core/connects.h"
#include "core/callers.h"
#include "core/guard.h"
#include <sys/socket.h>

#define LAT_CONNECTS_WAITS 512

enum lat_connects_wait_state { LAT_WAIT_FREE, LAT_WAIT_EPOLL, LAT_WAIT_RETRY, LAT_WAIT_ASKED };

struct lat_connects_wait {
	struct lat_poll_item item; /* fd: our duplicate */
	struct lat_connects *owner;
	uint64_t id;
	uint64_t asked;       /* ASKED: the question's number */
	int type;             /* of the socket */
	uint64_t deadline_ns; /* SO_SNDTIMEO; 0: none */
	int file;             /* RETRY: the listener's file */
	uint8_t state;
	uint8_t late_err;     /* errno at the deadline */
	socklen_t len;
	struct sockaddr_storage address;
};

struct lat_connects {
	struct lat_poll_item item; /* the listener of notifications */
	struct lat_poller *poller;
	const struct lat_connects_hooks *hooks;
	struct lat_callers *callers;
	struct lat_guard *guard;
	int notify, diag, root;
	int host_diag;         /* of our own namespace: tells a stale socket file from an outside socket */
	uint64_t netns_cookie; /* of the sandbox; 0: kernel before 5.14 */
	uint64_t born_ms, born_ns; /* wall and monotonic clock when the sandbox began */
	uint64_t swept_ns, retried_ns;
	struct lat_addr own4, own6;
	struct lat_connects_stats stats;
	uint64_t asked; /* questions so far: their numbers */
	unsigned busy;
	struct lat_connects_wait waits[LAT_CONNECTS_WAITS];
};

/* What one notification is about. */
struct lat_connects_request {
	uint64_t id;
	int fd; /* our duplicate */
	const struct lat_proc *task;
	struct lat_identity who;
	int domain, type, protocol;
	socklen_t len;
	struct sockaddr_storage address;
};

/* Ends the call: errno, or 0 for success. */
void lat_connects_answer(struct lat_connects *c, uint64_t id, int error);
/* Nothing could be judged: the call fails, and says so to the audit. */
void lat_connects_fail(struct lat_connects *c, struct lat_connects_request *q, int error, const char *what);
/* connect(2) without waiting, whatever mode the socket is in: to `file` when that is >= 0, else to the address. *blocking
 * tells what the caller asked for. 0 or negative errno; -EINPROGRESS also when the guard had to cut it off. */
int lat_connects_try(struct lat_connects *c, int fd, int type, const struct sockaddr_storage *to, socklen_t len,
	int file, bool *blocking);
/* connects_dial.c: makes the call of a socket that is new, the flow dialled outside before. false: such a flow is not for
 * it, nothing was done. Else *result is what the call said, as from lat_connects_try. */
bool lat_connects_dial(struct lat_connects *c, const struct lat_connects_request *q, int *result, bool *blocking);
/* The socket's own address and port. 0 or negative errno. */
int lat_connects_local(int fd, struct lat_addr *local, uint16_t *sport);
/* Addresses that mean the sandbox itself, loopback aside. */
bool lat_connects_own(const struct lat_connects *c, const struct lat_addr *a);
/* Keeps the call unanswered until it can be. Takes q->fd, and file. late_err: errno when SO_SNDTIMEO ends the wait. */
void lat_connects_wait(struct lat_connects *c, struct lat_connects_request *q, enum lat_connects_wait_state state,
	int file, int late_err);
void lat_connects_init_waits(struct lat_connects *c);
/* Answers every call that still waits. */
void lat_connects_end_waits(struct lat_connects *c);

#endif
