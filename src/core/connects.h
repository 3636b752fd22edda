/* seccomp notifications of connect(2): who connects, early refusals, and AF_UNIX by mediation.
 *
 * The wall is elsewhere (the trap namespace); this gives the errno at once and the caller's identity. No call is ever
 * answered with CONTINUE: the supervisor takes its own duplicate of the socket (pidfd_getfd), copies the address once,
 * decides on the copy, and makes the call itself on the duplicate without blocking (a blocking caller waits in its
 * notification until the socket is connected). A race on the caller's memory or descriptor table gains nothing. */
#ifndef LAT_CORE_CONNECTS_H
#define LAT_CORE_CONNECTS_H
#include "core/poller.h"
#include "core/record.h"

struct lat_connects;

struct lat_connects_hooks {
	void *ctx;
	/* A TCP connect to flow->remote is about to be made. 0: go on (the wall judges the packet); else the errno (positive)
	 * with which the call fails now. The hook writes the audit record of a refusal. Not called for UDP, nor for the
	 * sandbox's own addresses (loopback, zero, LAT_TRAP_ADDR*): those stay inside or are the wall's to judge. */
	int (*tcp)(void *ctx, const struct lat_flow *flow, const struct lat_identity *who);
	/* Kernel mode, in place of `tcp` and `dial`: a TCP or UDP connect, loopback too. As `tcp`; -EINPROGRESS: the call is held
	 * until lat_connects_answered(id). */
	int (*ask)(void *ctx, uint64_t id, const struct lat_flow *flow, const struct lat_identity *who);
	/* Kernel mode, where the namespace of `diag` is not the sandbox's alone: is the listening unix socket with this inode
	 * number ("socket:[N]") held by a process of the sandbox, and by nobody's choice but its own? NULL: `diag` tells. */
	bool (*inside)(void *ctx, uint32_t inode);
	/* In place of `tcp`, for a socket that is new and unbound: may also dial flow->remote (loopback ones too) before the call
	 * is made. *id not 0: it did, and `connected` follows; *ready: the far end has accepted. May be NULL, with `connected`. */
	int (*dial)(void *ctx, const struct lat_flow *flow, const struct lat_identity *who, uint64_t *id, bool *ready);
	/* The call was made from this address; local NULL: it failed. */
	void (*connected)(void *ctx, uint64_t id, const struct lat_addr *local, uint16_t sport);
	/* A connect to a unix socket that nobody inside has bound. true: allowed by a unix rule. `path` is where the file is
	 * now: the program may have renamed or linked it there. `bound` is the path that its listener was bound to, which the
	 * program cannot choose; "" if nobody in the supervisor's network namespace listens. */
	bool (*unix_path)(void *ctx, const char *path, const char *bound, dev_t dev, ino_t ino,
		const struct lat_identity *who);
	/* A TCP connect is under way: its SYN is in the queue. What can be judged and dialled at once may be done now, so
	 * that the call needs no wait of its own. May be NULL. */
	void (*started)(void *ctx);
	/* A call was refused with err before anything could be judged (the caller's memory or socket cannot be had, a table
	 * is full): `what` says why. For the audit. May be NULL. */
	void (*failed)(void *ctx, const char *what, int err, const struct lat_identity *who);
};

struct lat_connects_options {
	struct lat_poller *poller;
	const struct lat_connects_hooks *hooks; /* not copied */
	int notify, diag, root;                 /* from struct lat_sandbox; not owned */
};

int lat_connects_new(const struct lat_connects_options *options, struct lat_connects **out);
void lat_connects_free(struct lat_connects *connects);
/* The answer to a call that `ask` held: 0, it is made now; else its errno. Unknown ids are ignored. */
void lat_connects_answered(struct lat_connects *connects, uint64_t id, int error);
/* Who opened the flow: from a notification seen before (protocol and source port), else from the namespace's socket
 * table and /proc. false: unknown (who is zeroed). */
bool lat_connects_identify(struct lat_connects *connects, const struct lat_flow *flow, struct lat_identity *who);
/* Retries and time-outs: call about every 10 ms while lat_connects_busy says so, else with the general tick. */
void lat_connects_tick(struct lat_connects *connects, uint64_t now_ns);
bool lat_connects_busy(const struct lat_connects *connects);

struct lat_connects_stats { uint64_t notified, refused, unix_inside, unix_refused, gone, errors; };
void lat_connects_get_stats(const struct lat_connects *connects, struct lat_connects_stats *out);

#endif
