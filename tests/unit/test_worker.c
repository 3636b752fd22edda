/* The policy thread: answers come back, and a thread that is stuck is left behind without harm. */
#include "core/worker.h"
#include "base/mem.h"
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

struct rig {
	pthread_mutex_t gate; /* held: work does not end */
	struct lat_poller *poller;
	struct lat_worker *worker;
	struct lat_worker_ops ops;
	atomic_uint begun;
	unsigned done;
	uint64_t last;
};

static void work(void *ctx, const struct lat_question *q, struct lat_answer *a)
{
	struct rig *rig = ctx;

	atomic_fetch_add(&rig->begun, 1);
	pthread_mutex_lock(&rig->gate);
	a->action = q->rule ? LAT_ACTION_ALLOW : LAT_ACTION_DENY;
	pthread_mutex_unlock(&rig->gate);
}

static void done(void *ctx, struct lat_answer *a)
{
	struct rig *rig = ctx;

	rig->done++;
	rig->last = a->id;
	assert_int_equal(a->action, a->id % 2 ? LAT_ACTION_ALLOW : LAT_ACTION_DENY);
}

static struct rig *rig_new(void)
{
	struct rig *rig = calloc(1, sizeof(*rig));

	pthread_mutex_init(&rig->gate, NULL);
	rig->ops = (struct lat_worker_ops){ .ctx = rig, .work = work };
	assert_int_equal(lat_poller_new(&rig->poller), 0);
	assert_int_equal(lat_worker_start(rig->poller, &rig->ops, done, rig, &rig->worker), 0);
	return rig;
}

static void every_question_is_answered_once(void **state)
{
	struct rig *rig = rig_new();
	unsigned asked = 0;

	for (uint64_t id = 1; id <= 5000; id++) {
		struct lat_question q = { .id = id, .rule = (uint32_t)(id % 2) };

		while (lat_worker_ask(rig->worker, &q) == -EAGAIN)
			assert_true(lat_poller_dispatch(rig->poller, 8, 5000) >= 0);
		asked++;
	}
	while (rig->done < asked)
		assert_true(lat_poller_dispatch(rig->poller, 8, 5000) > 0);
	assert_int_equal(rig->last, 5000);
	assert_true(lat_worker_stop(rig->worker, 5000));
	lat_poller_free(rig->poller);
	pthread_mutex_destroy(&rig->gate);
	free(rig);
}

static void too_many_questions_are_refused_and_dropped_at_the_end(void **state)
{
	struct rig *rig = rig_new();
	struct lat_question q = { .id = 1, .rule = 1 };
	unsigned accepted = 0;

	pthread_mutex_lock(&rig->gate);
	while (lat_worker_ask(rig->worker, &q) == 0)
		accepted++;
	assert_int_equal(accepted, 512);
	pthread_mutex_unlock(&rig->gate);
	assert_true(lat_worker_stop(rig->worker, 5000));
	assert_int_equal(rig->done, 0);
	lat_poller_free(rig->poller);
	pthread_mutex_destroy(&rig->gate);
	free(rig);
}

static void a_stuck_thread_is_left_behind_and_may_end_later(void **state)
{
	static struct rig *rig; /* reachable: the thread goes on using it */
	struct lat_question q = { .id = 1, .rule = 1 };

	rig = rig_new();
	pthread_mutex_lock(&rig->gate);
	assert_int_equal(lat_worker_ask(rig->worker, &q), 0);
	while (!atomic_load(&rig->begun))
		sched_yield();
	assert_false(lat_worker_stop(rig->worker, 50));
	lat_poller_free(rig->poller);
	pthread_mutex_unlock(&rig->gate);
	assert_int_equal(rig->done, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_question_is_answered_once),
		cmocka_unit_test(too_many_questions_are_refused_and_dropped_at_the_end),
		cmocka_unit_test(a_stuck_thread_is_left_behind_and_may_end_later),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
