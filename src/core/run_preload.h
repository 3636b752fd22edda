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

/* A process that fetched the tables: who it was, should it have ended when its words are read. */
struct lat_preload_home {
	pid_t pid;
	uid_t uid;
	char exe[256];
};
#define LAT_PRELOAD_HOMES 1024

struct lat_preload {
	char dir[LAT_SHIM_PATH_MAX]; /* "": not made */
	pid_t keeper; /* takes the folder away if we cannot; 0: none */
	char **environment;
	struct lat_shim_control *control;
	struct lat_shim_ring *ring;
	uint64_t tail;     /* of the ring: ours to know, not the programs' */
	uint64_t stuck_ns; /* since when the slot at tail is not whole; 0: it is, or there is none */
	unsigned quiet;    /* looks in a row that found nothing */
	struct lat_preload_home homes[LAT_PRELOAD_HOMES]; /* by pid */
	int control_fd, image_fd, ring_fd, dns, no_udp;
	uint32_t image_size;
	struct lat_poll_item tell, ask;
	struct lat_policy *previous; /* some decision by it may still be on its way */
	struct lat_callers *callers;
	uint64_t next_id;
	struct lat_run *run;
	struct lat_preload_client clients[LAT_PRELOAD_CLIENTS];
};

/* run_preload_dir.c */

/* The folder, and the process that takes it away when this one is killed. 0, or negative errno. */
int lat_preload_dir_new(struct lat_preload *p);
void lat_preload_dir_remove(struct lat_preload *p);
/* A socket of the folder, bound and listening: a descriptor, or negative errno. */
int lat_preload_listen(const struct lat_preload *p, const char *leaf, int type);

/* run_preload_ring.c */

/* The ring, empty. 0 or negative errno. */
int lat_preload_ring_new(struct lat_preload *p);
/* Reads what is there; now and then, while lat_preload_busy says so. */
void lat_preload_ring_read(struct lat_preload *p, uint64_t now_ns);

/* run_preload_calls.c */

/* One decision of the process; its uid is known (from the kernel), or -1. */
void lat_preload_decided(struct lat_run *run, const struct lat_shim_message *message, pid_t pid, pid_t home, uid_t uid);
bool lat_preload_valid(const struct lat_shim_message *message, ssize_t size);
void lat_preload_on_tell(struct lat_poll_item *item, uint32_t events);
void lat_preload_on_ask(struct lat_poll_item *item, uint32_t events);
void lat_preload_answered(struct lat_run *run, uint64_t id, const struct lat_verdict *verdict);
void lat_preload_end_clients(struct lat_preload *p);

#endif
