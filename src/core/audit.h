/* The audit: takes records from the loop thread, numbers them, and writes them in a thread of its own, so that a slow or
 * dead sink never delays a verdict. A full queue drops the record and counts it; the next record that fits is preceded by
 * a LOSS record with the count. */
#ifndef LAT_CORE_AUDIT_H
#define LAT_CORE_AUDIT_H
#include "core/record.h"

struct lat_audit;

/* Where records go, and which. */
struct lat_audit_route {
	uint32_t kinds;    /* bit (1 << enum lat_record_kind); 0: every kind */
	uint32_t actions;  /* bit (1 << enum lat_action) for VERDICT, DNS and UNIX records; 0: every action */
	enum { LAT_SINK_FILE, LAT_SINK_SYSLOG, LAT_SINK_UNIX } sink;
	const char *target; /* path of the file or datagram socket; copied */
	uint64_t rotate_bytes; /* FILE: rename to .1 beyond this size; 0: never */
	int fd;            /* FILE: already open descriptor to append to, or -1 to open target; taken */
};

struct lat_audit_options {
	const char *run_name;  /* --name or the command's base name */
	const char *run_id;    /* unique for this run */
	const char *mode;      /* "user" */
	const char *passed_over; /* NULL, or why each stronger mode was passed over: told in the START record */
	const char *policy;    /* policy's name */
	const struct lat_audit_route *routes;
	size_t route_count;
	size_t queue_records;  /* 0: 4096 */
};

/* Opens the sinks and starts the thread. 0 or negative errno; *failed_target names the sink that could not be opened. */
int lat_audit_start(const struct lat_audit_options *options, struct lat_audit **out, const char **failed_target);
/* Numbers, stamps and queues the record; never blocks. The record is copied (seq and time_ms are also set in *record). */
void lat_audit_emit(struct lat_audit *audit, struct lat_record *record);
/* Does any route take such a record? For the thread that emits; nobody needs a record made that this refuses. */
bool lat_audit_wants(const struct lat_audit *audit, uint8_t kind, uint8_t action);
/* New routes after a reload; sinks that stay stay open. */
int lat_audit_reroute(struct lat_audit *audit, const struct lat_audit_route *routes, size_t count, const char **failed_target);
/* Records lost so far, by a full queue and by sinks. */
uint64_t lat_audit_lost(struct lat_audit *audit);
/* Writes what is queued (bounded by timeout_ms), fsyncs files, ends the thread, frees. Returns records lost in all. */
uint64_t lat_audit_stop(struct lat_audit *audit, int timeout_ms);

/* The record as one OCSF 1.6 JSON line without the newline, into buf; returns the length, or -ENOSPC. Every byte below
 * 0x20, 0x7f and invalid UTF-8 in strings is escaped (base/json.h).
 *
 * Classes: 4001 for VERDICT, CLOSE and UNIX; 4003 for DNS; 5019 for RELOAD, AGENT
 * and OPERATOR; 1007 for START and EXIT; 0 (base event) for the
 * rest. What OCSF has no place for is in unmapped.lattice: kind, action, rule, where, generation and whatever else of the
 * record is not zero, under its own name.
 *
 * unmapped.lattice.line counts what this sink was to get, from 1. A jump of line by k + 1 is fine only before a record of
 * kind "loss" with lost >= k: so a reader can say "complete", or name the gap, even of a filtered sink. metadata.sequence is
 * the record's number in the run. */
struct lat_audit_context {
	const char *run_name, *run_id, *mode, *passed_over, *policy, *host;
	uint64_t line; /* 0: left out */
};
int lat_record_ocsf(const struct lat_record *record, const struct lat_audit_context *context, char *buf, size_t size);
/* "ALLOW tcp 203.0.113.9:443 (api.example) curl[812] agent.lua:14", for people; length or -ENOSPC. */
int lat_record_line(const struct lat_record *record, char *buf, size_t size);

#endif
