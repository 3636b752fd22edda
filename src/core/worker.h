/* The policy thread: runs policy handlers and loads new generations, so that neither ever delays a packet. The loop thread
 * hands in questions and gets answers through one descriptor; the thread itself knows nothing of Lua (ops do). */
#ifndef LAT_CORE_WORKER_H
#define LAT_CORE_WORKER_H
#include "core/policy.h"
#include "core/poller.h"
#include "core/record.h"

enum lat_question_kind {
	LAT_QUESTION_ASK,     /* an `ask` rule matched */
	LAT_QUESTION_CONNECT, /* nothing matched and on("connect") exists */
	LAT_QUESTION_DNS,     /* a name that no rule could allow, and on("dns") exists */
	LAT_QUESTION_RELOAD,  /* load the policy again */
	LAT_QUESTION_COUNT
};

struct lat_question {
	uint64_t id;
	uint32_t generation; /* that is asked; RELOAD: the number of the new one */
	uint32_t rule;       /* ASK: the rule */
	uint8_t kind;
	uint16_t qtype;      /* DNS */
	struct lat_flow flow;
	struct lat_identity who;
	char name[LAT_NAME_MAX];
};

/* Whom an answer that holds is for. */
enum lat_scope { LAT_SCOPE_RUN, LAT_SCOPE_PROCESS, LAT_SCOPE_EVERYONE };

struct lat_answer {
	uint64_t id;
	uint32_t generation;
	uint8_t kind;
	uint8_t action;     /* ALLOW or DENY; a failed handler denies */
	uint8_t for_run;    /* the answer holds for this destination for the rest of the run (or ttl_s) */
	uint8_t scope;      /* enum lat_scope, of an answer with for_run */
	uint8_t failed;     /* the handler broke its limits, failed or gave nonsense; RELOAD: refused */
	uint8_t stale;      /* nobody was asked: the thread has another generation by now */
	uint32_t ttl_s;     /* 0: no limit */
	struct lat_policy *policy; /* RELOAD: the new generation, one reference */
	void *extra;        /* RELOAD: what ops made beside it (audit routes ...), for the owner of ops */
	char text[2048];    /* reason of the handler, or the error with file:line */
};

struct lat_worker_ops {
	void *ctx;
	/* In the worker thread, one at a time. *answer comes with id, generation and kind set and action DENY. */
	void (*work)(void *ctx, const struct lat_question *question, struct lat_answer *answer);
};

struct lat_worker;

/* Starts the thread; answers are handed to `done` on the loop thread, from the poller. ops and done_ctx are not copied. */
int lat_worker_start(struct lat_poller *poller, const struct lat_worker_ops *ops,
	void (*done)(void *ctx, struct lat_answer *answer), void *done_ctx, struct lat_worker **out);
/* Queues a question. -EAGAIN: too many are waiting (deny). */
int lat_worker_ask(struct lat_worker *worker, const struct lat_question *question);
/* Ends the thread. It gets timeout_ms for the question at hand; false: it is stuck and was left behind (the process is
 * about to end). Answers that nobody fetched are dropped. */
bool lat_worker_stop(struct lat_worker *worker, int timeout_ms);

#endif
