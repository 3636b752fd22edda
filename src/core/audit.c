/* The queue between the loop thread and the writer's thread; see audit.h.
 *
 * The lock guards the ring's indices, the counters and the list of routings, and is held for a copy of one record at most:
 * the loop thread never waits for a sink. The writer owns the sinks. A routing (routes and their sinks) is made by the loop
 * thread and handed over; the loop thread keeps only a look at the newest one's sinks, whose names never change.
 *
 * The writer sleeps on the condition when there is nothing to do; after a batch it dozes for a moment first, so that under
 * traffic a record costs its producer no wake-up. */
#include "core/audit.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/signals.h"
#include "core/audit_sink.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <stdio.h>

#define QUEUE_DEFAULT 4096
#define DOZE_NS (2 * LAT_NS_PER_MS)
#define RETRY_NS (50 * LAT_NS_PER_MS)
#define STOP_RETRY_NS (10 * LAT_NS_PER_MS)
#define BATCH 256

struct lane {
	uint32_t kinds, actions;
	size_t sink;
};

struct routing {
	struct routing *next; /* handed over after this one */
	size_t from;          /* the first record in the queue that is its */
	size_t lane_count, sink_count;
	struct lane *lanes;
	struct lat_sink **sinks;
	uint64_t *rotate;
};

struct lat_audit {
	pthread_mutex_t lock;
	pthread_cond_t wake, ended;
	pthread_t writer;
	bool waiting, stop, done;
	uint64_t deadline_ns;      /* of the stop */
	uint64_t seq, dropped, dropped_total;
	size_t head, tail, size; /* records head..tail are queued; both 0 when it was empty */
	struct routing *handed;  /* not taken by the writer yet */
	struct routing *newest;  /* the loop thread's look */
	struct routing *current; /* the writer's */
	uint64_t lost;           /* by sinks that ended */
	_Atomic uint64_t sinks_lost; /* by all sinks, as of the last flush */
	char *run_name, *run_id, *mode, *passed_over, *policy, host[256];
	struct lat_audit_context context;
	struct lat_record *queue;
};

static void routing_free(struct routing *r)
{
	if (!r)
		return;
	free(r->lanes);
	free(r->sinks);
	free(r->rotate);
	free(r);
}

static struct lat_sink *find_sink(const struct routing *r, const struct lat_audit_route *route)
{
	for (size_t i = 0; r && i < r->sink_count; i++)
		if (lat_sink_is(r->sinks[i], route))
			return r->sinks[i];
	return NULL;
}

static bool has_sink(const struct routing *r, const struct lat_sink *sink)
{
	for (size_t i = 0; i < r->sink_count; i++)
		if (r->sinks[i] == sink)
			return true;
	return false;
}

/* The index of the route's sink in r: one that r has, one that `old` has, or a new one. Negative errno. */
static int sink_index(struct routing *r, const struct routing *old, const struct lat_audit_route *route)
{
	struct lat_sink *sink = find_sink(r, route);
	int given = route->sink == LAT_SINK_FILE ? route->fd : -1, e;

	if (!sink) {
		sink = find_sink(old, route);
		if (!sink) {
			e = lat_sink_open(route, &sink);
			if (e < 0)
				return e;
			given = -1;
		}
		r->rotate[r->sink_count] = route->rotate_bytes;
		r->sinks[r->sink_count++] = sink;
	}
	lat_close(&given); /* its sink is open already */
	for (size_t i = 0;; i++)
		if (r->sinks[i] == sink)
			return (int)i;
}

