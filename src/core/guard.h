/* Keeps a call that must not block from blocking. A socket of another process shares its O_NONBLOCK flag with that process,
 * which can clear the flag between our look and our call; the supervisor would then sit in connect(2) while it is itself
 * the one who must answer the SYN. A thread watches, and interrupts (EINTR) a call that lasts longer than a moment. */
#ifndef LAT_CORE_GUARD_H
#define LAT_CORE_GUARD_H

struct lat_guard;

/* Guards calls of the calling thread. Takes SIGURG (harmless by default, used by nobody else here). 0 or negative errno. */
int lat_guard_new(struct lat_guard **out);
void lat_guard_free(struct lat_guard *guard); /* NULL is fine */
/* Around the call. No system call unless the watching thread sleeps. */
void lat_guard_enter(struct lat_guard *guard);
void lat_guard_leave(struct lat_guard *guard);

#endif
