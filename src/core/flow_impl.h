/* What the files of the flow engine share; see flows.h for the states. Not for anybody else.
 *
 * flows.c       the registry: slots, ids, tuple hash, verdicts, hooks, time-outs, sweep
 * flow_queue.c  held packets: judge, refuse, let go
 * flow_denied.c refusals remembered for a moment
 * flow_tcp.c    dial outside, pair what the listener accepts
 * flow_udp.c    datagrams; flow_icmp.c  echo; flow_raw.c  ICMP packets made inside
 *
 * One struct lat_conn is one flow, in a slot that is never moved. It is in the tuple hash while a packet of its tuple must
 * find it: TCP until it is relayed, UDP and ICMP until the end. */
#ifndef LAT_CORE_FLOW_IMPL_H
#define LAT_CORE_FLOW_IMPL_H
#include "core/flow_packet.h"
#include "core/flows.h"
#include "core/relay.h"
#include "kernel/queue.h"

enum lat_conn_state {
	LAT_CONN_FREE,
	LAT_CONN_ASKED,     /* held; lat_flows_answer moves it */
	LAT_CONN_WAITING,   /* UDP: allowed, held until a socket comes */
	LAT_CONN_DIALLING,  /* TCP: held; the outer socket's events move it */
	LAT_CONN_ACCEPTING, /* TCP: let go; the listener moves it */
	LAT_CONN_RELAYING,
	LAT_CONN_COUNT
};

/* Flows that may be undecided or half open at once; more SYNs are dropped, and come again. (With the
 * table itself full they are refused: its flows may last.) */
#define LAT_PENDING_MAX 16384u
/* How long the first SYN of a flow keeps it. */
#define LAT_SYN_NS (4ull * 1000000000ull)
/* Packets of one flow that wait together (UDP); more are dropped. */
#define LAT_HOLD_MAX 8

/* ICMP: sport is the echo id, so that each ping is a flow of its own. */
struct lat_conn_key {
	struct lat_addr local, remote;
	uint16_t sport, dport;
	uint8_t proto, pad[3];
};

struct lat_conn {
	struct lat_flow_info info;
	struct lat_conn_key key;
	struct lat_flows *flows;
	struct lat_conn *hash_next; /* also the free list */
	struct lat_conn *prev, *next; /* all that are in use */
	uint64_t deadline_ns;       /* of the state; UDP and ICMP: idle */
	uint64_t active_ns;         /* UDP and ICMP: when something moved last */
	uint32_t held[LAT_HOLD_MAX];
	uint8_t held_count, state;
	bool hashed, judged;        /* judged: `closed` is owed */
	bool keepalive;
	bool unbound;               /* dialled before there is a SYN: its own port is not known yet */
	uint32_t tcp_seq, seen;     /* TCP: of the held SYN; events of the outer socket before the relay */
	union {
		struct lat_relay relay; /* TCP: side[1] is the dialling socket too */
		struct {
			struct lat_poll_item in, out;
			uint64_t idle_ns;
			bool by_raw; /* no socket inside: see lat_udp_send */
		} udp;
		struct {
			struct lat_poll_item out;
			uint8_t *payload; /* of a request that waits for an answer */
			uint16_t payload_size, seq;
			uint16_t wire_id; /* raw: the id outside */
			bool raw;
		} icmp;
	};
};

struct lat_flows {
	struct lat_poller *poller;
	struct lat_flows_hooks hooks;
	struct lat_queue *queue;
	struct lat_relays *relays;
	struct lat_poll_item queue_item, listener_item;
	int raw4, raw6, reserve;
	struct lat_conn **chunks;   /* slots, made in chunks when first needed */
	unsigned slots, max_flows;
	struct lat_conn *free, *live; /* live: newest first */
	struct lat_conn **buckets;
	uint32_t bucket_mask;
	uint64_t seed[2], next_id, now_ns;
	uint64_t udp_idle_ns;
	bool warned_icmp;
	int dial_error; /* of the last dial that failed */
	bool paced; /* the default congestion control paces */
	struct lat_denials *denials;
	struct lat_udp *udp;
	struct lat_flows_stats stats;
};

