/* The flow engine of user mode: first packets from NFQUEUE, dialling outside, and the relay of TCP, UDP and ICMP echo.
 *
 * A flow's life: QUEUED (first packet held) -> judged by hooks->judge -> ASKED (held until lat_flows_answer) or DIALLING
 * (TCP: connect outside under way; the SYN is still held, retransmissions of it are dropped) -> ACCEPTING (SYN let go
 * with LAT_MARK_ACCEPT, waiting for it in the listener) -> RELAYING -> CLOSED. A program that gave up (no SYN comes again)
 * ends its flow while it is asked or dialled. A refusal sets the mark that gives the
 * program the errno of a real network. Everything runs on one poller; nothing blocks; a full table refuses. */
#ifndef LAT_CORE_FLOWS_H
#define LAT_CORE_FLOWS_H
#include "core/flow.h"
#include "core/poller.h"

struct lat_flows;

/* An established or pending flow as others may see it. */
struct lat_flow_info {
	uint64_t id;          /* unique for the run */
	struct lat_flow flow;
	struct lat_verdict verdict; /* pointers: valid while the hook's owner keeps the generation */
	uint64_t started_ns, bytes_out, bytes_in;
	void *user;           /* set by judge through *user, handed to closed */
};

struct lat_flows_hooks {
	void *ctx;
	/* Judges a new flow. Returns 0 with *verdict filled, or 1: the answer comes by lat_flows_answer(id). *user may be
	 * set; it is handed back in `closed` exactly once for each flow whose judge call set it. */
	int (*judge)(void *ctx, uint64_t id, const struct lat_flow *flow, struct lat_verdict *verdict, void **user);
	/* The dial of an allowed flow failed with err (errno): the program sees the same. May be NULL. */
	void (*dial_failed)(void *ctx, const struct lat_flow_info *info, int err);
	/* The flow ended (also when it was refused or never came up). */
	void (*closed)(void *ctx, const struct lat_flow_info *info);
	/* The engine wants `count` more UDP sockets from inside; they come by lat_flows_add_sockets. */
	void (*want_sockets)(void *ctx, unsigned count);
};

struct lat_flows_options {
	struct lat_poller *poller;
	const struct lat_flows_hooks *hooks; /* not copied */
	int queue, listener, raw4, raw6;     /* from struct lat_sandbox; not owned */
	unsigned max_flows;                  /* 0: what RLIMIT_NOFILE allows */
	unsigned udp_idle_s;                 /* 0: 120 (RFC 4787), 30 after a single reply to port 53 */
};

/* Start the command first: SIGPIPE is ignored from here on, and a child would inherit that. Hooks must not call back into
 * the engine. */
int lat_flows_new(const struct lat_flows_options *options, struct lat_flows **out);
/* Resets every flow and frees. */
void lat_flows_free(struct lat_flows *flows);
/* Answer to a flow whose judge returned 1. Unknown or finished ids are ignored. verdict->action ASK is a denial. */
void lat_flows_answer(struct lat_flows *flows, uint64_t id, const struct lat_verdict *verdict);
/* Gives unbound transparent UDP sockets; taken. */
void lat_flows_add_sockets(struct lat_flows *flows, const int *fds, size_t count);
/* Calls `keep` for each live flow; false: it is reset now (TCP RST both ways; UDP and ICMP forgotten). `keep` may change
 * info->verdict (the new generation's). Returns how many were cut. */
size_t lat_flows_sweep(struct lat_flows *flows, bool (*keep)(void *ctx, struct lat_flow_info *info), void *ctx);
/* Begins an allowed TCP flow whose connect(2) the caller is about to make itself: dials flow->remote before there is a SYN.
 * `user` is as in judge, and from here on the engine's. Positive: the id, for lat_flows_connected, which must be called
 * before anything else; *ready: the far end has accepted. 0: nothing began, `user` is still the caller's, the SYN may be
 * judged as any other. Negative: the dial failed with this errno; the hooks were told. */
int64_t lat_flows_dial(struct lat_flows *flows, const struct lat_flow *flow, const struct lat_verdict *verdict, void *user,
	bool *ready);
/* The connect of that flow was made from this address: its SYN has come to the listener, or will come to the queue. local
 * NULL: it was not made, and the flow ends. */
void lat_flows_connected(struct lat_flows *flows, uint64_t id, const struct lat_addr *local, uint16_t sport);
/* Looks at the queue now, not when the poller comes to it. */
void lat_flows_poll(struct lat_flows *flows);
/* Time-outs: call about every 250 ms. */
void lat_flows_tick(struct lat_flows *flows, uint64_t now_ns);

struct lat_flows_stats {
	uint64_t queued, refused, dialled, dial_errors, relayed, table_full, fd_full, bad_packets;
	uint32_t live_tcp, live_udp, live_icmp, pending;
};
void lat_flows_get_stats(const struct lat_flows *flows, struct lat_flows_stats *out);

#endif
