/* lattice.policies: one loaded policy as the node agent sees it. A load runs in a thread of the loop's pool, in a POLICY state of
 * its own (loader.h) that ends with the load; the generation is what stays. */
#include "lua/l_policies.h"
#include "lua/api.h"
#include "lua/flow_args.h"
#include "lua/loader.h"
#include "lua/runtime_impl.h"
#include "core/changes.h"
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct generation {
	struct lat_policy *policy;
	char *info;             /* JSON of the loader */
	struct lat_pins *pins;  /* for judge; empty between calls */
	char digest[LAT_POLICY_DIGEST + 1];
};

static void generation_close(void *object)
{
	struct generation *g = object;

	lat_policy_unref(g->policy);
	lat_pins_free(g->pins);
	free(g->info);
	free(g);
}

static const struct lat_box_type generation_type = { "lattice.policies.Generation", generation_close };

static struct generation *check(lua_State *L)
{
	return lat_box_check(L, 1, &generation_type);
}

struct lat_policy *lat_lua_check_generation(lua_State *L, int index)
{
	return ((struct generation *)lat_box_check(L, index, &generation_type))->policy;
}

/* ---- load ---- */

struct load {
	uv_work_t work;
	struct lat_rt *rt;
	int done; /* reference in the registry */
	uint32_t number;
	char *spec;
	/* of the thread */
	struct lat_loader *loader;
	struct generation *result;
	char *error;
	int status;
};

static void load_free(struct load *l)
{
	if (l->result)
		generation_close(l->result);
	free(l->spec);
	free(l->error);
	free(l);
}

static void load_run(uv_work_t *work)
{
	struct load *l = work->data;
	struct generation *g = calloc(1, sizeof(*g));

	l->status = g ? lat_loader_new(l->spec, strlen(l->spec), &l->loader) : -ENOMEM;
	if (l->status == 0)
		l->status = lat_pins_new(LAT_LUA_FLOW_NAMES, &g->pins);
	if (l->status == 0)
		l->status = lat_loader_load(l->loader, l->number, &g->policy, &g->info, &l->error);
	if (l->status == 0)
		lat_policy_digest(g->policy, g->digest);
	if (l->status == 0)
		l->result = g;
	else if (g)
		generation_close(g);
}

/* done(generation) or done(nil, text, "policy"|"ENAME") */
static int deliver(lua_State *L)
{
	struct load *l = lua_touserdata(L, 1);

	lua_rawgeti(L, LUA_REGISTRYINDEX, l->done);
	luaL_unref(L, LUA_REGISTRYINDEX, l->done);
	if (l->result) {
		struct lat_box *box = lat_box_new(L, &generation_type);

		lat_box_fill(L, box, l->result);
		l->result = NULL;
		lua_call(L, 1, 0);
		return 0;
	}
	if (l->status == -EINVAL && l->error) {
		lua_pushnil(L);
		lua_pushstring(L, l->error);
		lua_pushliteral(L, "policy");
	} else {
		lat_push_errno(L, l->status, l->error ? l->error : "load a policy");
	}
	lua_call(L, 3, 0);
	return 0;
}

/* The state of a large policy takes a while to end: after the generation has been told of, and not on the loop. */
static void load_end(uv_work_t *work)
{
	struct load *l = work->data;

	lat_loader_free(l->loader);
}

static void load_ended(uv_work_t *work, int status)
{
	struct load *l = work->data;

	if (status < 0)
		lat_loader_free(l->loader);
	load_free(l);
}

static void load_done(uv_work_t *work, int status)
{
	struct load *l = work->data;
	struct lat_rt *rt = l->rt;
	struct lat_rt_error err;

	if (status < 0)
		l->status = status;
	if (!rt->ending && lat_rt_enter(rt, deliver, l, &err) < 0)
		lat_rt_callback_failed(rt, &err);
	if (uv_queue_work(work->loop, &l->work, load_end, load_ended) < 0) {
		lat_loader_free(l->loader);
		load_free(l);
	}
}

/* spec[key], a list of texts, into the JSON object; throws for anything else (the object is in no box: `out` is NULL in a first
 * round that only checks). */
