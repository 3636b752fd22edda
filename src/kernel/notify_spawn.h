/* A child process under a seccomp filter whose chosen calls wait for answers (notify.h). */
#ifndef LAT_KERNEL_NOTIFY_SPAWN_H
#define LAT_KERNEL_NOTIFY_SPAWN_H
#include <stddef.h>
#include <sys/types.h>

/* Number of a call by its name, or -ENOENT. */
int lat_notify_number(const char *name);
/* Name of a call of this machine; NULL if unknown. The caller frees it. */
char *lat_notify_name(int nr);
/* Forks; in the child installs a filter that traps the calls `nrs`, then runs fn, whose result is the exit status. The child
 * dies with the caller's thread. -EINVAL for a call that handing over the listener needs (sendmsg, exit_group). 0 with
 * *pid (the caller reaps it) and *listener (the caller's), or negative errno. */
int lat_notify_spawn(const int *nrs, size_t count, int (*fn)(void *ctx), void *ctx, pid_t *pid, int *listener);

#endif
