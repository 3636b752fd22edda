/* lattice.conntrack: tracked connections that carry a mark (kernel/conntrack.h), listed or marked anew in a thread of
 * the loop's pool. A connection is a table; its key is what remark takes. */
#include "lua/api.h"
#include "kernel/conntrack.h"
#include "lua/runtime_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LIST_MAX (1u << 20)

enum what { LIST, REMARK };

struct job {
	uv_work_t work;
	struct lat_rt *rt;
	int done; /* reference of the function */
	enum what what;
	uint32_t mask, value;
	struct lat_conntrack *entries;
	size_t count, room, limit;
	size_t changed;
	int error;
};

static void free_job(struct job *job)
{
	free(job->entries);
	free(job);
}

/* ---- in the thread ---- */

static int keep(void *ctx, const struct lat_conntrack *ct)
{
	struct job *job = ctx;

	if (job->count == job->limit)
		return 1;
	if (job->count == job->room) {
		size_t room = job->room ? job->room * 2 : 256;
		struct lat_conntrack *entries = realloc(job->entries, room * sizeof(*entries));

		if (!entries)
			return -ENOMEM;
		job->entries = entries;
		job->room = room;
	}
	job->entries[job->count++] = *ct;
	return 0;
}

static void run(uv_work_t *work)
{
	struct job *job = work->data;
	int r;

	if (job->what == LIST) {
		r = lat_conntrack_list(job->mask, keep, job);
		job->error = r < 0 ? r : 0;
		return;
	}
	for (size_t i = 0; i < job->count; i++) {
		const struct lat_conntrack *ct = &job->entries[i];

		r = lat_conntrack_remark(ct, job->value, job->mask);
		if (r == 0)
			job->changed++;
		else if (r != -ENOENT && job->error == 0)
			job->error = r;
	}
}

/* ---- on the loop ---- */

static void set_addr(lua_State *L, const char *key, const struct lat_addr *a)
{
	char text[LAT_ADDR_TEXT];

	lua_pushstring(L, lat_addr_format(a, text, sizeof(text)));
	lua_setfield(L, -2, key);
}

static void set_integer(lua_State *L, const char *key, lua_Integer value)
{
	lua_pushinteger(L, value);
	lua_setfield(L, -2, key);
}

static void push_entry(lua_State *L, const struct lat_conntrack *ct)
{
	lua_createtable(L, 0, 14);
	set_integer(L, "family", ct->family);
	set_integer(L, "proto", ct->proto);
	set_addr(L, "src", &ct->orig.src);
	set_addr(L, "dst", &ct->orig.dst);
	set_integer(L, "sport", ct->orig.sport);
	set_integer(L, "dport", ct->orig.dport);
	set_addr(L, "reply_src", &ct->reply.src);
	set_addr(L, "reply_dst", &ct->reply.dst);
	set_integer(L, "reply_sport", ct->reply.sport);
	set_integer(L, "reply_dport", ct->reply.dport);
	set_integer(L, "mark", ct->mark);
	set_integer(L, "packets", (lua_Integer)(ct->packets[0] + ct->packets[1]));
	set_integer(L, "bytes", (lua_Integer)(ct->bytes[0] + ct->bytes[1]));
	lua_pushlstring(L, (const char *)ct, sizeof(*ct));
	lua_setfield(L, -2, "key");
}

static int deliver(lua_State *L)
{
	static const char *const tried[] = { "list the tracked connections", "mark tracked connections" };
	struct job *job = lua_touserdata(L, 1);
	int n = 1;

	lua_rawgeti(L, LUA_REGISTRYINDEX, job->done);
	luaL_unref(L, LUA_REGISTRYINDEX, job->done);
	if (job->error < 0) {
		n = lat_push_errno(L, job->error, tried[job->what]);
	} else if (job->what == LIST) {
		lua_createtable(L, (int)job->count, 0);
		for (size_t i = 0; i < job->count; i++) {
			push_entry(L, &job->entries[i]);
			lua_rawseti(L, -2, (lua_Integer)i + 1);
		}
	} else {
		lua_pushinteger(L, (lua_Integer)job->changed);
	}
	lua_call(L, n, 0);
	return 0;
}

static void finish(uv_work_t *work, int status)
{
	struct job *job = work->data;
	struct lat_rt *rt = job->rt;
	struct lat_rt_error err;
	int r = status < 0 ? 0 : lat_rt_enter(rt, deliver, job, &err);

	free_job(job);
	if (r < 0 && r != -ECANCELED)
		lat_rt_callback_failed(rt, &err);
}

