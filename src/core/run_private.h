/* The state of a run, shared by run.c (life), run_trap.c and run_wall*.c (what is particular to a mode), run_judge.c,
 * run_connect.c, run_dns.c, run_unix.c (decisions and records) and run_reload.c (generations). */
#ifndef LAT_CORE_RUN_PRIVATE_H
#define LAT_CORE_RUN_PRIVATE_H
#include "core/answers.h"
#include "core/connects.h"
#include "core/dns.h"
#include "core/file_watch.h"
#include "core/flows.h"
#include "core/run.h"
#include "core/summary.h"
#include "protocol.h"
#include <sys/stat.h>

#define LAT_RUN_PENDING 512
#define LAT_RUN_SAY 1024
/* A question older than this is denied, whatever the policy thread does. */
#define LAT_QUESTION_TIMEOUT_NS (30ull * 1000000000ull)

struct lat_run;
struct lat_run_flow;
struct lat_wall;
struct lat_preload;

/* What is particular to a mode: run_trap.c (user), run_wall.c (kernel), run_preload.c. */
struct lat_run_mode {
	const char *name;
	/* Before the launch. What goes wrong is told in say; what was made, `close` takes away. */
	int (*prepare)(struct lat_run *run, struct lat_launch_spec *spec, char say[LAT_RUN_SAY]);
	/* The sandbox waits: the engine, the mediator of connects, and the sockets on which DNS is answered. */
	int (*open)(struct lat_run *run, struct lat_dns_options *dns);
	void (*tick)(struct lat_run *run, uint64_t now_ns);
	/* Of the self-check: has the wall said that it refused the probe? NULL: there is no wall, and no self-check. */
	bool (*told)(struct lat_run *run);
	/* A reload's policy is to come into force. 0; 1: lat_run_taken follows; negative errno with say filled: the old one
	 * still is. */
	int (*take)(struct lat_run *run, struct lat_policy *policy, char say[LAT_RUN_SAY]);
	/* It is run->policy now: ends the open flows that it denies. How many. */
	size_t (*cut)(struct lat_run *run);
	/* A question was answered, and the record of it is written. NULL: as in user mode. */
	void (*answered)(struct lat_run *run, uint64_t id, const struct lat_verdict *verdict);
	/* Everything inside has ended: the last records. NULL: none. */
	void (*end)(struct lat_run *run, char say[LAT_RUN_SAY]);
	void (*close)(struct lat_run *run);
};

struct lat_pending {
	struct lat_question question; /* question.id 0: free slot */
	struct lat_run_flow *flow;    /* owned by the flow engine's entry; NULL for DNS */
	uint64_t asked_ns;
};

struct lat_run {
	const struct lat_run_options *options;
	const struct lat_run_mode *mode;
	struct lat_wall *wall;     /* kernel mode; else NULL */
	struct lat_cgroup *group;  /* the options', or the mode's own (made by prepare, closed by close); or NULL */
	struct { uint64_t oom, pids, cpu; } met; /* limits of the group, as often as records have told */
	struct lat_preload *preload; /* preload mode; else NULL */
	struct lat_poller *poller;
	uv_loop_t loop;
	struct lat_sandbox sandbox;
	struct lat_flows *flows;   /* user mode; else NULL */
	struct { struct lat_flows_hooks flows; struct lat_connects_hooks connects; struct lat_dns_hooks dns; } hooks;
	struct lat_connects *connects;
	struct lat_dns *dns;
	struct lat_resolver *resolver;
	struct lat_audit *audit;
	struct lat_worker *worker;
	struct lat_pins *pins;
	struct lat_answers *answers;
	struct lat_summary *summary;
	struct lat_file_watch *watch;
	struct lat_policy *policy; /* in force */
	struct lat_poll_item control, init_end, signals, tick, uv;
	unsigned tick_ms;          /* period that is armed */
	uint64_t ticked_ns;        /* the last full tick */
	/* The flow whose connect is being made: its record waits for the port. */
	struct { struct lat_run_flow *flow; struct lat_verdict verdict; struct lat_flow tuple; } opening;
	struct lat_pending pending[LAT_RUN_PENDING];
	unsigned pending_count;
	uint64_t rate_second;      /* the second that rate_used counts */
	uint32_t *rate_used;       /* by rule, of the policy in force */
	char answer[256];          /* addresses of the DNS answer that is being made: for its record */
	/* Sockets that unix rules named before the command ran: by file, which it cannot change. */
	struct lat_unix_pin { dev_t dev; ino_t ino; } *unix_pins;
	size_t unix_pin_count;
	uint32_t next_generation;
	struct { struct lat_policy *policy; struct lat_run_reload *extra; uint32_t *rate_used; } next; /* of a reload under way */
	struct lat_run_reload *routed; /* whose routes the audit has; NULL: those of the options */
	bool reloading, reload_again, reload_due; /* due: a watched file changed; at the next tick */
	bool probing, probe_refused_call, probe_refused_packet, probed;
	int probe_failed;          /* LAT_MSG_PROBED's value */
	bool running, ended;       /* the command was let go; its status is known */
	int status;
	bool stop;
};

