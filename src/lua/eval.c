/* See eval.h. Two hold the object: the thread, and the loop's handle until libuv has closed it. The lock is held for copies
 * only. The state itself is the thread's; the owner touches nothing of it but lat_rt_stop. */
#include "lua/eval.h"
#include "base/clock.h"
#include "lua/box.h"
#include <errno.h>
#include <lauxlib.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define STACK (2u << 20)
#define NICE 10 /* a long evaluation gives way to everything else */

struct text {
	char *bytes; /* NUL-terminated; NULL: none */
	size_t len;
};

struct lat_eval {
	struct lat_eval_options options;
	char module[64];
	void (*tell)(void *ctx, const struct lat_eval_message *message);
	void *ctx;
	uv_async_t async;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	/* under the lock */
	unsigned refs;
	bool closing, busy, stopped;
	struct lat_rt *rt;
	struct text job, answer;
	bool answered, answer_failed;
	uint64_t call_id; /* that waits for an answer; 0: none */
	struct lat_eval_message *first, *last;
	/* the thread's own */
	uint64_t next_id, cpu_end_ns;
	uint32_t calls_left;
	size_t output_left;
};

static int copy_text(struct text *t, const char *bytes, size_t len)
{
	char *copy = malloc(len + 1);

	if (!copy)
		return -ENOMEM;
	memcpy(copy, bytes, len);
	copy[len] = '\0';
	free(t->bytes);
	*t = (struct text){ copy, len };
	return 0;
}

static void free_text(struct text *t)
{
	free(t->bytes);
	*t = (struct text){ 0 };
}

static void free_message(struct lat_eval_message *m)
{
	free(m->text);
	free(m);
}

static void unref(struct lat_eval *e)
{
	struct lat_eval_message *m;
	bool last;

	pthread_mutex_lock(&e->lock);
	last = --e->refs == 0;
	pthread_mutex_unlock(&e->lock);
	if (!last)
		return;
	while ((m = e->first)) {
		e->first = m->next;
		free_message(m);
	}
	free_text(&e->job);
	free_text(&e->answer);
	pthread_cond_destroy(&e->wake);
	pthread_mutex_destroy(&e->lock);
	free(e);
}

/* ---- the thread ---- */

