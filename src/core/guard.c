/* See guard.h. `calls` is odd while a call is under way. The watcher looks every MOMENT while calls come, and sleeps on
 * the futex word when a moment passes without one. */
#include "core/guard.h"
#include "base/mem.h"
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>

#define MOMENT_NS 10000000l

struct lat_guard {
	atomic_uint calls;
	atomic_bool asleep, stop;
	pid_t pid, tid; /* the guarded thread */
	pthread_t watcher;
};

static void interrupt_only(int number)
{
}

static void *watch(void *arg)
{
	struct lat_guard *g = arg;
	const struct timespec moment = { .tv_nsec = MOMENT_NS };
	unsigned before = 0;

	while (!atomic_load(&g->stop)) {
		unsigned now = atomic_load(&g->calls);

		if (now == before && (now & 1)) {
			syscall(SYS_tgkill, g->pid, g->tid, SIGURG);
		} else if (now == before) {
			atomic_store(&g->asleep, true);
			if (!atomic_load(&g->stop))
				syscall(SYS_futex, &g->calls, FUTEX_WAIT_PRIVATE, now, NULL, NULL, 0);
			atomic_store(&g->asleep, false);
			continue;
		}
		before = now;
		nanosleep(&moment, NULL);
	}
	return NULL;
}

int lat_guard_new(struct lat_guard **out)
{
	lat_autofree struct lat_guard *g = calloc(1, sizeof(*g));
	struct sigaction action = { .sa_handler = interrupt_only }; /* no SA_RESTART: the point is EINTR */
	sigset_t all, keep, urgent;
	int r;

	if (!g)
		return -ENOMEM;
	g->pid = getpid();
	g->tid = (pid_t)syscall(SYS_gettid);
	sigemptyset(&action.sa_mask);
	if (sigaction(SIGURG, &action, NULL) < 0)
		return -errno;
	sigemptyset(&urgent);
	sigaddset(&urgent, SIGURG);
	pthread_sigmask(SIG_UNBLOCK, &urgent, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &keep); /* the watcher takes no signal of the process */
	r = pthread_create(&g->watcher, NULL, watch, g);
	pthread_sigmask(SIG_SETMASK, &keep, NULL);
	if (r)
		return -r;
	*out = lat_take(&g);
	return 0;
}

void lat_guard_free(struct lat_guard *g)
{
	if (!g)
		return;
	atomic_store(&g->stop, true);
	atomic_fetch_add(&g->calls, 2); /* a wait that has not begun yet does not begin */
	syscall(SYS_futex, &g->calls, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	pthread_join(g->watcher, NULL);
	free(g);
}

void lat_guard_enter(struct lat_guard *g)
{
	atomic_fetch_add(&g->calls, 1);
	if (atomic_load(&g->asleep))
		syscall(SYS_futex, &g->calls, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void lat_guard_leave(struct lat_guard *g)
{
	atomic_fetch_add(&g->calls, 1);
}