static struct job *new_job(lua_State *L, enum what what)
{
	struct job *job = calloc(1, sizeof(*job));

	if (!job)
		luaL_error(L, "out of memory");
	job->what = what;
	job->rt = lat_rt_of(L);
	job->work.data = job;
	return job;
}

/* fn: index of the function. Takes the job. */
static int start(lua_State *L, struct job *job, int fn)
{
	uv_loop_t *loop = lat_rt_loop(job->rt);
	int r = loop ? 0 : -ENOSYS;

	if (r == 0) {
		lua_pushvalue(L, fn);
		job->done = luaL_ref(L, LUA_REGISTRYINDEX);
		r = uv_queue_work(loop, &job->work, run, finish);
		if (r < 0)
			luaL_unref(L, LUA_REGISTRYINDEX, job->done);
	}
	if (r < 0) {
		free_job(job);
		return lat_push_errno(L, r, "start work on tracked connections");
	}
	lua_pushboolean(L, 1);
	return 1;
}

static int l_list(lua_State *L)
{
	uint32_t mask = (uint32_t)luaL_checkinteger(L, 1);
	lua_Integer limit = luaL_checkinteger(L, 2);
	struct job *job;

	luaL_argcheck(L, limit > 0 && limit <= LIST_MAX, 2, "1 to 1048576 expected");
	luaL_checktype(L, 3, LUA_TFUNCTION);
	job = new_job(L, LIST);
	job->mask = mask;
	job->limit = (size_t)limit;
	return start(L, job, 3);
}

/* Keys of the list at index 1 into a job; nothing may throw once it is allocated. */
static struct job *take_keys(lua_State *L)
{
	size_t count, len;
	struct job *job;

	luaL_checktype(L, 1, LUA_TTABLE);
	count = (size_t)lua_rawlen(L, 1);
	for (size_t i = 1; i <= count; i++) {
		if (lua_rawgeti(L, 1, (lua_Integer)i) != LUA_TSTRING || !lua_tolstring(L, -1, &len) ||
			len != sizeof(struct lat_conntrack))
			luaL_argerror(L, 1, "keys of connections expected");
		lua_pop(L, 1);
	}
	job = new_job(L, REMARK);
	job->entries = calloc(count ? count : 1, sizeof(*job->entries));
	if (!job->entries) {
		free_job(job);
		luaL_error(L, "out of memory");
	}
	for (size_t i = 0; i < count; i++) {
		lua_rawgeti(L, 1, (lua_Integer)i + 1);
		memcpy(&job->entries[i], lua_tostring(L, -1), sizeof(*job->entries));
		lua_pop(L, 1);
	}
	job->count = count;
	return job;
}

static int l_remark(lua_State *L)
{
	uint32_t value = (uint32_t)luaL_checkinteger(L, 2), mask = (uint32_t)luaL_checkinteger(L, 3);
	struct job *job;

	luaL_checktype(L, 4, LUA_TFUNCTION);
	job = take_keys(L);
	job->value = value;
	job->mask = mask;
	return start(L, job, 4);
}

#define DONE_COUNT "done: fun(count: integer?, error: string?, code: string?)"
#define STARTED "true?, string? error, string? code"

static const struct lat_api_function functions[] = {
	{ "list", l_list,
		"mask: integer, limit: integer, done: fun(flows: lattice.conntrack.Flow[]?, error: string?, code: string?)", STARTED,
		"The connections of our network namespace with a bit of the mask in theirs, at most limit." },
	{ "remark", l_remark, "keys: string[], value: integer, mask: integer, " DONE_COUNT, STARTED,
		"Change the bits of the mask in their marks; one that is gone already does not count." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.conntrack.Flow", "A tracked connection; reply_*: its replies, behind NAT.", NULL, NULL,
		"family: integer, proto: integer, src: string, dst: string, sport: integer, dport: integer, reply_src: string, "
		"reply_dst: string, reply_sport: integer, reply_dport: integer, mark: integer, packets: integer, "
		"bytes: integer, key: string" },
	{ 0 },
};

const struct lat_api lat_api_conntrack = {
	.name = "lattice.conntrack",
	.doc = "The kernel's tracked connections, by their marks.",
	.functions = functions,
	.classes = classes,
};