static int routing_new(const struct routing *old, const struct lat_audit_context *context,
	const struct lat_audit_route *routes, size_t count, struct routing **out, const char **failed_target)
{
	struct routing *r = calloc(1, sizeof(*r));
	int e = -ENOMEM;

	if (!r)
		return e;
	r->lanes = calloc(count + 1, sizeof(*r->lanes));
	r->sinks = calloc(count + 1, sizeof(struct lat_sink *));
	r->rotate = calloc(count + 1, sizeof(*r->rotate));
	if (r->lanes && r->sinks && r->rotate)
		e = 0;
	for (size_t i = 0; e == 0 && i < count; i++) {
		int index = sink_index(r, old, &routes[i]);

		if (index < 0) {
			e = index;
			*failed_target = routes[i].target ? routes[i].target : "/dev/log";
			break;
		}
		r->lanes[r->lane_count++] = (struct lane){ .kinds = routes[i].kinds, .actions = routes[i].actions,
			.sink = (size_t)index };
	}
	if (e < 0) {
		for (size_t i = 0; i < r->sink_count; i++)
			if (!old || !has_sink(old, r->sinks[i]))
				lat_sink_close(r->sinks[i], context);
		routing_free(r);
		return e;
	}
	*out = r;
	return 0;
}

static bool wants(const struct lane *l, uint8_t kind, uint8_t action)
{
	bool judged = kind == LAT_RECORD_VERDICT || kind == LAT_RECORD_DNS || kind == LAT_RECORD_UNIX;

	if (kind == LAT_RECORD_LOSS)
		return true;
	if (l->kinds && !(l->kinds & 1u << kind))
		return false;
	return !judged || !l->actions || l->actions & 1u << action;
}

bool lat_audit_wants(const struct lat_audit *a, uint8_t kind, uint8_t action)
{
	for (size_t i = 0; i < a->newest->lane_count; i++)
		if (wants(&a->newest->lanes[i], kind, action))
			return true;
	return false;
}

static void write_record(struct lat_audit *a, const struct lat_record *r)
{
	const struct routing *c = a->current;

	for (size_t s = 0; s < c->sink_count; s++)
		for (size_t i = 0; i < c->lane_count; i++)
			if (c->lanes[i].sink == s && wants(&c->lanes[i], r->kind, r->action)) {
				lat_sink_put(c->sinks[s], r, &a->context);
				break;
			}
}

static bool flush_sinks(struct lat_audit *a)
{
	uint64_t lost = a->lost;
	bool pending = false;

	for (size_t i = 0; i < a->current->sink_count; i++) {
		lat_sink_flush(a->current->sinks[i], &a->context);
		pending |= lat_sink_pending(a->current->sinks[i]);
		lost += lat_sink_lost(a->current->sinks[i]);
	}
	atomic_store_explicit(&a->sinks_lost, lost, memory_order_relaxed);
	return pending;
}

/* Takes the next routing; sinks that it does not have end. */
static void take_routing(struct lat_audit *a, struct routing *next)
{
	struct routing *old = a->current;

	a->current = next;
	for (size_t i = 0; old && i < old->sink_count; i++)
		if (!has_sink(next, old->sinks[i]))
			a->lost += lat_sink_close(old->sinks[i], &a->context);
	for (size_t i = 0; i < next->sink_count; i++)
		lat_sink_set_rotation(next->sinks[i], next->rotate[i]);
	routing_free(old);
}

static void wait_at_most(struct lat_audit *a, uint64_t ns)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	ns += (uint64_t)until.tv_nsec;
	until.tv_sec += (time_t)(ns / LAT_NS_PER_SEC);
	until.tv_nsec = (long)(ns % LAT_NS_PER_SEC);
	pthread_cond_timedwait(&a->wake, &a->lock, &until);
}

static struct lat_record loss_record(struct lat_audit *a)
{
	struct lat_record r = { .kind = LAT_RECORD_LOSS, .lost = a->dropped, .seq = ++a->seq, .time_ms = lat_wall_ms() };

	snprintf(r.text, sizeof(r.text), "the queue was full");
	a->dropped = 0;
	return r;
}

/* Under the lock. */
static bool has_work(const struct lat_audit *a)
{
	return a->head < a->tail || a->dropped || a->handed;
}

