/* The state of a run in kernel mode, shared by run_wall.c (life), run_wall_policy.c (generations), run_wall_names.c (DNS and
 * pins), run_wall_events.c (records) and run_wall_ask.c (what is asked of the supervisor).
 *
 * The wall is the programs on the run's cgroup. They decide by their tables and tell by a ring; the supervisor changes what
 * they decide by, answers questions and DNS, and writes what they tell. Its death changes no verdict. */
#ifndef LAT_CORE_RUN_WALL_H
#define LAT_CORE_RUN_WALL_H
#include "core/agent_link.h"
#include "core/filter.h"
#include "core/pump.h"
#include "core/run_private.h"
#include "kernel/cgroup.h"
#include "kernel/ring.h"
#include <pthread.h>

/* Open flows whose name and process their CLOSE record needs; a power of two. */
#define LAT_WALL_FLOWS 4096
/* Pairs of an address and a name; beyond them the one that ends first makes room. The map of the programs has 4096 places, for
 * two generations. */
#define LAT_WALL_NAMES 2040

struct lat_wall_name {
	struct lat_addr addr;
	char name[LAT_NAME_MAX];
	uint64_t until_ns;
};

struct lat_wall_flow {
	bool used;
	struct lat_flow flow;
	struct lat_identity who;
	char name[LAT_NAME_MAX];
	bool by_handler;
};

/* The program of a process that made a socket a moment ago: the next one is most likely of the same. */
#define LAT_WALL_KNOWN 16
struct lat_wall_known {
	pid_t pid;
	char comm[16];
	uint64_t until_ns;
	char exe[256];
};

/* What a handler said lately of a flow that it let pass: for the record, which the programs tell. */
#define LAT_WALL_SAID 32
struct lat_wall_said {
	struct lat_addr remote;
	uint16_t dport;
	uint8_t proto;
	char text[256];
};

struct lat_wall {
	struct lat_run *run;
	/* Not NULL: group and programs are the agent's, and filter and ring are not there. */
	struct lat_agent_link *agent;
	uint32_t agent_generation; /* its number for `policy` */
	char agent_group[512];
	uint64_t agent_group_id;
	bool own_group; /* run->group was made here */
	struct lat_filter *filter;
	struct lat_pump *pump;
	struct lat_ring *ring;
	struct lat_poll_item ring_item, applied; /* applied: an eventfd of the thread */
	int dns_udp, dns_tcp;
	uint16_t dns_port;
	bool notifies;            /* the filter hands every connect to us */
	bool knows_pids;          /* the pids of events are those of our /proc */
	struct lat_policy *policy; /* as the maps have it: run->policy, or the lenient copy of it */
	/* Of the filter's maps: held by the thread that puts a generation in force. */
	pthread_mutex_t lock;
	struct {
		pthread_t thread;
		bool running;
		struct lat_policy *policy; /* for the maps */
		int result;
		int cut;
		char say[LAT_TC_SAY];
	} apply;
	struct lat_wall_name *names;
	size_t name_count;
	struct lat_wall_flow *flows;
	struct lat_flow *ended;   /* at the end: flows that the programs said to have ended while the table was read */
	size_t ended_count, ended_room;
	struct lat_wall_known known[LAT_WALL_KNOWN]; /* by pid */
	struct lat_wall_said said[LAT_WALL_SAID];
	unsigned said_next;
	struct lat_connects_stats notified;
};

/* ---- run_wall_policy.c ---- */

/* The policy as the maps are to have it, one reference: in a lenient run its denials let pass and are told. */
int lat_wall_policy(struct lat_run *run, struct lat_policy *policy, struct lat_policy **out);
/* Generation 1. */
int lat_wall_first(struct lat_run *run, char say[LAT_RUN_SAY]);
int lat_wall_take(struct lat_run *run, struct lat_policy *policy, char say[LAT_RUN_SAY]);
size_t lat_wall_cut(struct lat_run *run);
/* Waits for the thread, whose result nobody wants any more. */
void lat_wall_apply_end(struct lat_wall *w);
/* Does the policy have questions, for which every connect must be notified? */
bool lat_wall_asks(const struct lat_run *run, const struct lat_policy *policy);

/* ---- run_wall_names.c ---- */

int lat_wall_dns_open(struct lat_wall *w, char say[LAT_RUN_SAY]);
/* An address is about to be answered for a name: false if the maps did not take it. */
bool lat_wall_pin(struct lat_run *run, const char *name, const struct lat_addr *addr, uint64_t until_ns);
/* Names whose time is over leave the maps. */
void lat_wall_names_tick(struct lat_wall *w, uint64_t now_ns);
/* The whole list for lat_filter_*; *names is what the pins point to. Both malloc'ed. */
int lat_wall_pins(struct lat_wall *w, struct lat_filter_pin **pins, const char ***names, size_t *count);
/* Gives the list to the maps in force. The lock is held. */
int lat_wall_names_push(struct lat_wall *w);
/* The client hook of DNS: only sockets of the group are answered. */
bool lat_wall_dns_client(void *ctx, bool tcp, const struct lat_addr *from, uint16_t sport);
/* Who asked. */
void lat_wall_dns_asker(struct lat_run *run, struct lat_flow *flow, struct lat_identity *who);

/* ---- run_wall_events.c ---- */

int lat_wall_events_open(struct lat_wall *w);
/* Reads what there is. */
void lat_wall_events_read(struct lat_wall *w);
/* Flows that are still open get their CLOSE records: nothing inside lives any more. */
void lat_wall_events_end(struct lat_wall *w);
void lat_wall_events_done(struct lat_wall *w);
void lat_wall_events_close(struct lat_wall *w);

/* ---- run_wall_agent.c: the same by the agent ---- */

int lat_wall_agent_open(struct lat_wall *w, char say[LAT_RUN_SAY]);
void lat_wall_agent_launch(struct lat_run *run, struct lat_launch_spec *spec);
/* Events come. */
int lat_wall_agent_watch(struct lat_wall *w);
/* Waits for the word on the probe. */
void lat_wall_agent_told(struct lat_wall *w);
int lat_wall_agent_pin(struct lat_wall *w, const struct lat_filter_pin *pins, size_t count);
/* Allowed, for one process or (0) all. */
int lat_wall_agent_answer(struct lat_wall *w, const struct lat_flow *flow, pid_t pid, uint64_t for_ns);
int lat_wall_agent_take(struct lat_run *run, struct lat_policy *policy, char say[LAT_RUN_SAY]);
void lat_wall_agent_end(struct lat_wall *w);

/* Of the group, whoever made it. */
static inline uint64_t lat_wall_group_id(const struct lat_run *run)
{
	return run->wall->agent ? run->wall->agent_group_id : lat_cgroup_id(run->group);
}
static inline const char *lat_wall_group_path(const struct lat_run *run)
{
	return run->wall->agent ? run->wall->agent_group : lat_cgroup_path(run->group);
}

/* ---- run_wall_ask.c ---- */

void lat_wall_connect_hooks(struct lat_run *run, struct lat_connects_hooks *connects);
/* The reason that came with the answer for such a flow, newest first; "" if none did. */
void lat_wall_said(const struct lat_wall *w, const struct lat_flow *flow, char *text, size_t size);
/* The answer of the policy thread to a call that is held. */
void lat_wall_answered(struct lat_run *run, const struct lat_question *question, const struct lat_answer *answer);

#endif