static uint64_t cpu_ns(void)
{
	struct timespec ts = { 0 };

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * LAT_NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* Output that nobody has fetched yet is joined, so that a million short writes are no million messages. Locked. */
static int join(struct lat_eval *e, const char *bytes, size_t len)
{
	struct lat_eval_message *m = e->last;
	char *more;

	if (!m || m->kind != LAT_EVAL_OUTPUT)
		return -ENOENT;
	more = realloc(m->text, m->len + len + 1);
	if (!more)
		return -ENOMEM;
	memcpy(more + m->len, bytes, len);
	m->text = more;
	m->len += len;
	more[m->len] = '\0';
	return 0;
}

/* Tells the owner; m is a template whose text is copied. */
static int post(struct lat_eval *e, const struct lat_eval_message *template, const char *bytes, size_t len)
{
	struct lat_eval_message *m;
	struct text text = { 0 };
	int r;

	if (template->kind == LAT_EVAL_OUTPUT) {
		pthread_mutex_lock(&e->lock);
		r = join(e, bytes, len);
		pthread_mutex_unlock(&e->lock);
		if (r != -ENOENT)
			return r;
	}
	m = malloc(sizeof(*m));
	r = m ? copy_text(&text, bytes, len) : -ENOMEM;
	if (r < 0) {
		free(m);
		return r;
	}
	*m = *template;
	m->next = NULL;
	m->text = text.bytes;
	m->len = len;
	pthread_mutex_lock(&e->lock);
	if (e->last)
		e->last->next = m;
	else
		e->first = m;
	e->last = m;
	if (!e->closing)
		uv_async_send(&e->async);
	pthread_mutex_unlock(&e->lock);
	return 0;
}

/* output(text): upvalue 1 is the session. Whether it was taken: false when the limit is reached. */
static int l_output(lua_State *L)
{
	struct lat_eval *e = lua_touserdata(L, lua_upvalueindex(1));
	size_t len;
	const char *text = luaL_checklstring(L, 1, &len);
	size_t take = len < e->output_left ? len : e->output_left;

	e->output_left -= take;
	if (take && post(e, &(struct lat_eval_message){ .kind = LAT_EVAL_OUTPUT }, text, take) < 0)
		return luaL_error(L, "out of memory");
	lua_pushboolean(L, take == len);
	return 1;
}

/* Waits for the answer to call `id` and moves it to *out. -ECANCELED: interrupted. */
static int wait_answer(struct lat_eval *e, struct text *out, bool *failed)
{
	int r = 0;

	pthread_mutex_lock(&e->lock);
	while (!e->answered && !e->stopped && !e->closing)
		pthread_cond_wait(&e->wake, &e->lock);
	if (e->answered) {
		*out = e->answer;
		*failed = e->answer_failed;
		e->answer = (struct text){ 0 };
	} else {
		r = -ECANCELED;
	}
	e->answered = false;
	e->call_id = 0;
	pthread_mutex_unlock(&e->lock);
	return r;
}

static void close_text(void *text)
{
	free(text);
}

static const struct lat_box_type text_type = { "lattice.eval.Text", close_text };

/* call(name, text) -> text | nil, message: upvalue 1 is the session. */
static int l_call(lua_State *L)
{
	struct lat_eval *e = lua_touserdata(L, lua_upvalueindex(1));
	const char *name = luaL_checkstring(L, 1), *bytes;
	size_t len;
	const char *text = luaL_checklstring(L, 2, &len);
	struct lat_eval_message m = { .kind = LAT_EVAL_CALL };
	struct lat_box *box;
	struct text answer = { 0 };
	bool failed = false;
	int r;

	if (!e->calls_left || cpu_ns() >= e->cpu_end_ns)
		return luaL_error(L, "stopped: this evaluation asks the agent too much");
	e->calls_left--;
	box = lat_box_new(L, &text_type);
	m.id = ++e->next_id;
	snprintf(m.name, sizeof(m.name), "%s", name);
	pthread_mutex_lock(&e->lock);
	e->call_id = m.id;
	pthread_mutex_unlock(&e->lock);
	if (post(e, &m, text, len) < 0)
		return luaL_error(L, "out of memory");
	lat_rt_wait_begin(L);
	r = wait_answer(e, &answer, &failed);
	lat_rt_wait_end(L);
	if (r < 0)
		return luaL_error(L, "interrupted");
	lat_box_fill(L, box, answer.bytes);
	bytes = answer.bytes;
	if (failed)
		lua_pushnil(L);
	lua_pushlstring(L, bytes, answer.len);
	lat_box_close(L, box);
	return failed ? 2 : 1;
}

struct run_call {
	struct lat_eval *eval;
	struct text *job;
	char *result; /* malloc'ed */
	size_t len;
};

static const char run_key;

/* Runs before any text of the user, so what it finds is ours. */
static int deliver_open(lua_State *L)
{
	struct lat_eval *e = lua_touserdata(L, 1);

	lat_box_register(L, &text_type);
	lua_getglobal(L, "require");
	lua_pushstring(L, e->module);
	lua_call(L, 1, 1);
	lua_getfield(L, -1, "run");
	lua_rawsetp(L, LUA_REGISTRYINDEX, &run_key);
	return 0;
}

static int deliver_run(lua_State *L)
{
	struct run_call *c = lua_touserdata(L, 1);
	const char *result;

	lua_rawgetp(L, LUA_REGISTRYINDEX, &run_key);
	lua_pushlstring(L, c->job->bytes, c->job->len);
	lua_pushlightuserdata(L, c->eval);
	lua_pushcclosure(L, l_call, 1);
	lua_pushlightuserdata(L, c->eval);
	lua_pushcclosure(L, l_output, 1);
	lua_call(L, 3, 1);
	result = luaL_checklstring(L, -1, &c->len);
	c->result = malloc(c->len + 1);
	if (!c->result)
		return luaL_error(L, "out of memory");
	memcpy(c->result, result, c->len + 1);
	return 0;
}

/* One evaluation, from job to DONE. */
static void work(struct lat_eval *e, struct lat_rt *rt, struct text *job, struct lat_rt_error *error)
{
	struct run_call c = { .eval = e, .job = job };
	struct lat_eval_message done = { .kind = LAT_EVAL_DONE };
	int r = -ENOMEM;

	e->calls_left = e->options.calls;
	e->output_left = e->options.output;
	e->cpu_end_ns = cpu_ns() + e->options.cpu_ms * LAT_NS_PER_MS;
	snprintf(error->text, sizeof(error->text), "out of memory");
	error->why = LAT_RT_MEMORY;
	if (rt)
		r = lat_rt_enter(rt, deliver_run, &c, error);
	if (r < 0) {
		done.failed = true;
		done.why = error->why;
		r = post(e, &done, error->text, strlen(error->text));
	} else {
		r = post(e, &done, c.result, c.len);
	}
	free(c.result);
	if (r < 0) /* The owner waits for a DONE. */
		post(e, &(struct lat_eval_message){ .kind = LAT_EVAL_DONE, .failed = true, .why = LAT_RT_MEMORY }, "", 0);
}

static struct lat_rt *open_state(struct lat_eval *e, struct lat_rt_error *error)
{
	struct lat_rt *rt;

	if (lat_rt_new(LAT_RT_POLICY, &e->options.limits, &rt) < 0)
		return NULL;
	if (lat_rt_enter(rt, deliver_open, e, error) < 0) {
		lat_rt_free(rt);
		return NULL;
	}
	return rt;
}

static void *thread(void *arg)
{
	struct lat_eval *e = arg;
	struct lat_rt_error *error = calloc(1, sizeof(*error));
	struct lat_rt *rt = error ? open_state(e, error) : NULL;
	struct text job;

	setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
	pthread_mutex_lock(&e->lock);
	e->rt = rt;
	if (rt && e->stopped)
		lat_rt_stop(rt, true);
	while (!e->closing && error) {
		if (!e->job.bytes) {
			pthread_cond_wait(&e->wake, &e->lock);
			continue;
		}
		job = e->job;
		e->job = (struct text){ 0 };
		pthread_mutex_unlock(&e->lock);
		work(e, rt, &job, error);
		free_text(&job);
		pthread_mutex_lock(&e->lock);
	}
	e->rt = NULL;
	pthread_mutex_unlock(&e->lock);
	lat_rt_free(rt);
	free(error);
	unref(e);
	return NULL;
}

/* ---- the owner ---- */

static void on_messages(uv_async_t *async)
{
	struct lat_eval *e = async->data;
	struct lat_eval_message *m;

	for (;;) {
		pthread_mutex_lock(&e->lock);
		m = e->closing ? NULL : e->first;
		if (m) {
			e->first = m->next;
			if (!e->first)
				e->last = NULL;
			if (m->kind == LAT_EVAL_DONE)
				e->busy = false;
		}
		pthread_mutex_unlock(&e->lock);
		if (!m)
			return;
		if (m->kind == LAT_EVAL_DONE)
			uv_unref((uv_handle_t *)async);
		e->tell(e->ctx, m);
		free_message(m);
	}
}

static int start_thread(struct lat_eval *e)
{
	pthread_attr_t attr;
	sigset_t all, old;
	pthread_t id;
	int r;

	r = pthread_attr_init(&attr);
	if (r)
		return -r;
	pthread_attr_setstacksize(&attr, STACK);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the loop's */
	r = pthread_create(&id, &attr, thread, e);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return -r;
}

static void on_closed(uv_handle_t *handle)
{
	unref(handle->data);
}

int lat_eval_new(uv_loop_t *loop, const struct lat_eval_options *options,
	void (*tell)(void *ctx, const struct lat_eval_message *message), void *ctx, struct lat_eval **out)
{
	struct lat_eval *e = calloc(1, sizeof(*e));
	int r;

	if (!e)
		return -ENOMEM;
	e->options = *options;
	snprintf(e->module, sizeof(e->module), "%s", options->module);
	e->tell = tell;
	e->ctx = ctx;
	e->refs = 2;
	pthread_mutex_init(&e->lock, NULL);
	pthread_cond_init(&e->wake, NULL);
	r = uv_async_init(loop, &e->async, on_messages);
	if (r < 0) {
		e->refs = 1;
		unref(e);
		return r;
	}
	e->async.data = e;
	uv_unref((uv_handle_t *)&e->async); /* an idle session keeps no loop going */
	r = start_thread(e);
	if (r < 0) {
		e->refs = 1;
		e->closing = true;
		uv_close((uv_handle_t *)&e->async, on_closed);
		return r;
	}
	*out = e;
	return 0;
}

int lat_eval_run(struct lat_eval *e, const char *text, size_t len)
{
	int r;

	pthread_mutex_lock(&e->lock);
	r = e->busy ? -EBUSY : copy_text(&e->job, text, len);
	if (r == 0) {
		e->busy = true;
		e->stopped = false;
		if (e->rt)
			lat_rt_stop(e->rt, false);
		pthread_cond_signal(&e->wake);
	}
	pthread_mutex_unlock(&e->lock);
	if (r == 0)
		uv_ref((uv_handle_t *)&e->async);
	return r;
}

int lat_eval_answer(struct lat_eval *e, uint64_t id, const char *text, size_t len, bool error)
{
	int r = 0;

	pthread_mutex_lock(&e->lock);
	if (id && id == e->call_id && !e->answered) {
		r = copy_text(&e->answer, text, len);
		e->answered = r == 0;
		e->answer_failed = error;
		pthread_cond_signal(&e->wake);
	}
	pthread_mutex_unlock(&e->lock);
	return r;
}

void lat_eval_interrupt(struct lat_eval *e)
{
	pthread_mutex_lock(&e->lock);
	if (e->busy) {
		e->stopped = true;
		if (e->rt)
			lat_rt_stop(e->rt, true);
		pthread_cond_signal(&e->wake);
	}
	pthread_mutex_unlock(&e->lock);
}

void lat_eval_close(struct lat_eval *e)
{
	pthread_mutex_lock(&e->lock);
	e->closing = true;
	e->stopped = true;
	if (e->rt)
		lat_rt_stop(e->rt, true);
	pthread_cond_signal(&e->wake);
	pthread_mutex_unlock(&e->lock);
	uv_close((uv_handle_t *)&e->async, on_closed);
}
