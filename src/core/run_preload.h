/* The inside of preload mode: run_preload.c (its life) and run_preload_calls.c (what the shim says and asks). */
#ifndef LAT_CORE_RUN_PRELOAD_H
#define LAT_CORE_RUN_PRELOAD_H
#include "core/callers.h"
#include "core/run_private.h"
#include "intercept/shared.h"

#define LAT_PRELOAD_CLIENTS 512

/* One connection on `ask`: it asks once, is answered, and ends. */
struct lat_preload_client {
	struct lat_poll_item item; /* fd -1: free */
	struct lat_run *run;
	uint64_t id;               /* of its question, 0: none is waiting */
	struct lat_run_flow *flow; /* of its question */
	pid_t pid;
	uid_t uid;
};

struct lat_preload {
	char dir[LAT_SHIM_PATH_MAX]; /* "": not made */
	char **environment;
	struct lat_shim_control *control;
	int control_fd, image_fd, dns, no_udp;
	uint32_t image_size;
	struct lat_poll_item tell, ask;
	struct lat_policy *previous; /* some decision by it may still be on its way */
	struct lat_callers *callers;
	uint64_t next_id;
	struct lat_run *run;
	struct lat_preload_client clients[LAT_PRELOAD_CLIENTS];
};

/* run_preload_calls.c */
void lat_preload_on_tell(struct lat_poll_item *item, uint32_t events);
void lat_preload_on_ask(struct lat_poll_item *item, uint32_t events);
void lat_preload_answered(struct lat_run *run, uint64_t id, const struct lat_verdict *verdict);
void lat_preload_end_clients(struct lat_preload *p);

#endif
