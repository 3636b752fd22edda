/* Takes verdict events of an enforcer (struct lat_event) in order: checks them, writes them to the audit, keeps the newest
 * for those who watch, counts. It knows neither the ring nor NFLOG nor Lua: whoever reads those feeds it.
 *
 * A loss is an event, too: the kernel's LOSS events and what the reader knows to have missed become LOSS records. */
#ifndef LAT_CORE_PUMP_H
#define LAT_CORE_PUMP_H
#include "core/audit.h"
#include "core/policy.h"
#include "lattice_abi.h"

struct lat_pump;
struct lat_nflog_packet;

struct lat_pump_options {
	const struct lat_audit_options *audit; /* NULL: no audit of its own */
	/* In place of an audit: gets each record. event NULL: losses; else what it was made of, and the taker may change the
	 * record, which is nowhere yet. */
	void (*emit)(void *ctx, struct lat_record *record, const struct lat_event *event);
	void *emit_ctx;
	size_t memory;                         /* events kept for watchers; 0: 4096 */
};

struct lat_pump_counters {
	uint64_t seen;           /* verdicts and ends of flows */
	uint64_t lost_in_kernel; /* events that the kernel could not hand over */
	uint64_t lost;           /* events that were lost here: records that were no events, and what was too much */
	uint64_t audit_lost;     /* records that the audit could not write */
};

/* What an event's rule is. Pointers live until the next lat_pump_generation. */
struct lat_event_rule {
	const char *where;  /* "agent.lua:14", "default"; else written to buf */
	const char *reason; /* or NULL */
	bool log;           /* false: an allowed flow makes no record */
	char buf[32];
};

/* 0 or negative errno; *failed_target names the audit sink that could not be opened. */
int lat_pump_new(const struct lat_pump_options *options, struct lat_pump **out, const char **failed_target);
/* Ends the audit within timeout_ms; returns the records that it lost. NULL is fine. */
uint64_t lat_pump_free(struct lat_pump *pump, int timeout_ms);

/* Names the rules of events from now on; takes references of its own and keeps those of the last few generations. */
void lat_pump_generation(struct lat_pump *pump, struct lat_policy *policy);
void lat_pump_rule(const struct lat_pump *pump, const struct lat_event *event, struct lat_event_rule *out);

/* The names that addresses stand for now, the whole list, copied: records and shown events have the first name of their
 * remote address. 0 or -ENOMEM (the list before stays). */
struct lat_pump_name {
	struct lat_addr addr;
	char name[LAT_NAME_MAX];
};
int lat_pump_names(struct lat_pump *pump, const struct lat_pump_name *names, size_t count);
/* The name of the event's remote address, or NULL. */
const char *lat_pump_name(const struct lat_pump *pump, const struct lat_event *event);

/* 0; -EINVAL: no event (counted). The bytes need no alignment; what was taken is copied to *copy (or NULL). */
int lat_pump_take(struct lat_pump *pump, const void *data, size_t size, struct lat_event *copy);
/* The reader missed `count` events, in the kernel or here; why: a constant, for the record. */
void lat_pump_lost(struct lat_pump *pump, uint64_t count, bool in_kernel, const char *why);

/* The kernel's own account of the events that it lost since the pump began: what of it no LOSS event has told yet (it comes
 * with the next event, if there is one) is told now, and not again. */
void lat_pump_account(struct lat_pump *pump, uint64_t total);
/* Losses are told in one record for a moment's worth of them: writes it when it is due. true: one waits to become due. */
bool lat_pump_flush(struct lat_pump *pump);

/* Verdicts and ends are numbered from 0 as they come; the last `memory` of them can be had. */
uint64_t lat_pump_next(const struct lat_pump *pump);  /* the number that comes next */
uint64_t lat_pump_first(const struct lat_pump *pump); /* the oldest that is kept */
const struct lat_event *lat_pump_at(const struct lat_pump *pump, uint64_t number);

void lat_pump_count(const struct lat_pump *pump, struct lat_pump_counters *out);
struct lat_audit *lat_pump_audit(struct lat_pump *pump); /* or NULL */
/* The event that a packet of NFLOG tells of, whose prefix is "lattice:GENERATION:RULE:ACTION:DIR". 0, or -EBADMSG for any
 * other, with *out untouched. */
int lat_event_from_nflog(const struct lat_nflog_packet *packet, struct lat_event *out);
/* Wall clock of an event, in milliseconds. */
uint64_t lat_event_time_ms(const struct lat_event *event);
void lat_event_flow(const struct lat_event *event, struct lat_flow *flow);

#endif
