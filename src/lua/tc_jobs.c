/* lattice.tc: a filter and its jobs. What waits for the kernel is a job: jobs of one filter run in order, one at a time, in the
 * loop's pool; `done` is called on the loop. A filter that is collected keeps what it put in force. */
#include "lua/tc.h"
#include "lua/runtime_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void job_free(struct lat_tc_job *j)
{
	if (j->policy)
		lat_policy_unref(j->policy);
	free(j->text);
	free(j->list);
	free(j->pins);
	free(j->pin_names);
	free(j->counts);
	free(j->keys);
	free(j->flows);
	free(j);
}

static void engine_free(struct lat_tc_engine *e)
{
	lat_filter_close(e->filter, true);
	lat_policy_unref(e->policy);
	pthread_cond_destroy(&e->came);
	pthread_mutex_destroy(&e->mutex);
	free(e);
}

static void engine_close(void *object)
{
	struct lat_tc_engine *e = object;

	if (e->busy)
		e->dropped = true;
	else
		engine_free(e);
}

const struct lat_box_type lat_tc_engine_type = { "lattice.tc.Filter", engine_close };
/* Jobs whose arguments are still being read: a Lua error frees them. */
static void draft_close(void *object)
{
	job_free(object);
}
const struct lat_box_type lat_tc_draft_type = { "lattice.tc.Job", draft_close };

struct lat_tc_engine *lat_tc_engine_check(lua_State *L)
{
	struct lat_tc_engine *e = lat_box_check(L, 1, &lat_tc_engine_type);

	if (!e->filter)
		luaL_argerror(L, 1, "the filter is closed");
	return e;
}

static int deliver(lua_State *L)
{
	struct lat_tc_job *j = lua_touserdata(L, 1);
	char tried[LAT_TC_SAY + 100];

	lua_rawgeti(L, LUA_REGISTRYINDEX, j->done);
	luaL_unref(L, LUA_REGISTRYINDEX, j->done);
	lua_rawgeti(L, LUA_REGISTRYINDEX, j->box); /* for push; goes under the results */
	luaL_unref(L, LUA_REGISTRYINDEX, j->box);
	j->done = j->box = LUA_NOREF;
	if (lua_isnil(L, 2))
		return 0;
	if (j->status == 0) {
		int n = j->push(L, j);

		lua_remove(L, 3);
		lua_call(L, n, 0);
		return 0;
	}
	lua_remove(L, 3);
	snprintf(tried, sizeof(tried), "%s%s%s", j->tried, j->say[0] ? ": " : "", j->say);
	lat_push_errno(L, j->status, tried);
	lua_call(L, 3, 0);
	return 0;
}

static void start_next(struct lat_tc_engine *e);

int lat_tc_job_linger(struct lat_tc_job *j, unsigned ms)
{
	struct lat_tc_engine *e = j->engine;
	struct timespec until;
	int behind, r = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += (long)ms * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&e->mutex);
	while (r == 0 && e->behind == LAT_TC_NOBODY)
		r = pthread_cond_timedwait(&e->came, &e->mutex, &until);
	behind = e->behind;
	pthread_mutex_unlock(&e->mutex);
	return behind;
}

static void job_run(uv_work_t *work)
{
	struct lat_tc_job *j = work->data;

	j->run(j);
}

static void job_done(uv_work_t *work, int status)
{
	struct lat_tc_job *j = work->data;
	struct lat_tc_engine *e = j->engine;
	struct lat_rt *rt = e->rt;
	struct lat_rt_error err;

	if (status < 0)
		j->status = status;
	e->first = j->next;
	if (!e->first)
		e->last = &e->first;
	if (j->done != LUA_NOREF && !rt->ending && lat_rt_enter(rt, deliver, j, &err) < 0)
		lat_rt_callback_failed(rt, &err);
	if (j->again && e->first) {
		j->again = false;
		j->next = NULL;
		*e->last = j;
		e->last = &j->next;
	} else {
		job_free(j);
	}
	e->busy = false;
	if (e->first)
		start_next(e);
	else if (e->dropped)
		engine_free(e);
}

static void note_behind(struct lat_tc_engine *e, const struct lat_tc_job *j)
{
	if (j->replaces)
		e->behind = LAT_TC_AN_APPLY;
	else if (e->behind == LAT_TC_NOBODY)
		e->behind = LAT_TC_SOMEBODY;
}

static void start_next(struct lat_tc_engine *e)
{
	struct lat_tc_job *j = e->first;

	e->busy = true;
	pthread_mutex_lock(&e->mutex);
	e->behind = LAT_TC_NOBODY;
	for (struct lat_tc_job *other = j->next; other; other = other->next)
		note_behind(e, other);
	pthread_mutex_unlock(&e->mutex);
	uv_queue_work(lat_rt_loop(e->rt), &j->work, job_run, job_done); /* fails only without a function */
}

static void enqueue(struct lat_tc_engine *e, struct lat_tc_job *j)
{
	j->engine = e;
	j->work.data = j;
	*e->last = j;
	e->last = &j->next;
	if (!e->busy) {
		start_next(e);
		return;
	}
	pthread_mutex_lock(&e->mutex);
	note_behind(e, j);
	pthread_cond_signal(&e->came);
	pthread_mutex_unlock(&e->mutex);
}

struct lat_tc_job *lat_tc_job_new(lua_State *L, const char *tried)
{
	struct lat_box *box = lat_box_new(L, &lat_tc_draft_type);
	struct lat_tc_job *j = calloc(1, sizeof(*j));

	if (!j)
		luaL_error(L, "out of memory");
	j->tried = tried;
	j->done = j->box = LUA_NOREF;
	lat_box_fill(L, box, j);
	return j;
}

int lat_tc_job_submit(lua_State *L, int box, int draft, int fn)
{
	struct lat_box *b = lua_touserdata(L, box);
	struct lat_tc_engine *e = b->object;
	struct lat_tc_job *j;
	int done, hold;

	luaL_checktype(L, fn, LUA_TFUNCTION);
	if (!lat_rt_loop(lat_rt_of(L)))
		return luaL_error(L, "this state has no loop");
	lua_pushvalue(L, fn);
	done = luaL_ref(L, LUA_REGISTRYINDEX);
	lua_pushvalue(L, box);
	hold = luaL_ref(L, LUA_REGISTRYINDEX);
	j = lat_box_take(L, lua_touserdata(L, draft));
	j->done = done;
	j->box = hold;
	enqueue(e, j);
	return 0;
}

int lat_tc_push_true(lua_State *L, struct lat_tc_job *j)
{
	lua_pushboolean(L, 1);
	return 1;
}

struct lat_box *lat_tc_engine_new(lua_State *L)
{
	struct lat_box *box = lat_box_new(L, &lat_tc_engine_type);
	struct lat_tc_engine *e = calloc(1, sizeof(*e));
	pthread_condattr_t steady;

	if (!e)
		luaL_error(L, "out of memory");
	e->rt = lat_rt_of(L);
	e->last = &e->first;
	pthread_mutex_init(&e->mutex, NULL);
	pthread_condattr_init(&steady);
	pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
	pthread_cond_init(&e->came, &steady);
	pthread_condattr_destroy(&steady);
	lat_box_fill(L, box, e);
	return box;
}

int lat_tc_push_number(lua_State *L, struct lat_tc_job *j)
{
	lua_pushinteger(L, j->number);
	return 1;
}
