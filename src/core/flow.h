/* What is judged, and what the judgement is. Shared by tables, names, policy, the flow engine and the audit. */
#ifndef LAT_CORE_FLOW_H
#define LAT_CORE_FLOW_H
#include "base/addr.h"

enum lat_dir { LAT_DIR_OUT, LAT_DIR_IN, LAT_DIR_COUNT };

/* One flow. Ports are host order, 0 where the protocol has none. `remote` is the far end: the destination of an out
 * flow, the source of an in flow. The port that rules judge is the destination's in both directions (dport). */
struct lat_flow {
	struct lat_addr local, remote;
	uint16_t sport, dport;
	uint8_t proto; /* IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6, ... */
	uint8_t dir;   /* enum lat_dir */
};

/* As in the policy language. AUDIT lets pass and records. */
enum lat_action {
	LAT_ACTION_DENY, /* 0 on purpose: a zeroed verdict denies */
	LAT_ACTION_ALLOW,
	LAT_ACTION_DROP,
	LAT_ACTION_ASK,
	LAT_ACTION_AUDIT,
	LAT_ACTION_COUNT
};

/* Result of judging a flow. Pointers belong to the generation: valid while a reference on it is held. */
struct lat_verdict {
	uint8_t action;      /* enum lat_action */
	uint8_t by_handler;  /* an ask/connect handler decided */
	uint16_t err;        /* errno for a refused connect; 0: ECONNREFUSED */
	uint32_t rule;       /* rule number, 0: the default */
	uint32_t generation;
	const char *where;   /* "file:line", or "default" */
	const char *reason;  /* NULL: none given */
};

/* May bytes pass? ASK is not yet an answer, so no. */
static inline bool lat_verdict_passes(const struct lat_verdict *v)
{
	return v->action == LAT_ACTION_ALLOW || v->action == LAT_ACTION_AUDIT;
}

/* "allow", "deny", "drop", "ask", "audit". */
const char *lat_action_name(enum lat_action action);
/* "tcp", "udp", "icmp", "icmpv6", or the number in decimal written to buf. */
const char *lat_proto_name(uint8_t proto, char buf[4]);

#endif