static void take_list(lua_State *L, const char *key, json_t *out)
{
	json_t *list = NULL;

	if (lua_getfield(L, 1, key) != LUA_TNIL) {
		if (!lua_istable(L, -1))
			luaL_argerror(L, 1, lua_pushfstring(L, "'%s' is no list", key));
		list = out ? json_array() : NULL;
		for (lua_Integer i = 1; lua_rawgeti(L, -1, i) != LUA_TNIL; i++) {
			size_t len;
			const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &len) : NULL;

			if (!text || strlen(text) != len)
				luaL_argerror(L, 1, lua_pushfstring(L, "'%s' holds something that is no text", key));
			if (list)
				json_array_append_new(list, json_stringn_nocheck(text, len));
			lua_pop(L, 1);
		}
		lua_pop(L, 1);
	}
	lua_pop(L, 1);
	if (list)
		json_object_set_new(out, key, list);
}

static const char *const lists[] = { "files", "rules_before", "mesh" };

static char *spec_text(lua_State *L)
{
	json_t *spec = json_object();
	char *text;

	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
		take_list(L, lists[i], spec);
	json_object_set_new(spec, "keep_entries", json_true());
	text = json_dumps(spec, JSON_COMPACT);
	json_decref(spec);
	return text;
}

static int l_load(lua_State *L)
{
	lua_Integer number = 1;
	uv_loop_t *loop;
	struct load *l;
	int ok, r, done;

	luaL_checktype(L, 1, LUA_TTABLE);
	luaL_checktype(L, 2, LUA_TFUNCTION);
	lua_settop(L, 2);
	lua_getfield(L, 1, "number");
	number = lua_tointegerx(L, -1, &ok);
	luaL_argcheck(L, ok && number > 0 && number <= UINT32_MAX, 1, "'number' is not 1 to 4294967295");
	lua_pop(L, 1);
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
		take_list(L, lists[i], NULL);
	loop = lat_rt_loop(lat_rt_of(L));
	if (!loop)
		return luaL_error(L, "this state has no loop");
	done = luaL_ref(L, LUA_REGISTRYINDEX);
	l = calloc(1, sizeof(*l));
	if (l)
		l->spec = spec_text(L);
	r = l && l->spec ? 0 : -ENOMEM;
	if (r == 0) {
		l->work.data = l;
		l->rt = lat_rt_of(L);
		l->number = (uint32_t)number;
		l->done = done;
		r = uv_queue_work(loop, &l->work, load_run, load_done);
	}
	if (r < 0) {
		luaL_unref(L, LUA_REGISTRYINDEX, done);
		if (l)
			load_free(l);
		return luaL_error(L, "cannot load a policy: %s", strerror(-r));
	}
	return 0;
}

/* ---- what it holds ---- */

static void set_integer(lua_State *L, const char *key, lua_Integer value)
{
	lua_pushinteger(L, value);
	lua_setfield(L, -2, key);
}

static void set_text(lua_State *L, const char *key, const char *value)
{
	if (!value)
		return;
	lua_pushstring(L, value);
	lua_setfield(L, -2, key);
}

static void set_bool(lua_State *L, const char *key, bool value)
{
	lua_pushboolean(L, value);
	lua_setfield(L, -2, key);
}

static int l_number(lua_State *L)
{
	lua_pushinteger(L, check(L)->policy->generation);
	return 1;
}

/* Before it is in force anywhere: its number is known only when what a dead agent left has been looked at. */
static int l_renumber(lua_State *L)
{
	struct lat_policy *policy = check(L)->policy;
	lua_Integer number = luaL_checkinteger(L, 2);

	luaL_argcheck(L, number > 0 && number <= UINT32_MAX, 2, "not 1 to 4294967295");
	if (policy->refs != 1)
		return luaL_error(L, "the generation is in use");
	policy->generation = (uint32_t)number;
	return 0;
}

static bool asks(const struct lat_policy_spec *spec)
{
	bool ask = spec->has_ask || spec->has_connect || spec->default_action == LAT_ACTION_ASK;

	for (size_t i = 0; i < spec->rule_count && !ask; i++)
		ask = spec->rules[i].action == LAT_ACTION_ASK;
	return ask;
}

