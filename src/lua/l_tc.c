/* lattice.tc: the engine of the ebpf enforcer. What waits for the kernel is a job: jobs of one filter run in order, one at a
 * time, in the loop's pool; `done` is called on the loop. A filter that is collected keeps what it put in force. */
#include "lua/api.h"
#include "lua/flow_args.h"
#include "lua/l_policies.h"
#include "lua/runtime_impl.h"
#include "core/filter.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct job;

struct engine {
	struct lat_rt *rt;
	struct lat_filter *filter; /* NULL: not yet open, or closed */
	struct lat_policy *policy; /* in force */
	struct job *first, **last; /* waiting and running jobs */
	bool busy;                 /* one is running, or its result is being told */
	bool dropped;              /* the box is gone: free after the last job */
};

/* What a job works with and what it found. */
struct job {
	uv_work_t work;
	struct engine *engine;
	struct job *next;
	void (*run)(struct job *job);            /* in the pool */
	int (*push)(lua_State *L, struct job *); /* results after success; how many */
	int done; /* reference to the function; LUA_NOREF: nobody waits */
	int box;  /* reference: the engine lives while it works */
	int status;
	const char *tried;
	char say[LAT_TC_SAY];
	/* arguments */
	struct lat_tc_options options;
	char *text;             /* owns strings of options, devices, names */
	const char **list;
	size_t count;
	struct lat_policy *policy;
	struct lat_filter_pin *pins;
	const char **pin_names;
	size_t limit;
	bool keep;
	/* results */
	struct lat_tc_count *counts;
	struct lat_tc_key *keys;
	struct lat_tc_flow *flows;
	int number;
};

static void job_free(struct job *j)
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

static void engine_free(struct engine *e)
{
	lat_filter_close(e->filter, true);
	lat_policy_unref(e->policy);
	free(e);
}

static void engine_close(void *object)
{
	struct engine *e = object;

	if (e->busy)
		e->dropped = true;
	else
		engine_free(e);
}

static const struct lat_box_type engine_type = { "lattice.tc.Filter", engine_close };
/* Jobs whose arguments are still being read: a Lua error frees them. */
static void draft_close(void *object)
{
	job_free(object);
}
static const struct lat_box_type draft_type = { "lattice.tc.Job", draft_close };

static struct engine *check(lua_State *L)
{
	struct engine *e = lat_box_check(L, 1, &engine_type);

	if (!e->filter)
		luaL_argerror(L, 1, "the filter is closed");
	return e;
}

/* ---- jobs ---- */

