/* Seccomp user notification on a listener descriptor that somebody else made. Knows no loop: poll the descriptor for
 * EPOLLIN, then receive one notification for each wake-up (a second receive could block the thread). */
#ifndef LAT_KERNEL_NOTIFY_H
#define LAT_KERNEL_NOTIFY_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* One call that waits for an answer. */
struct lat_notify_call {
	uint64_t id;
	pid_t tid;     /* thread that calls, in the reader's pid namespace; 0: not visible from there */
	uint32_t arch; /* AUDIT_ARCH_... */
	int nr;
	uint64_t args[6]; /* as in registers: compare int arguments by their low 32 bits */
};

/* Checks that the kernel's structures are as long as ours and asks for synchronous wake-ups (kernels before 6.6 have
 * none: no error). 0 or negative errno. */
int lat_notify_init(int listener);
/* 0: *out is filled. -EAGAIN: the call is gone again or a signal came, nothing to do. Else negative errno. */
int lat_notify_receive(int listener, struct lat_notify_call *out);
/* Does the caller still wait in this very call? What was read from it before was then its own. */
bool lat_notify_valid(int listener, uint64_t id);
/* The call returns `value`, or -1 with errno `error` when error > 0. 0, -ENOENT: the call is gone (normal), else
 * negative errno. There is no way to let the call go on: what it points to may have changed. */
int lat_notify_respond(int listener, uint64_t id, int64_t value, int error);
/* Puts a duplicate of srcfd into the caller's table, at number `target` when that is >= 0 (replacing what is there), and
 * answers the call with the number when `answer`. The number, or negative errno (-ENOENT: gone). */
int lat_notify_addfd(int listener, uint64_t id, int srcfd, int target, bool cloexec, bool answer);

#endif