static int l_info(lua_State *L)
{
	struct generation *g = check(L);
	const struct lat_policy_spec *spec = &g->policy->spec;

	lua_getglobal(L, "require");
	lua_pushliteral(L, "lattice.json");
	lua_call(L, 1, 1);
	lua_getfield(L, -1, "decode");
	lua_pushstring(L, g->info);
	lua_call(L, 1, 1);
	set_text(L, "digest", g->digest);
	set_bool(L, "keep_established", spec->keep_established);
	set_bool(L, "names_open", spec->names_open);
	set_bool(L, "ask", asks(spec));
	set_integer(L, "entries", (lua_Integer)spec->entry_count);
	set_integer(L, "names", (lua_Integer)spec->name_count);
	return 1;
}

static int l_rule(lua_State *L)
{
	const struct lat_policy_spec *spec = &check(L)->policy->spec;
	lua_Integer n = luaL_checkinteger(L, 2);
	const struct lat_rule *r;

	if (n < 1 || (uint64_t)n > spec->rule_count)
		return 0;
	r = &spec->rules[n - 1];
	lua_createtable(L, 0, 8);
	set_integer(L, "id", n);
	set_text(L, "action", lat_action_name(r->action));
	set_text(L, "where", r->where);
	set_text(L, "reason", r->reason);
	set_text(L, "text", r->text ? r->text : "");
	set_bool(L, "log", r->log);
	set_integer(L, "rate", r->rate);
	set_integer(L, "ttl", r->ttl_s);
	return 1;
}

static void set_match(lua_State *L, uint8_t dir, uint8_t proto, uint16_t lo, uint16_t hi)
{
	set_text(L, "dir", dir == LAT_DIR_IN ? "in" : "out");
	set_integer(L, "proto", proto);
	set_integer(L, "lo", lo);
	set_integer(L, "hi", hi);
}

static int l_entries(lua_State *L)
{
	const struct lat_policy_spec *spec = &check(L)->policy->spec;
	lua_Integer from = luaL_checkinteger(L, 2), count = luaL_checkinteger(L, 3);
	lua_Integer have = (lua_Integer)spec->entry_count, n;

	luaL_argcheck(L, from >= 1, 2, "counts from 1");
	n = from > have ? 0 : have - from + 1 < count ? have - from + 1 : count;
	lua_createtable(L, n > 0 && n < INT32_MAX ? (int)n : 0, 0);
	for (lua_Integer i = 1; i <= n; i++) {
		const struct lat_entry *e = &spec->entries[from + i - 2];
		char text[LAT_ADDR_TEXT];

		lua_createtable(L, 0, 8);
		set_integer(L, "rule", e->rule);
		set_text(L, "addr", lat_addr_format(&e->prefix.addr, text, sizeof(text)));
		set_integer(L, "len", e->prefix.len);
		set_integer(L, "family", e->prefix.family);
		set_match(L, e->dir, e->proto, e->port_lo, e->port_hi);
		lua_rawseti(L, -2, i);
	}
	return 1;
}