static int deliver(lua_State *L)
{
	struct job *j = lua_touserdata(L, 1);
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

static void start_next(struct engine *e);

static void job_run(uv_work_t *work)
{
	struct job *j = work->data;

	j->run(j);
}

static void job_done(uv_work_t *work, int status)
{
	struct job *j = work->data;
	struct engine *e = j->engine;
	struct lat_rt *rt = e->rt;
	struct lat_rt_error err;

	if (status < 0)
		j->status = status;
	e->first = j->next;
	if (!e->first)
		e->last = &e->first;
	if (j->done != LUA_NOREF && !rt->ending && lat_rt_enter(rt, deliver, j, &err) < 0)
		lat_rt_callback_failed(rt, &err);
	job_free(j);
	e->busy = false;
	if (e->first)
		start_next(e);
	else if (e->dropped)
		engine_free(e);
}

static void start_next(struct engine *e)
{
	struct job *j = e->first;

	e->busy = true;
	uv_queue_work(lat_rt_loop(e->rt), &j->work, job_run, job_done); /* fails only without a function */
}

static void enqueue(struct engine *e, struct job *j)
{
	j->engine = e;
	j->work.data = j;
	*e->last = j;
	e->last = &j->next;
	if (!e->busy)
		start_next(e);
}

/* Pushes a box with an empty job. */
static struct job *new_job(lua_State *L, const char *tried)
{
	struct lat_box *box = lat_box_new(L, &draft_type);
	struct job *j = calloc(1, sizeof(*j));

	if (!j)
		luaL_error(L, "out of memory");
	j->tried = tried;
	j->done = j->box = LUA_NOREF;
	lat_box_fill(L, box, j);
	return j;
}

/* Takes the job out of the draft at `draft`; the function at `fn` is called with its result, the engine's box is at `box`. */
static int submit(lua_State *L, int box, int draft, int fn)
{
	struct lat_box *b = lua_touserdata(L, box);
	struct engine *e = b->object;
	struct job *j;
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

static int push_true(lua_State *L, struct job *j)
{
	lua_pushboolean(L, 1);
	return 1;
}

/* ---- open, close, clear, probe ---- */

static void run_open(struct job *j)
{
	j->status = lat_filter_open(&j->options, j->list, j->count, &j->engine->filter, j->say);
}

/* The box goes to done. */
static int push_open(lua_State *L, struct job *j)
{
	lua_pushvalue(L, 3);
	lua_pushstring(L, j->say);
	return 2;
}

static const char *field_text(lua_State *L, int index, const char *key)
{
	const char *text;

	lua_getfield(L, index, key);
	text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
	if (!text)
		luaL_argerror(L, index, lua_pushfstring(L, "'%s' is no text", key));
	lua_pop(L, 1); /* the table keeps it */
	return text;
}

static uint32_t field_number(lua_State *L, int index, const char *key)
{
	lua_Integer n = 0;
	int ok = 1;

	if (lua_getfield(L, index, key) != LUA_TNIL)
		n = lua_tointegerx(L, -1, &ok);
	lua_pop(L, 1);
	if (!ok || n < 0 || n > INT32_MAX)
		luaL_argerror(L, index, lua_pushfstring(L, "'%s' is no number from 0", key));
	return (uint32_t)n;
}

static bool field_bool(lua_State *L, int index, const char *key)
{
	bool value;

	lua_getfield(L, index, key);
	value = lua_toboolean(L, -1);
	lua_pop(L, 1);
	return value;
}

/* Copies the texts of the list at the top of the stack, with `first` before them, into j->text and j->list. */
static void take_texts(lua_State *L, struct job *j, const char *first)
{
	lua_Integer n = luaL_len(L, -1);
	size_t size = strlen(first) + 1, len;
	char *at;

	for (lua_Integer i = 1; i <= n; i++) {
		if (lua_rawgeti(L, -1, i) != LUA_TSTRING)
			luaL_argerror(L, 1, "a list holds something that is no text");
		lua_tolstring(L, -1, &len);
		size += len + 1;
		lua_pop(L, 1);
	}
	j->text = malloc(size);
	j->list = calloc((size_t)n + 1, sizeof(*j->list));
	if (!j->text || !j->list)
		luaL_error(L, "out of memory");
	at = stpcpy(j->text, first) + 1;
	for (lua_Integer i = 1; i <= n; i++) {
		lua_rawgeti(L, -1, i);
		j->list[j->count++] = at;
		at = stpcpy(at, lua_tostring(L, -1)) + 1;
		lua_pop(L, 1);
	}
}

static struct lat_box *new_engine(lua_State *L)
{
	struct lat_box *box = lat_box_new(L, &engine_type);
	struct engine *e = calloc(1, sizeof(*e));

	if (!e)
		luaL_error(L, "out of memory");
	e->rt = lat_rt_of(L);
	e->last = &e->first;
	lat_box_fill(L, box, e);
	return box;
}

static int l_open(lua_State *L)
{
	struct job *j;

	luaL_checktype(L, 1, LUA_TTABLE);
	luaL_checktype(L, 2, LUA_TFUNCTION);
	lua_settop(L, 2);
	new_engine(L);
	j = new_job(L, "guard a device by tc programs");
	lua_getfield(L, 1, "devices");
	luaL_argcheck(L, lua_istable(L, -1), 1, "'devices' is no list of names");
	take_texts(L, j, field_text(L, 1, "pins"));
	lua_pop(L, 1);
	luaL_argcheck(L, j->count >= 1 && j->count <= LAT_FILTER_DEVICES, 1, "'devices' are not 1 to 64");
	j->options.pins = j->text;
	j->options.adopt = field_bool(L, 1, "adopt");
	j->options.no_tcx = field_bool(L, 1, "no_tcx");
	j->options.flows = field_number(L, 1, "flows");
	j->options.event_rate = field_number(L, 1, "event_rate");
	j->run = run_open;
	j->push = push_open;
	return submit(L, 3, 4, 2);
}

static void run_close(struct job *j)
{
	lat_filter_close(j->engine->filter, j->keep);
	j->engine->filter = NULL;
}

static int l_close_filter(lua_State *L)
{
	struct job *j;

	check(L);
	luaL_checktype(L, 2, LUA_TBOOLEAN);
	lua_settop(L, 3);
	j = new_job(L, "take tc programs away");
	j->keep = lua_toboolean(L, 2);
	j->run = run_close;
	j->push = push_true;
	return submit(L, 1, 4, 3);
}

static void run_clear(struct job *j)
{
	j->number = lat_tc_clear(j->text, NULL, j->say);
	j->status = j->number < 0 ? j->number : 0;
}

static int push_number(lua_State *L, struct job *j)
{
	lua_pushinteger(L, j->number);
	return 1;
}

static int l_clear(lua_State *L)
{
	const char *pins = luaL_checkstring(L, 1);
	struct job *j;

	luaL_checktype(L, 2, LUA_TFUNCTION);
	lua_settop(L, 2);
	new_engine(L);
	j = new_job(L, "remove what a dead agent left");
	j->text = strdup(pins);
	if (!j->text)
		return luaL_error(L, "out of memory");
	j->run = run_clear;
	j->push = push_number;
	return submit(L, 3, 4, 2);
}

static void run_probe(struct job *j)
{
	j->status = lat_tc_probe(j->say);
}

static int l_probe(lua_State *L)
{
	struct job *j;

	luaL_checktype(L, 1, LUA_TFUNCTION);
	lua_settop(L, 1);
	new_engine(L);
	j = new_job(L, "load the tc programs");
	j->run = run_probe;
	j->push = push_true;
	return submit(L, 2, 3, 1);
}

/* ---- generations ---- */

static void run_settle(struct job *j)
{
	lat_filter_settle(j->engine->filter);
}

static void run_apply(struct job *j)
{
	j->status = lat_filter_apply(j->engine->filter, j->policy, j->pins, j->count, j->say);
}

/* The new policy is in force; what it replaced is freed when done has been told. */
static int push_apply(lua_State *L, struct job *j)
{
	struct engine *e = j->engine;
	struct job *settle = calloc(1, sizeof(*settle));
	struct lat_policy *old = e->policy;

	e->policy = j->policy;
	j->policy = old; /* goes with the job */
	if (settle) {
		settle->run = run_settle;
		settle->done = settle->box = LUA_NOREF;
		settle->engine = e;
		settle->work.data = settle;
		settle->next = e->first;
		e->first = settle;
		if (!settle->next)
			e->last = &settle->next;
	}
	lua_pushboolean(L, 1);
	return 1;
}

/* The list of { addr, names } at `index` (or nil): what lat_filter_pin takes. */
static void take_pins(lua_State *L, int index, struct job *j)
{
	lua_Integer n, total = 0;
	const char **name;

	if (lua_isnoneornil(L, index))
		return;
	luaL_checktype(L, index, LUA_TTABLE);
	n = luaL_len(L, index);
	for (lua_Integer i = 1; i <= n; i++) {
		luaL_argcheck(L, lua_rawgeti(L, index, i) == LUA_TTABLE, index, "a pin is no table");
		luaL_argcheck(L, lua_getfield(L, -1, "names") == LUA_TTABLE, index, "a pin has no 'names'");
		total += luaL_len(L, -1);
		lua_pop(L, 2);
	}
	lua_createtable(L, (int)total, 0); /* all names, for take_texts */
	j->pins = calloc((size_t)n + 1, sizeof(*j->pins));
	if (!j->pins)
		luaL_error(L, "out of memory");
	for (lua_Integer i = 1, at = 0; i <= n; i++) {
		lua_rawgeti(L, index, i);
		lua_getfield(L, -1, "addr");
		lat_lua_check_addr(L, index, lua_tostring(L, -1), &j->pins[i - 1].addr);
		lua_pop(L, 1);
		lua_getfield(L, -1, "names");
		j->pins[i - 1].name_count = (size_t)luaL_len(L, -1);
		for (lua_Integer k = 1; k <= luaL_len(L, -1); k++) {
			lua_rawgeti(L, -1, k);
			lua_rawseti(L, -4, ++at);
		}
		lua_pop(L, 2);
	}
	take_texts(L, j, "");
	lua_pop(L, 1);
	name = j->list;
	for (lua_Integer i = 0; i < n; i++) {
		j->pins[i].names = name;
		name += j->pins[i].name_count;
	}
	j->count = (size_t)n;
}

static int l_apply(lua_State *L)
{
	struct lat_policy *policy;
	struct job *j;

	check(L);
	policy = lat_lua_check_generation(L, 2);
	lua_settop(L, 4);
	j = new_job(L, "put a policy in force");
	take_pins(L, 3, j);
	j->policy = lat_policy_ref(policy);
	j->run = run_apply;
	j->push = push_apply;
	return submit(L, 1, 5, 4);
}

static void run_pin(struct job *j)
{
	j->status = lat_filter_pin(j->engine->filter, j->policy, j->pins, j->count);
}

static int l_pin(lua_State *L)
{
	struct engine *e = check(L);
	struct job *j;

	lua_settop(L, 3);
	if (!e->policy)
		luaL_argerror(L, 1, "it has no policy yet");
	j = new_job(L, "pin names to addresses");
	take_pins(L, 2, j);
	j->policy = lat_policy_ref(e->policy);
	j->run = run_pin;
	j->push = push_true;
	return submit(L, 1, 4, 3);
}

static uint8_t action_of(lua_State *L, const char *text)
{
	for (int i = 0; text && i < LAT_ACTION_COUNT; i++)
		if (strcmp(text, lat_action_name((enum lat_action)i)) == 0)
			return (uint8_t)i;
	luaL_argerror(L, 2, "a rule has no such 'action'");
	return 0;
}

static void take_temp(lua_State *L, struct lat_tc_temp *t)
{
	struct lat_addr addr;
	uint32_t len, lead;

	memset(t, 0, sizeof(*t));
	lat_lua_check_addr(L, 2, field_text(L, -1, "addr"), &addr);
	t->is6 = !lat_addr_is4(&addr);
	len = field_number(L, -1, "len");
	luaL_argcheck(L, len <= (t->is6 ? 128 : 32), 2, "a length is beyond its family");
	lead = t->is6 ? len : 96 + len;
	for (uint32_t i = 0; i < 16; i++) {
		uint32_t bits = lead >= 8 * (i + 1) ? 8 : lead > 8 * i ? lead - 8 * i : 0;

		t->mask[i] = (uint8_t)(0xff00 >> bits);
		t->addr[i] = addr.b[i] & t->mask[i];
	}
	t->box.lo = (uint16_t)field_number(L, -1, "lo");
	t->box.hi = (uint16_t)field_number(L, -1, "hi");
	t->box.proto = (uint8_t)field_number(L, -1, "proto");
	t->box.dir = lat_lua_check_dir(L, 2, field_text(L, -1, "dir"));
}

static int l_temporary(lua_State *L)
{
	struct engine *e = check(L);
	struct lat_tc_temp *temps;
	size_t count = 0;
	int r;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	temps = lua_newuserdatauv(L, LAT_TC_OVERLAY_MOST * sizeof(*temps), 0);
	for (lua_Integer i = 1; i <= luaL_len(L, 2); i++) {
		uint32_t id;
		uint8_t action;
		bool log;

		luaL_argcheck(L, lua_rawgeti(L, 2, i) == LUA_TTABLE, 2, "a rule is no table");
		id = field_number(L, -1, "id");
		action = action_of(L, field_text(L, -1, "action"));
		log = field_bool(L, -1, "log");
		luaL_argcheck(L, lua_getfield(L, -1, "entries") == LUA_TTABLE, 2, "a rule has no 'entries'");
		for (lua_Integer k = 1; k <= luaL_len(L, -1); k++) {
			if (count == LAT_TC_OVERLAY_MOST)
				return lat_push_errno(L, -E2BIG, "more than 64 temporary prefixes and port ranges");
			luaL_argcheck(L, lua_rawgeti(L, -1, k) == LUA_TTABLE, 2, "an entry is no table");
			take_temp(L, &temps[count]);
			temps[count].box.rule = LAT_RULE_TEMPORARY | id;
			temps[count].box.action = action;
			temps[count++].box.log = log;
			lua_pop(L, 1);
		}
		lua_pop(L, 2);
	}
	r = lat_filter_overlay(e->filter, temps, count);
	if (r < 0)
		return lat_push_errno(L, r, "change the temporary rules");
	lua_pushboolean(L, 1);
	return 1;
}

/* ---- looking ---- */

static void set_integer(lua_State *L, const char *key, lua_Integer value)
{
	lua_pushinteger(L, value);
	lua_setfield(L, -2, key);
}

static void set_text(lua_State *L, const char *key, const char *value)
{
	lua_pushstring(L, value);
	lua_setfield(L, -2, key);
}

static void run_counters(struct job *j)
{
	j->status = lat_filter_counters(j->engine->filter, j->limit, &j->counts);
}

static int push_counters(lua_State *L, struct job *j)
{
	lua_createtable(L, (int)j->limit, 1);
	for (size_t i = 0; i <= j->limit; i++) {
		lua_createtable(L, 0, 2);
		set_integer(L, "packets", (lua_Integer)j->counts[i].packets);
		set_integer(L, "bytes", (lua_Integer)j->counts[i].bytes);
		lua_rawseti(L, -2, (lua_Integer)i);
	}
	return 1;
}

static int l_counters(lua_State *L)
{
	struct engine *e = check(L);
	struct job *j;

	lua_settop(L, 2);
	j = new_job(L, "read the counters");
	j->limit = e->policy ? e->policy->spec.rule_count : 0;
	j->run = run_counters;
	j->push = push_counters;
	return submit(L, 1, 3, 2);
}

static void run_flows(struct job *j)
{
	struct lat_filter *f = j->engine->filter;

	j->keys = calloc(j->limit + 1, sizeof(*j->keys));
	j->flows = calloc(j->limit + 1, sizeof(*j->flows));
	j->status = j->keys && j->flows ? 0 : -ENOMEM;
	for (size_t i = 0; j->status == 0 && i < f->count && j->count < j->limit; i++) {
		int n = lat_tc_flows(f->tc[i], j->keys + j->count, j->flows + j->count, j->limit - j->count);

		if (n < 0)
			j->status = n;
		else
			j->count += (size_t)n;
	}
}

static void set_addr(lua_State *L, const char *key, const uint8_t b[16])
{
	char text[LAT_ADDR_TEXT];
	struct lat_addr addr;

	memcpy(addr.b, b, 16);
	set_text(L, key, lat_addr_format(&addr, text, sizeof(text)));
}

static int push_flows(lua_State *L, struct job *j)
{
	lua_Integer n = 0;

	lua_createtable(L, (int)j->count, 0);
	for (size_t i = 0; i < j->count; i++) {
		const struct lat_tc_flow *f = &j->flows[i];

		if (f->action != LAT_ACTION_ALLOW && f->action != LAT_ACTION_AUDIT)
			continue; /* a cut one, kept so that it stays cut */
		lua_createtable(L, 0, 11);
		set_text(L, "dir", f->dir == LAT_DIR_IN ? "in" : "out");
		set_integer(L, "proto", j->keys[i].proto);
		set_addr(L, "local_addr", j->keys[i].local);
		set_addr(L, "addr", j->keys[i].remote);
		set_integer(L, "port", f->dport);
		set_integer(L, "sport", f->sport);
		set_integer(L, "rule", f->rule);
		set_integer(L, "generation", f->generation);
		set_integer(L, "packets", (lua_Integer)(f->packets[0] + f->packets[1]));
		set_integer(L, "bytes", (lua_Integer)(f->bytes[0] + f->bytes[1]));
		lua_rawseti(L, -2, ++n);
	}
	return 1;
}

static int l_flows(lua_State *L)
{
	lua_Integer limit = luaL_checkinteger(L, 2);
	struct job *j;

	check(L);
	luaL_argcheck(L, limit >= 0 && limit <= 1 << 20, 2, "not 0 to 1048576");
	lua_settop(L, 3);
	j = new_job(L, "list the flows");
	j->limit = (size_t)limit;
	j->run = run_flows;
	j->push = push_flows;
	return submit(L, 1, 4, 3);
}

static void run_cut(struct job *j)
{
	j->number = lat_filter_cut(j->engine->filter);
	j->status = j->number < 0 ? j->number : 0;
}

static int l_cut(lua_State *L)
{
	struct job *j;

	check(L);
	lua_settop(L, 2);
	j = new_job(L, "cut flows");
	j->run = run_cut;
	j->push = push_number;
	return submit(L, 1, 3, 2);
}

static int l_ask(lua_State *L)
{
	struct engine *e = check(L);
	struct lat_tc_question question = { .sport = 0 };
	struct lat_tc_answer answer;
	struct lat_flow flow;
	int r;

	lat_lua_check_flow(L, 2, &flow);
	question.remote = flow.remote;
	question.sport = flow.sport;
	question.dport = flow.dport;
	question.proto = flow.proto;
	question.dir = flow.dir;
	r = lat_filter_ask(e->filter, &question, &answer);
	if (r < 0)
		return lat_push_errno(L, r, "ask the loaded program");
	lua_createtable(L, 0, 8);
	set_text(L, "verdict", answer.passes ? "allow" : "deny");
	set_text(L, "action", lat_action_name(answer.action));
	set_integer(L, "rule", answer.rule & ~LAT_RULE_TEMPORARY);
	set_text(L, "why", lat_tc_stat_name(answer.why));
	lua_pushboolean(L, (answer.rule & LAT_RULE_TEMPORARY) != 0);
	lua_setfield(L, -2, "temporary");
	set_integer(L, "generation", answer.generation);
	return 1;
}

static int l_run(lua_State *L)
{
	struct engine *e = check(L);
	uint8_t dir = lat_lua_check_dir(L, 2, luaL_checkstring(L, 2));
	size_t size;
	const char *packet = luaL_checklstring(L, 3, &size);
	int r = lat_tc_run(e->filter->tc[0], dir, packet, size);

	if (r < 0)
		return lat_push_errno(L, r, "run a packet through the program");
	lua_pushboolean(L, r);
	return 1;
}

static int l_status(lua_State *L)
{
	struct engine *e = check(L);

	lua_createtable(L, (int)e->filter->count, 0);
	for (size_t i = 0; i < e->filter->count; i++) {
		struct lat_tc_status s;
		int r = lat_tc_status(e->filter->tc[i], &s);

		if (r < 0)
			return lat_push_errno(L, r, "read the state of a device");
		lua_createtable(L, 0, 10);
		set_text(L, "device", s.device);
		set_text(L, "hook", s.tcx ? "tcx" : "clsact");
		set_text(L, "pins", s.path);
		set_integer(L, "ifindex", s.ifindex);
		set_integer(L, "generation", s.generation);
		set_integer(L, "rules", s.rule_count);
		set_integer(L, "rows", s.rows);
		lua_pushboolean(L, s.adopted);
		lua_setfield(L, -2, "adopted");
		lua_createtable(L, 0, LAT_TC_STAT_COUNT);
		for (int k = 0; k < LAT_TC_STAT_COUNT; k++)
			set_integer(L, lat_tc_stat_name((enum lat_tc_stat)k), (lua_Integer)s.stats[k]);
		lua_setfield(L, -2, "packets");
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	return 1;
}

static int l_rings(lua_State *L)
{
	struct engine *e = check(L);

	lua_createtable(L, (int)e->filter->count, 0);
	for (size_t i = 0; i < e->filter->count; i++) {
		int fd = lat_tc_events(e->filter->tc[i]);

		if (fd < 0)
			return lat_push_errno(L, fd, "open the ring of events");
		lua_pushinteger(L, fd);
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	return 1;
}

static int open_tc(lua_State *L)
{
	lat_box_register(L, &draft_type);
	return 0;
}

static const struct lat_api_function functions[] = {
	{ "open", l_open,
		"options: lattice.tc.Options, done: fun(filter: lattice.tc.Filter?, say: string, code?: string|integer)", "",
		"Attach the programs to the devices, or take over what a dead agent left; nothing passes before the first policy." },
	{ "clear", l_clear, "pins: string, done: fun(removed: integer?, error?: string, code?: string|integer)", "",
		"Remove what dead agents left in this network namespace." },
	{ "probe", l_probe, "done: fun(ok: true?, error?: string, code?: string|integer)", "",
		"Load the programs and attach them to nothing." },
	{ 0 },
};

static const struct lat_api_function methods[] = {
	{ "apply", l_apply,
		"generation: lattice.policies.Generation, pins?: lattice.tc.Pin[], done: fun(ok: true?, error?: string, code?: string)",
		"", "Put a policy in force on every device; on an error the old one is." },
	{ "pin", l_pin, "pins: lattice.tc.Pin[], done: fun(ok: true?, error?: string, code?: string)", "",
		"The addresses that names stand for now, whole list." },
	{ "temporary", l_temporary, "rules: lattice.tc.Temporary[]", "boolean?, string? error, string? code",
		"The rules that come before all others, whole list." },
	{ "counters", l_counters,
		"done: fun(counters: table<integer, { packets: integer, bytes: integer }>?, error?: string, code?: string)", "",
		"Packets and bytes by rule; [0] is the default." },
	{ "flows", l_flows, "limit: integer, done: fun(flows: lattice.tc.Flow[]?, error?: string, code?: string)", "",
		"Open flows, at most limit." },
	{ "cut", l_cut, "done: fun(cut: integer?, error?: string, code?: string)", "",
		"Cut the open flows that the policy in force denies." },
	{ "ask", l_ask, "flow: lattice.tables.Flow", "lattice.tc.Answer?, string? error, string? code",
		"What the loaded program says of a new flow, by a test run that leaves no trace." },
	{ "run", l_run, "dir: \"out\"|\"in\", packet: string", "boolean? passed, string? error, string? code",
		"A packet with its Ethernet header through the first device's program, with all traces of a real one." },
	{ "status", l_status, "", "lattice.tc.Status[]?, string? error, string? code", "One entry a device." },
	{ "rings", l_rings, "", "integer[]?, string? error, string? code",
		"Descriptors of the event rings, one a device; they are the caller's." },
	{ "finish", l_close_filter, "keep: boolean, done: fun(ok: true?)", "",
		"End it; keep leaves all in force, else every trace is removed." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.tc.Filter", "The programs on some devices. One that is only closed leaves all in force.", &engine_type,
		methods, NULL },
	{ "lattice.tc.Options", "Where and how.", NULL, NULL,
		"devices: string[], pins: string, adopt?: boolean, no_tcx?: boolean, flows?: integer, event_rate?: integer" },
	{ "lattice.tc.Pin", "An address and the names it was given for.", NULL, NULL, "addr: string, names: string[]" },
	{ "lattice.tc.Temporary", "A temporary rule.", NULL, NULL,
		"id: integer, action: string, log?: boolean, entries: lattice.policies.Entry[]" },
	{ "lattice.tc.Flow", "An open flow.", NULL, NULL,
		"dir: \"out\"|\"in\", proto: integer, local_addr: string, addr: string, port: integer, sport: integer, "
		"rule: integer, generation: integer, packets: integer, bytes: integer" },
	{ "lattice.tc.Answer", "A verdict; rule 0 is the default, why what the packet was counted as.", NULL, NULL,
		"verdict: \"allow\"|\"deny\", action: string, rule: integer, temporary: boolean, generation: integer, why: string" },
	{ "lattice.tc.Status", "One device; packets by what became of them.", NULL, NULL,
		"device: string, hook: \"tcx\"|\"clsact\", pins: string, ifindex: integer, generation: integer, rules: integer, "
		"rows: integer, adopted: boolean, packets: table<string, integer>" },
	{ 0 },
};

const struct lat_api lat_api_tc = {
	.name = "lattice.tc",
	.doc = "Packet filters by tc programs: the engine of the ebpf enforcer (pro).",
	.functions = functions,
	.classes = classes,
	.open = open_tc,
};