/* flows.c */
struct lat_conn *lat_conn_find(const struct lat_flows *f, const struct lat_conn_key *key);
/* NULL: the table is full. */
struct lat_conn *lat_conn_new(struct lat_flows *f, const struct lat_conn_key *key, const struct lat_flow *flow);
void lat_conn_unhash(struct lat_conn *c);
/* Gives a flow its whole tuple; another flow that had it ends. */
void lat_conn_rekey(struct lat_conn *c, const struct lat_conn_key *key);
/* Closes what it has (TCP by RST when `reset`), tells `closed`, drops held packets, frees. */
void lat_conn_end(struct lat_conn *c, bool reset);
/* Something moved: the idle time begins anew. */
void lat_conn_touch(struct lat_conn *c, uint64_t idle_ns);
void lat_conn_state(struct lat_conn *c, enum lat_conn_state state, uint64_t deadline_ns);
/* Tells the hook, shows the program the errno, ends the flow. */
void lat_conn_dial_failed(struct lat_conn *c, int err);
uint64_t lat_conn_hash(const struct lat_flows *f, const struct lat_conn_key *key);

/* flow_queue.c */
void lat_held_ready(struct lat_poll_item *item, uint32_t events);
/* Verdict on all held packets of the flow. */
void lat_held_accept(struct lat_conn *c, uint32_t mark);
void lat_held_drop(struct lat_conn *c);
/* Brings them through the queue once more: they are a known flow's then, with their payload. */
void lat_held_repeat(struct lat_conn *c);
/* As `err` (errno) says: rejected by mark, or dropped for ETIMEDOUT. */
void lat_held_refuse(struct lat_conn *c, int err);
/* What a TCP program sees of a dial that failed so: the same as by lat_held_refuse. */
int lat_flow_errno(const struct lat_flow *flow, int err);
/* Acts on a verdict that is there. The flow may be gone afterwards. */
void lat_conn_decided(struct lat_conn *c);

/* flow_denied.c: refusals of UDP and ICMP, for a second. */
struct lat_denials;
int lat_denials_new(struct lat_denials **out);
void lat_denials_add(struct lat_flows *f, const struct lat_conn_key *key, const struct lat_verdict *v);
/* NULL: not refused lately. */
const struct lat_verdict *lat_denials_find(struct lat_flows *f, const struct lat_conn_key *key);
void lat_denials_clear(struct lat_denials *denials);

/* flow_tcp.c */
int lat_tcp_listener_open(struct lat_flows *f, int fd);
void lat_tcp_dial(struct lat_conn *c);
/* The SYN of a flow that was dialled before is in the listener. */
void lat_tcp_accept(struct lat_flows *f);
void lat_tcp_close(struct lat_conn *c, bool reset);
void lat_tcp_tick(struct lat_conn *c);

/* flow_udp.c */
struct lat_udp;
int lat_udp_new(struct lat_udp **out);
void lat_udp_free(struct lat_udp *udp);
/* Opens an allowed flow, or makes it wait for a socket from inside. The flow may be gone afterwards. */
void lat_udp_open(struct lat_conn *c);
void lat_udp_close(struct lat_conn *c);
/* A flow without a socket inside keeps its packets in the queue: sends what one of them carried. */
void lat_udp_send(struct lat_conn *c, const uint8_t *payload, size_t size);
/* Asks for more sockets when there are few. */
void lat_udp_tick(struct lat_flows *f);

/* flow_icmp.c */
void lat_icmp_open(struct lat_conn *c);
void lat_icmp_close(struct lat_conn *c);
/* Keeps a copy of the request until the answer is there. */
void lat_icmp_keep(struct lat_conn *c, const struct lat_packet *p);
/* Sends a request of a flow that is open. */
void lat_icmp_send(struct lat_conn *c, const uint8_t *payload, size_t size, uint16_t seq);

/* flow_raw.c: as the far host would have sent it. Errors are not reported: a network loses packets. */
void lat_raw_echo_reply(struct lat_conn *c, uint16_t seq, const uint8_t *payload, size_t size);
void lat_raw_datagram(struct lat_conn *c, const uint8_t *payload, size_t size);
/* An ICMP error about the last packet of the flow. */
void lat_raw_error(struct lat_conn *c, uint8_t type, uint8_t code);
/* Passes on what waits in the error queue of an outer socket. */
void lat_raw_pass_errors(struct lat_conn *c, int fd);
uint16_t lat_raw_checksum(uint32_t sum, const void *data, size_t size);

#endif
