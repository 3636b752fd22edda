/* Two bounded rings under one mutex, a condition variable towards the thread, an eventfd towards the loop; see worker.h. */
#include "core/worker.h"
#include "base/clock.h"
#include "base/mem.h"
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#define WAITING 512u /* power of two */

struct asked {
	struct lat_question question;
	struct lat_answer answer;
};

struct lat_worker {
	struct lat_poll_item item; /* the eventfd */
	struct lat_poller *poller;
	const struct lat_worker_ops *ops;
	void (*done)(void *ctx, struct lat_answer *answer);
	void *done_ctx;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool stop, ended;
	unsigned q_head, q_tail, a_head, a_tail;
	/* An answer is made with its question, so that none fails to come for want of memory. */
	struct asked *questions[WAITING], *answers[WAITING];
	unsigned open;                       /* questions queued or at work, and answers not fetched */
};

static void *run(void *arg)
{
	struct lat_worker *w = arg;
	uint64_t one = 1;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		struct asked *q;

		while (!w->stop && w->q_head == w->q_tail)
			pthread_cond_wait(&w->wake, &w->lock);
		if (w->stop)
			break;
		q = w->questions[w->q_head++ % WAITING];
		pthread_mutex_unlock(&w->lock);
		w->ops->work(w->ops->ctx, &q->question, &q->answer);
		pthread_mutex_lock(&w->lock);
		w->answers[w->a_tail++ % WAITING] = q;
		if (write(w->item.fd, &one, sizeof(one)) < 0) { /* the counter is already non-zero: the loop will look */
		}
	}
	w->ended = true;
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

static struct asked *fetch(struct lat_worker *w)
{
	struct asked *a = NULL;

	pthread_mutex_lock(&w->lock);
	if (w->a_head != w->a_tail) {
		a = w->answers[w->a_head++ % WAITING];
		w->open--;
	}
	pthread_mutex_unlock(&w->lock);
	return a;
}

static void ready(struct lat_poll_item *item, uint32_t events)
{
	struct lat_worker *w = lat_container_of(item, struct lat_worker, item);
	uint64_t count;
	struct asked *a;

	(void)events;
	if (read(item->fd, &count, sizeof(count)) < 0) { /* level-triggered: nothing lost */
	}
	while ((a = fetch(w))) {
		w->done(w->done_ctx, &a->answer);
		free(a);
	}
}

int lat_worker_start(struct lat_poller *poller, const struct lat_worker_ops *ops,
	void (*done)(void *ctx, struct lat_answer *answer), void *done_ctx, struct lat_worker **out)
{
	struct lat_worker *w = calloc(1, sizeof(*w));
	pthread_condattr_t attr;
	sigset_t all, old;
	int r;

	if (!w)
		return -ENOMEM;
	w->poller = poller;
	w->ops = ops;
	w->done = done;
	w->done_ctx = done_ctx;
	w->item.ready = ready;
	w->item.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->item.fd < 0) {
		r = -errno;
		free(w);
		return r;
	}
	r = lat_poller_add(poller, &w->item, EPOLLIN);
	if (r < 0)
		goto fail;
	pthread_mutex_init(&w->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&w->wake, &attr);
	pthread_condattr_destroy(&attr);
	sigfillset(&all); /* signals belong to the loop thread */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = -pthread_create(&w->thread, NULL, run, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r == 0) {
		*out = w;
		return 0;
	}
	lat_poller_del(poller, &w->item);
fail:
	close(w->item.fd);
	free(w);
	return r;
}

int lat_worker_ask(struct lat_worker *w, const struct lat_question *question)
{
	struct asked *copy = calloc(1, sizeof(*copy));
	int r = 0;

	if (!copy)
		return -ENOMEM;
	copy->question = *question;
	copy->answer = (struct lat_answer){ .id = question->id, .generation = question->generation, .kind = question->kind };
	pthread_mutex_lock(&w->lock);
	if (w->open >= WAITING || w->stop) {
		r = -EAGAIN;
	} else {
		w->questions[w->q_tail++ % WAITING] = copy;
		w->open++;
		pthread_cond_signal(&w->wake);
	}
	pthread_mutex_unlock(&w->lock);
	if (r < 0)
		free(copy);
	return r;
}

bool lat_worker_stop(struct lat_worker *w, int timeout_ms)
{
	uint64_t until = lat_now_ns() + (uint64_t)timeout_ms * LAT_NS_PER_MS;
	struct timespec ts = { (time_t)(until / LAT_NS_PER_SEC), (long)(until % LAT_NS_PER_SEC) };
	struct asked *a;
	bool ended;

	if (!w)
		return true;
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_broadcast(&w->wake);
	while (!w->ended && pthread_cond_timedwait(&w->wake, &w->lock, &ts) == 0) {
	}
	ended = w->ended;
	pthread_mutex_unlock(&w->lock);
	lat_poller_del(w->poller, &w->item);
	if (!ended) {
		pthread_detach(w->thread);
		return false;
	}
	pthread_join(w->thread, NULL);
	while ((a = fetch(w))) {
		lat_policy_unref(a->answer.policy);
		free(a);
	}
	while (w->q_head != w->q_tail)
		free(w->questions[w->q_head++ % WAITING]);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->wake);
	close(w->item.fd);
	free(w);
	return true;
}
