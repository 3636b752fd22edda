/* A Lua state for text of somebody whom the process must survive: a POLICY state in a thread of its own, with limits of
 * instructions, time and memory. One module of ours in it does the work (lat_eval_run hands it a text and gets one back);
 * what it wants of the process it asks for by a call with a text, and waits until the owner's loop has the answer.
 *
 * Everything here but the thread itself is of the owner's loop thread. */
#ifndef LAT_LUA_EVAL_H
#define LAT_LUA_EVAL_H
#include "lua/runtime.h"

/* What the thread tells the owner; see lat_eval_new. */
enum lat_eval_kind {
	LAT_EVAL_OUTPUT, /* text: what was written */
	LAT_EVAL_CALL,   /* id, name, text: answer it by lat_eval_answer */
	LAT_EVAL_DONE,   /* text: the result; or error and why */
	LAT_EVAL_KIND_COUNT
};

struct lat_eval_message {
	struct lat_eval_message *next;
	enum lat_eval_kind kind;
	uint64_t id;
	char name[32];
	char *text; /* malloc'ed, NUL-terminated behind len bytes */
	size_t len;
	bool failed;            /* DONE: text says what stopped it */
	enum lat_rt_why why;    /* if failed */
};

struct lat_eval_options {
	const char *module;          /* embedded; its run(text, call, output) gives the result, a text */
	struct lat_rt_limits limits; /* of one run; the time it waits for answers is not counted */
	uint32_t cpu_ms;             /* of one run in all: after that, calls fail */
	uint32_t calls;              /* that one run may make */
	size_t output;               /* bytes that one run may write; what is beyond is dropped, which DONE's text does not tell */
};

struct lat_eval;

/* Starts the thread. `tell` is called on the loop; ctx stays the caller's. Messages end with lat_eval_close. */
int lat_eval_new(uv_loop_t *loop, const struct lat_eval_options *options,
	void (*tell)(void *ctx, const struct lat_eval_message *message), void *ctx, struct lat_eval **out);
/* -EBUSY: something runs already. */
int lat_eval_run(struct lat_eval *eval, const char *text, size_t len);
/* The answer to call `id`; error: text is what went wrong. An answer nobody waits for is dropped. */
int lat_eval_answer(struct lat_eval *eval, uint64_t id, const char *text, size_t len, bool error);
/* Stops what runs: its DONE says LAT_RT_STOPPED. */
void lat_eval_interrupt(struct lat_eval *eval);
/* Does not wait: the thread ends by itself, soon, and frees everything. */
void lat_eval_close(struct lat_eval *eval);

#endif