/* Set in the ids of DNS questions, so that they never meet those of flows. */
#define LAT_DNS_ID (1ull << 63)

/* Kept with each judged flow for its CLOSE record. */
struct lat_run_flow {
	struct lat_policy *policy; /* reference: the verdict's pointers */
	struct lat_identity who;
	char name[LAT_NAME_MAX];
	char where[256], reason[256];
	bool passed, audit_only;
	bool told; /* the VERDICT record is written */
};

extern const struct lat_run_mode lat_run_trap, lat_run_wall, lat_run_preload;

/* Fill hooks with ctx = run: run_judge.c, run_connect.c, run_dns.c. */
void lat_run_flow_hooks(struct lat_run *run, struct lat_flows_hooks *flows);
void lat_run_connect_hooks(struct lat_run *run, struct lat_connects_hooks *connects);
void lat_run_dns_hooks(struct lat_run *run, struct lat_dns_hooks *dns);
/* run_unix.c. Before the command runs: which files the unix rules name. 0 or -ENOMEM. */
int lat_run_pin_unix(struct lat_run *run);
/* The unix_path hook of the connects; ctx is the run. */
bool lat_run_connect_unix(void *ctx, const char *path, const char *bound, dev_t dev, ino_t ino,
	const struct lat_identity *who);
/* Is a refusal to be turned into a recorded pass (audit-only and learning runs)? */
static inline bool lat_run_lenient(const struct lat_run *run)
{
	return run->options->audit_only || run->options->learn;
}

/* Numbers, counts and tells: every record goes through here. */
void lat_run_emit(struct lat_run *run, struct lat_record *record);
/* Judges a flow under the policy in force, handlers' kept answers and rate limits included. Returns 1 when a question is
 * to be asked (filled but for the id). */
int lat_run_judge(struct lat_run *run, const struct lat_flow *flow, const struct lat_identity *who, bool count_rate,
	struct lat_verdict *verdict, struct lat_question *question, char text[256]);
/* The self-check's destination, and the record of a layer that refused it. */
bool lat_run_is_probe(const struct lat_flow *flow);
void lat_run_selfcheck(struct lat_run *run, const struct lat_flow *flow, const char *layer);
/* NULL: out of memory. Given to the flow engine, it comes back by the hook `closed`. */
struct lat_run_flow *lat_run_flow_new(struct lat_run *run, const struct lat_flow *flow, const struct lat_identity *who);
void lat_run_flow_free(struct lat_run_flow *flow);
/* Makes a VERDICT record; the caller emits it. */
void lat_run_fill(struct lat_record *r, const struct lat_flow *flow, const struct lat_verdict *v,
	const struct lat_identity *who, const char *name);
/* Writes the record of a judged flow and keeps in rf what its CLOSE record needs. */
void lat_run_judged(struct lat_run *run, struct lat_run_flow *rf, const struct lat_flow *flow, struct lat_verdict *v);
/* The answer to a question, or its time-out (failed). run_judge.c */
void lat_run_answered(struct lat_run *run, const struct lat_question *question, const struct lat_answer *answer);

/* run_limits.c: the run's group of processes, where it has one. The hook of the launch; ctx is the run. */
int lat_run_place(void *ctx, pid_t init, char say[256]);
/* Tells of limits that are not held here. */
void lat_run_limits_start(struct lat_run *run);
/* Tells of limits that were met. */
void lat_run_limits_tick(struct lat_run *run);
/* Kills what is left in the group, and tells the last of its limits. */
void lat_run_limits_end(struct lat_run *run);

/* run_reload.c: asks for a new generation; its arrival; questions of the old one are asked again. */
void lat_run_reload(struct lat_run *run);
void lat_run_reloaded(struct lat_run *run, struct lat_answer *answer);
/* The reload's policy is in force in the wall (error 0), or is not, and the old one still is. */
void lat_run_taken(struct lat_run *run, int error, const char *why);
/* The run ends: frees what a reload under way has. */
void lat_run_reload_end(struct lat_run *run);
/* run_preload_ring.c: looks for decisions; are they to be looked for soon? Nothing where there is no preload mode. */
void lat_preload_tick(struct lat_run *run, uint64_t now_ns);
bool lat_preload_busy(const struct lat_run *run);
/* run_preload_calls.c: who connected the socket. */
void lat_preload_asker(struct lat_run *run, int fd, struct lat_identity *who);
/* Puts a question to the policy thread. 0, or negative errno (deny). */
int lat_run_ask(struct lat_run *run, struct lat_question *question);
/* The flow of the question, which waits for its answer, is there no more. */
void lat_run_unask(struct lat_run *run, uint64_t id);
/* The flow of a question that was put. */
void lat_run_asked(struct lat_run *run, uint64_t id, struct lat_run_flow *flow);
/* Questions beyond their time are denied. */
void lat_run_questions_tick(struct lat_run *run, uint64_t now_ns);
/* From the worker. */
void lat_run_worker_done(void *ctx, struct lat_answer *answer);

#endif
