/* One audit record, as the deciding code fills it and as the writer formats it (OCSF 1.6 in JSON lines). */
#ifndef LAT_CORE_RECORD_H
#define LAT_CORE_RECORD_H
#include "core/flow.h"
#include "core/names.h"
#include <sys/types.h>

enum lat_record_kind {
	LAT_RECORD_VERDICT,  /* a flow was judged */
	LAT_RECORD_CLOSE,    /* an allowed flow ended: bytes and duration */
	LAT_RECORD_DNS,      /* a query was answered or refused */
	LAT_RECORD_UNIX,     /* a connect to a unix socket outside was judged */
	LAT_RECORD_START,    /* the run began (mode, policy) */
	LAT_RECORD_EXIT,     /* the run ended (status) */
	LAT_RECORD_RELOAD,   /* a policy was loaded or refused */
	LAT_RECORD_LOSS,     /* `lost` records before this one could not be written */
	LAT_RECORD_SELFCHECK,/* the probe before the command was refused as it must be */
	LAT_RECORD_HANDLER,  /* a policy handler failed, timed out or answered */
	LAT_RECORD_AGENT,    /* the node agent changed or met something: a fallback, a device that is gone; err: it went wrong */
	LAT_RECORD_OPERATOR, /* somebody changed something by the control socket or the REPL: who.uid, text */
	LAT_RECORD_LIMIT,    /* the run met one of its limits: name (memory, pids, cpu), count (how often so far);
	                      * count 0: name lists limits that are not held here */
	LAT_RECORD_COUNT
};

/* Who opened the flow, as the kernel told; pid 0: unknown. */
struct lat_identity {
	pid_t pid;
	uid_t uid;
	char exe[256]; /* "" if unknown */
};

/* Strings are copied, so a record has no owner but itself. Zero it, then fill it. */
struct lat_record {
	uint64_t seq;      /* set by the audit, from 1, without gaps; losses have a LOSS record */
	uint64_t time_ms;  /* wall clock; set by the audit */
	uint8_t kind, action; /* enum lat_record_kind, enum lat_action (what was done) */
	uint8_t by_handler, audit_only; /* audit_only: would have been denied, was let pass */
	uint16_t err;      /* errno given to the program, 0 if none */
	uint16_t rcode, qtype; /* DNS */
	uint32_t rule, generation;
	struct lat_flow flow;
	struct lat_identity who;
	uint64_t bytes_out, bytes_in, duration_ns; /* CLOSE */
	uint64_t lost;     /* LOSS */
	uint64_t count;    /* LIMIT */
	int32_t status;    /* EXIT: exit status as the shell sees it */
	char name[LAT_NAME_MAX]; /* pinned or queried name */
	char where[256];   /* "file:line" */
	char text[256];    /* reason, error, unix path, policy name, mode: what fits the kind */
};

#endif
