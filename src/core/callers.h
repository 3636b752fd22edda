/* Who calls: the tasks that made notified calls lately, held open, and which of them opened which flow. */
#ifndef LAT_CORE_CALLERS_H
#define LAT_CORE_CALLERS_H
#include "core/record.h"
#include "kernel/proc.h"

struct lat_callers;

/* diag: sock_diag of the sandbox's network namespace, not owned. */
int lat_callers_new(int diag, struct lat_callers **out);
void lat_callers_free(struct lat_callers *callers); /* NULL is fine */
/* The task `tid`, from the cache if it is held there. Valid until the next call. 0 or negative errno. */
int lat_callers_open(struct lat_callers *callers, pid_t tid, const struct lat_proc **out);
/* A duplicate of descriptor `fd` of task `tid`, and the task (as above). What is cached is used only while the kernel
 * says that it is still the same task. */
int lat_callers_getfd(struct lat_callers *callers, pid_t tid, int fd, const struct lat_proc **task);
/* Fills *who with what is known; zeroed otherwise. */
void lat_callers_who(struct lat_callers *callers, const struct lat_proc *task, struct lat_identity *who);
/* `who` opened a flow from port sport to remote. The newest of a port wins. */
void lat_callers_remember(struct lat_callers *callers, uint8_t proto, uint16_t sport,
	const struct lat_addr *remote, const struct lat_identity *who);
/* As lat_connects_identify. */
bool lat_callers_find(struct lat_callers *callers, const struct lat_flow *flow, struct lat_identity *who);

#endif