static int l_names(lua_State *L)
{
	const struct lat_policy_spec *spec = &check(L)->policy->spec;

	lua_createtable(L, (int)spec->name_count, 0);
	for (size_t i = 0; i < spec->name_count; i++) {
		const struct lat_name_entry *e = &spec->names[i];

		lua_createtable(L, 0, 8);
		set_text(L, "pattern", e->pattern);
		set_integer(L, "rule", e->rule);
		set_match(L, e->dir, e->proto, e->port_lo, e->port_hi);
		set_bool(L, "allows", e->allows);
		set_bool(L, "private", e->private_ok);
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	return 1;
}

static int l_resolvable(lua_State *L)
{
	struct generation *g = check(L);
	size_t len;
	const char *text = luaL_checklstring(L, 2, &len);
	char name[LAT_NAME_MAX];
	bool private_ok = false;

	if (lat_name_normalize(text, len, name) < 0)
		luaL_argerror(L, 2, lua_pushfstring(L, "'%s' is no host name", text));
	lua_pushboolean(L, g->policy->spec.names_open || lat_names_resolvable(g->policy->names, name, &private_ok));
	lua_pushboolean(L, private_ok);
	return 2;
}

static int l_judge(lua_State *L)
{
	struct generation *g = check(L);
	struct lat_flow flow;
	struct lat_verdict v;

	lua_settop(L, 2);
	lat_lua_check_flow(L, 2, &flow);
	lua_getfield(L, 2, "names");
	lat_lua_pin_names(L, 3, g->pins, &flow.remote);
	lat_policy_judge(g->policy, g->pins, &flow, 0, &v);
	lat_lua_push_verdict(L, &v);
	if (v.rule)
		set_text(L, "text", g->policy->spec.rules[v.rule - 1].text);
	return 1;
}

#define CHANGES_SHOWN 1000

static int l_changes(lua_State *L)
{
	const struct lat_policy *next = check(L)->policy, *old = NULL;
	struct lat_change *list;
	ssize_t n, added = 0;
	luaL_Buffer text;

	if (!lua_isnoneornil(L, 2))
		old = lat_lua_check_generation(L, 2);
	lua_settop(L, 2);
	list = lua_newuserdatauv(L, (next->spec.rule_count + (old ? old->spec.rule_count : 0) + 1) * sizeof(*list), 0);
	n = lat_changes(old, next, list);
	if (n < 0)
		return luaL_error(L, "out of memory");
	lua_createtable(L, 0, 3);
	luaL_buffinit(L, &text);
	for (ssize_t i = 0; i < n; i++) {
		added += list[i].added;
		if (i >= CHANGES_SHOWN)
			continue;
		luaL_addstring(&text, i ? "\n" : "");
		luaL_addstring(&text, list[i].added ? "+ " : "- ");
		luaL_addstring(&text, list[i].rule->text ? list[i].rule->text : "");
	}
	if (n > CHANGES_SHOWN) {
		char more[64];

		snprintf(more, sizeof(more), "\n... and %zd more", n - CHANGES_SHOWN);
		luaL_addstring(&text, more);
	}
	luaL_pushresult(&text);
	lua_setfield(L, -2, "text");
	set_integer(L, "rules_added", added);
	set_integer(L, "rules_removed", n - added);
	return 1;
}

static const struct lat_api_function functions[] = {
	{ "load", l_load,
		"spec: { number: integer, files: string[], rules_before?: string[], mesh?: string[] }, done: "
		"fun(generation: lattice.policies.Generation?, error?: string, code?: string)",
		"",
		"Load the files, in order one list of rules, check them and run their tests, off the loop; done(nil, text with "
		"file:line, \"policy\") when they are wrong." },
	{ 0 },
};

static const struct lat_api_function methods[] = {
	{ "number", l_number, "", "integer", "Its number." },
	{ "renumber", l_renumber, "number: integer", "", "Give it another number, before anything uses it." },
	{ "info", l_info, "", "table",
		"name, default, rules and entries and names (counts), files, keep_established, names_open, ask, audit (routes), digest." },
	{ "rule", l_rule, "n: integer", "lattice.policies.Rule?", "One rule, from 1." },
	{ "entries", l_entries, "from: integer, count: integer", "lattice.policies.Entry[]",
		"At most count entries of the match space of its rules, from the from-th on (1..)." },
	{ "names", l_names, "", "lattice.policies.Name[]", "The names of its rules." },
	{ "resolvable", l_resolvable, "name: string", "boolean could, boolean private",
		"Whether some rule could allow a flow to the name, and whether a private address would do." },
	{ "changes", l_changes, "old?: lattice.policies.Generation",
		"{ rules_added: integer, rules_removed: integer, text: string }",
		"What it changes of an older one: rules that are gone and that are new, in text one a line, the first thousand." },
	{ "judge", l_judge, "flow: lattice.tables.Flow", "table",
		"First match for the flow: { verdict, action, rule, where, reason?, text? }; rule 0 is the default." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.policies.Generation", "One loaded policy; immutable.", &generation_type, methods, NULL },
	{ "lattice.policies.Rule", "One rule.", NULL, NULL,
		"id: integer, action: string, where: string, reason?: string, text: string, log: boolean, rate: integer, "
		"ttl: integer" },
	{ "lattice.policies.Entry", "A box of match space; proto 255: any.", NULL, NULL,
		"rule: integer, dir: \"out\"|\"in\", proto: integer, addr: string, len: integer, family: integer, "
		"lo: integer, hi: integer" },
	{ "lattice.policies.Name", "A name of a rule.", NULL, NULL,
		"pattern: string, rule: integer, dir: \"out\"|\"in\", proto: integer, lo: integer, hi: integer, "
		"allows: boolean, private: boolean" },
	{ 0 },
};

const struct lat_api lat_api_policies = {
	.name = "lattice.policies",
	.doc = "Policies for the node agent, loaded off the loop.",
	.functions = functions,
	.classes = classes,
};