static void *write_loop(void *arg)
{
	struct lat_audit *a = arg;
	bool pending = false, dozed = true;

	pthread_mutex_lock(&a->lock);
	for (;;) {
		struct routing *next = a->handed;
		size_t from = a->head, to = a->tail < from + BATCH ? a->tail : from + BATCH;
		struct lat_record loss = { 0 };

		if (!has_work(a)) {
			if (a->stop && (!pending || lat_now_ns() >= a->deadline_ns))
				break;
			if (a->stop) { /* a slow reader has what time there is */
				wait_at_most(a, STOP_RETRY_NS);
				pthread_mutex_unlock(&a->lock);
				pending = flush_sinks(a);
				pthread_mutex_lock(&a->lock);
				continue;
			}
			if (!dozed) { /* nobody needs to wake us for what comes in this moment */
				dozed = true;
				wait_at_most(a, DOZE_NS);
				continue;
			}
			a->waiting = true;
			if (pending)
				wait_at_most(a, RETRY_NS);
			else
				pthread_cond_wait(&a->wake, &a->lock);
			a->waiting = false;
			if (!has_work(a) && pending) {
				pthread_mutex_unlock(&a->lock);
				pending = flush_sinks(a);
				pthread_mutex_lock(&a->lock);
			}
			continue;
		}
		dozed = false;
		if (next && next->from > from) { /* first what is the old one's */
			to = next->from < to ? next->from : to;
			next = NULL;
		}
		if (next) {
			a->handed = next->next;
			if (a->handed && a->handed->from < to)
				to = a->handed->from;
		}
		if (from == to && a->dropped)
			loss = loss_record(a);
		pthread_mutex_unlock(&a->lock);
		if (next)
			take_routing(a, next);
		for (size_t i = from; i < to; i++)
			write_record(a, &a->queue[i % a->size]);
		if (loss.seq)
			write_record(a, &loss);
		pending = flush_sinks(a);
		pthread_mutex_lock(&a->lock);
		if (to > from) /* else the producer may have set both back to 0 */
			a->head = to;
	}
	pthread_mutex_unlock(&a->lock);
	for (size_t i = 0; i < a->current->sink_count; i++)
		a->lost += lat_sink_close(a->current->sinks[i], &a->context);
	pthread_mutex_lock(&a->lock);
	a->done = true;
	pthread_cond_signal(&a->ended);
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

static void audit_free(struct lat_audit *a)
{
	pthread_cond_destroy(&a->wake);
	pthread_cond_destroy(&a->ended);
	pthread_mutex_destroy(&a->lock);
	routing_free(a->current);
	free(a->queue);
	free(a->run_name);
	free(a->run_id);
	free(a->mode);
	free(a->passed_over);
	free(a->policy);
	free(a);
}

static int copy_text(char **to, const char *text)
{
	*to = strdup(text ? text : "");
	return *to ? 0 : -ENOMEM;
}

static int start_writer(struct lat_audit *a)
{
	sigset_t all, keep;
	int r;

	sigfillset(&all); /* SIGPIPE too: a reader that went away is an errno */
	sigdelset(&all, LAT_SIGNAL_PRIVILEGE);
	pthread_sigmask(SIG_SETMASK, &all, &keep);
	r = pthread_create(&a->writer, NULL, write_loop, a);
	pthread_sigmask(SIG_SETMASK, &keep, NULL);
	return -r;
}

int lat_audit_start(const struct lat_audit_options *o, struct lat_audit **out, const char **failed_target)
{
	struct lat_audit *a = calloc(1, sizeof(*a));
	pthread_condattr_t monotonic;
	int r;

	*failed_target = NULL;
	if (!a)
		return -ENOMEM;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&a->wake, &monotonic);
	pthread_cond_init(&a->ended, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_mutex_init(&a->lock, NULL);
	a->size = o->queue_records ? o->queue_records : QUEUE_DEFAULT;
	a->queue = calloc(a->size, sizeof(*a->queue));
	gethostname(a->host, sizeof(a->host) - 1);
	r = a->queue ? 0 : -ENOMEM;
	r = r ? r : copy_text(&a->run_name, o->run_name);
	r = r ? r : copy_text(&a->run_id, o->run_id);
	r = r ? r : copy_text(&a->mode, o->mode);
	r = r ? r : copy_text(&a->passed_over, o->passed_over);
	r = r ? r : copy_text(&a->policy, o->policy);
	a->context = (struct lat_audit_context){ .run_name = a->run_name, .run_id = a->run_id, .mode = a->mode,
		.passed_over = a->passed_over, .policy = a->policy, .host = a->host };
	if (r == 0)
		r = routing_new(NULL, &a->context, o->routes, o->route_count, &a->current, failed_target);
	if (r == 0) {
		a->newest = a->current;
		r = start_writer(a);
		for (size_t i = 0; r < 0 && i < a->current->sink_count; i++)
			lat_sink_close(a->current->sinks[i], &a->context);
	}
	if (r < 0) {
		audit_free(a);
		return r;
	}
	*out = a;
	return 0;
}

/* Under the lock. The indices run on; only where they are equal may both go back to 0, which keeps the pages in use few. */
static bool push(struct lat_audit *a, const struct lat_record *r)
{
	if (a->head == a->tail) {
		a->head = a->tail = 0;
		for (struct routing *next = a->handed; next; next = next->next)
			next->from = 0;
	}
	if (a->tail - a->head == a->size)
		return false;
	a->queue[a->tail++ % a->size] = *r;
	return true;
}

void lat_audit_emit(struct lat_audit *a, struct lat_record *record)
{
	pthread_mutex_lock(&a->lock);
	record->time_ms = lat_wall_ms();
	if (a->tail - a->head + (a->dropped ? 2 : 1) > a->size) {
		a->dropped++;
		a->dropped_total++;
		record->seq = 0;
	} else {
		if (a->dropped) {
			struct lat_record loss = loss_record(a);

			push(a, &loss);
		}
		record->seq = ++a->seq;
		push(a, record);
	}
	if (a->waiting)
		pthread_cond_signal(&a->wake);
	pthread_mutex_unlock(&a->lock);
}

int lat_audit_reroute(struct lat_audit *a, const struct lat_audit_route *routes, size_t count, const char **failed_target)
{
	struct routing *next, **end;
	int r;

	*failed_target = NULL;
	r = routing_new(a->newest, &a->context, routes, count, &next, failed_target);
	if (r < 0)
		return r;
	pthread_mutex_lock(&a->lock);
	a->newest = next;
	next->from = a->tail; /* what is queued is still for the old routes */
	for (end = &a->handed; *end; end = &(*end)->next)
		;
	*end = next;
	if (a->waiting)
		pthread_cond_signal(&a->wake);
	pthread_mutex_unlock(&a->lock);
	return 0;
}

uint64_t lat_audit_lost(struct lat_audit *a)
{
	uint64_t lost;

	pthread_mutex_lock(&a->lock);
	lost = a->dropped_total;
	pthread_mutex_unlock(&a->lock);
	return lost + atomic_load_explicit(&a->sinks_lost, memory_order_relaxed);
}

uint64_t lat_audit_stop(struct lat_audit *a, int timeout_ms)
{
	struct timespec until;
	uint64_t lost;
	int r = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += timeout_ms % 1000 * (long)LAT_NS_PER_MS;
	if (until.tv_nsec >= (long)LAT_NS_PER_SEC) {
		until.tv_sec++;
		until.tv_nsec -= (long)LAT_NS_PER_SEC;
	}
	pthread_mutex_lock(&a->lock);
	a->stop = true;
	a->deadline_ns = lat_now_ns() + (uint64_t)timeout_ms * LAT_NS_PER_MS * 4 / 5;
	pthread_cond_signal(&a->wake);
	while (!a->done && r == 0)
		r = pthread_cond_timedwait(&a->ended, &a->lock, &until);
	lost = a->dropped_total + (a->done ? a->lost : a->tail - a->head);
	r = a->done ? 0 : -ETIMEDOUT;
	pthread_mutex_unlock(&a->lock);
	if (r < 0) { /* the writer sits in a call that does not end; what it uses must stay */
		pthread_detach(a->writer);
		return lost;
	}
	pthread_join(a->writer, NULL);
	audit_free(a);
	return lost;
}
