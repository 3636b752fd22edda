/* The other end of the agent's control socket, as the supervisor of a run that the agent walls needs it: asks for the run, tells
 * pins, and gets what the programs tell (docs/control.md has the protocol).
 *
 * Questions wait for their answer, for a bounded time; what the agent says of its own comes by the hooks, from
 * lat_agent_dispatch and while a question waits. The end of the link is the end of the run: the agent kills what is inside. */
#ifndef LAT_CORE_AGENT_LINK_H
#define LAT_CORE_AGENT_LINK_H
#include "core/filter.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define LAT_AGENT_SOCKET "/run/lattice/control.sock"
#define LAT_AGENT_SAY 1024

struct lat_agent_link;

struct lat_agent_hooks {
	void *ctx;
	void (*event)(void *ctx, const void *record, size_t size); /* struct lat_event, unaligned */
	void (*lost)(void *ctx, uint64_t count);                    /* events that were dropped on the way */
	void (*reload)(void *ctx);                                  /* the agent has put another policy in force */
};

struct lat_agent_run {
	pid_t init;
	const char *policy; /* path; NULL: the only one that the user has */
	const char *name;
	uint16_t dns_port;
	bool no_unix;
};

struct lat_agent_started {
	char id[64], group[512], network[16];
	uint32_t generation;
	char digest[LAT_POLICY_DIGEST + 1];
};

struct lat_agent_reloaded {
	uint32_t generation;
	char digest[LAT_POLICY_DIGEST + 1];
	unsigned cut;
};

/* Connects; -EACCES when it is neither root nor we who listens there. say: what went wrong. */
int lat_agent_open(const char *path, const struct lat_agent_hooks *hooks, struct lat_agent_link **out, char say[LAT_AGENT_SAY]);
/* The same on a connected socket, which is taken. */
int lat_agent_new(int fd, const struct lat_agent_hooks *hooks, struct lat_agent_link **out);
/* NULL is fine. */
void lat_agent_close(struct lat_agent_link *link);

/* Each waits for its answer: 0 or negative errno with the agent's own words in say (-EPROTO: an answer that is none). */
int lat_agent_start(struct lat_agent_link *link, const struct lat_agent_run *run, struct lat_agent_started *out,
	char say[LAT_AGENT_SAY]);
int lat_agent_pin(struct lat_agent_link *link, const struct lat_filter_pin *pins, size_t count, char say[LAT_AGENT_SAY]);
/* What was answered when the policy asked: for one process (pid 0: all of the run) and so long. */
int lat_agent_answer(struct lat_agent_link *link, const struct lat_addr *remote, uint8_t proto, uint16_t port, pid_t pid,
	bool allow, uint64_t for_ns, char say[LAT_AGENT_SAY]);
int lat_agent_reload(struct lat_agent_link *link, struct lat_agent_reloaded *out, char say[LAT_AGENT_SAY]);

/* Ends the run, and takes what is told until the agent has. 0 or negative errno. */
int lat_agent_finish(struct lat_agent_link *link, char say[LAT_AGENT_SAY]);

/* Readable: call lat_agent_dispatch. */
int lat_agent_fd(const struct lat_agent_link *link);
/* Takes what came, without waiting. 0, -EPIPE: the agent or the run has ended (lat_agent_ended says why), or -EPROTO. */
int lat_agent_dispatch(struct lat_agent_link *link);
/* Why nothing more comes, or NULL. */
const char *lat_agent_ended(const struct lat_agent_link *link);

#endif
