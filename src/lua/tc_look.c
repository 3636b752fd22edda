/* lattice.tc: what looks at a filter: counters, flows, its state, and what the loaded program says of a flow. */
#include "lua/flow_args.h"
#include "lua/tc.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

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

static void run_counters(struct lat_tc_job *j)
{
	j->status = lat_filter_counters(j->engine->filter, j->limit, &j->counts);
}

static int push_counters(lua_State *L, struct lat_tc_job *j)
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

int lat_tc_l_counters(lua_State *L)
{
	struct lat_tc_engine *e = lat_tc_engine_check(L);
	struct lat_tc_job *j;

	lua_settop(L, 2);
	j = lat_tc_job_new(L, "read the counters");
	j->limit = e->policy ? e->policy->spec.rule_count : 0;
	j->run = run_counters;
	j->push = push_counters;
	return lat_tc_job_submit(L, 1, 3, 2);
}

static void run_flows(struct lat_tc_job *j)
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

static int push_flows(lua_State *L, struct lat_tc_job *j)
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

int lat_tc_l_flows(lua_State *L)
{
	lua_Integer limit = luaL_checkinteger(L, 2);
	struct lat_tc_job *j;

	lat_tc_engine_check(L);
	luaL_argcheck(L, limit >= 0 && limit <= 1 << 20, 2, "not 0 to 1048576");
	lua_settop(L, 3);
	j = lat_tc_job_new(L, "list the flows");
	j->limit = (size_t)limit;
	j->run = run_flows;
	j->push = push_flows;
	return lat_tc_job_submit(L, 1, 4, 3);
}

static void run_cut(struct lat_tc_job *j)
{
	j->number = lat_filter_cut(j->engine->filter);
	j->status = j->number < 0 ? j->number : 0;
}

int lat_tc_l_cut(lua_State *L)
{
	struct lat_tc_job *j;

	lat_tc_engine_check(L);
	lua_settop(L, 2);
	j = lat_tc_job_new(L, "cut flows");
	j->run = run_cut;
	j->push = lat_tc_push_number;
	return lat_tc_job_submit(L, 1, 3, 2);
}

int lat_tc_l_ask(lua_State *L)
{
	struct lat_tc_engine *e = lat_tc_engine_check(L);
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

int lat_tc_l_run(lua_State *L)
{
	struct lat_tc_engine *e = lat_tc_engine_check(L);
	uint8_t dir = lat_lua_check_dir(L, 2, luaL_checkstring(L, 2));
	size_t size;
	const char *packet = luaL_checklstring(L, 3, &size);
	int r = lat_tc_run(e->filter->tc[0], dir, packet, size);

	if (r < 0)
		return lat_push_errno(L, r, "run a packet through the program");
	lua_pushboolean(L, r);
	return 1;
}

int lat_tc_l_status(lua_State *L)
{
	struct lat_tc_engine *e = lat_tc_engine_check(L);

	lua_createtable(L, (int)e->filter->count, 0);
	for (size_t i = 0; i < e->filter->count; i++) {
		struct lat_tc_status s;
		int r = lat_tc_status(e->filter->tc[i], &s);

		if (r < 0)
			return lat_push_errno(L, r, "read the state of a device");
		lua_createtable(L, 0, 10);
		set_text(L, "device", s.device);
		set_text(L, "hook", !s.device[0] ? "cgroup" : s.tcx ? "tcx" : "clsact");
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

int lat_tc_l_hooked(lua_State *L)
{
	struct lat_tc_engine *e = lat_tc_engine_check(L);

	for (size_t i = 0; i < e->filter->count; i++) {
		int r = lat_tc_hooked(e->filter->tc[i]);

		if (r < 0)
			return lat_push_errno(L, r, "look at the hooks of a device");
		if (r == 0) {
			lua_pushboolean(L, false);
			return 1;
		}
	}
	lua_pushboolean(L, true);
	return 1;
}

int lat_tc_l_rings(lua_State *L)
{
	struct lat_tc_engine *e = lat_tc_engine_check(L);

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
