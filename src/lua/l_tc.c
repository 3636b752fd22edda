/* lattice.tc: the engine of the ebpf enforcer: filters are opened and closed and policies put in force here. */
#include "lua/flow_args.h"
#include "lua/l_policies.h"
#include "lua/tc.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- open, close, clear, probe ---- */

static void run_open(struct lat_tc_job *j)
{
	j->status = lat_filter_open(&j->options, j->list, j->count, &j->engine->filter, j->say);
}

/* The box goes to done. */
static int push_open(lua_State *L, struct lat_tc_job *j)
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
static void take_texts(lua_State *L, struct lat_tc_job *j, const char *first)
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

/* The group of cgroup = { path, bind, dns_port, no_unix }, the table at `index`, into the job. */
static void take_group(lua_State *L, struct lat_tc_job *j, int index)
{
	struct lat_tc_cgroup *group = &j->options.cgroup;
	const char *path = field_text(L, index, "path"), *bind = NULL;
	uint32_t port = field_number(L, index, "dns_port");
	char *at;

	luaL_argcheck(L, port <= UINT16_MAX, 1, "'dns_port' is no port");
	if (lua_getfield(L, index, "bind") != LUA_TNIL)
		bind = luaL_checkstring(L, -1);
	lua_pop(L, 1); /* the table keeps it */
	j->text = malloc(strlen(path) + (bind ? strlen(bind) : 0) + 2);
	j->list = calloc(1, sizeof(*j->list));
	if (!j->text || !j->list)
		luaL_error(L, "out of memory");
	at = stpcpy(j->text, path) + 1;
	group->path = j->text;
	group->bind = bind ? strcpy(at, bind) : NULL;
	group->dns_port = (uint16_t)port;
	group->no_unix = field_bool(L, index, "no_unix");
	j->list[j->count++] = "";
}

static void take_devices(lua_State *L, struct lat_tc_job *j)
{
	lua_getfield(L, 1, "devices");
	luaL_argcheck(L, lua_istable(L, -1), 1, "'devices' is no list of names");
	take_texts(L, j, field_text(L, 1, "pins"));
	lua_pop(L, 1);
	luaL_argcheck(L, j->count >= 1 && j->count <= LAT_FILTER_DEVICES, 1, "'devices' are not 1 to 64");
	j->options.pins = j->text;
}

static int l_open(lua_State *L)
{
	struct lat_tc_job *j;

	luaL_checktype(L, 1, LUA_TTABLE);
	luaL_checktype(L, 2, LUA_TFUNCTION);
	lua_settop(L, 2);
	lat_tc_engine_new(L);
	j = lat_tc_job_new(L, "guard by programs");
	if (lua_getfield(L, 1, "cgroup") == LUA_TTABLE)
		take_group(L, j, lua_gettop(L));
	else
		take_devices(L, j);
	lua_settop(L, 4);
	j->options.adopt = field_bool(L, 1, "adopt");
	j->options.no_tcx = field_bool(L, 1, "no_tcx");
	j->options.flows = field_number(L, 1, "flows");
	j->options.event_rate = field_number(L, 1, "event_rate");
	j->run = run_open;
	j->push = push_open;
	return lat_tc_job_submit(L, 3, 4, 2);
}

/* answer(flow, allow, seconds) */
static int l_answer(lua_State *L)
{
	struct lat_tc_engine *e = lat_tc_engine_check(L);
	lua_Number seconds = luaL_checknumber(L, 4);
	struct lat_addr remote;
	uint32_t proto, port, pid;
	int r = 0;

	luaL_checktype(L, 2, LUA_TTABLE);
	luaL_checktype(L, 3, LUA_TBOOLEAN);
	luaL_argcheck(L, seconds > 0 && seconds <= 1e9, 4, "seconds above 0 expected");
	lat_lua_check_addr(L, 2, field_text(L, 2, "addr"), &remote);
	proto = field_number(L, 2, "proto");
	port = field_number(L, 2, "port");
	pid = field_number(L, 2, "pid");
	luaL_argcheck(L, proto <= UINT8_MAX && port <= UINT16_MAX, 2, "a protocol and a port expected");
	for (size_t i = 0; r == 0 && i < e->filter->count; i++)
		r = lat_tc_answer(e->filter->tc[i], &remote, (uint8_t)proto, (uint16_t)port, pid, lua_toboolean(L, 3),
			(uint64_t)(seconds * 1e9));
	if (r < 0)
		return lat_push_errno(L, r, "keep an answer");
	lua_pushboolean(L, true);
	return 1;
}

static int l_forget(lua_State *L)
{
	struct lat_tc_engine *e = lat_tc_engine_check(L);
	int r = 0;

	for (size_t i = 0; r == 0 && i < e->filter->count; i++)
		r = lat_tc_answers_clear(e->filter->tc[i]);
	if (r < 0)
		return lat_push_errno(L, r, "forget answers");
	lua_pushboolean(L, true);
	return 1;
}

static void run_close(struct lat_tc_job *j)
{
	lat_filter_close(j->engine->filter, j->keep);
	j->engine->filter = NULL;
}

static int l_close_filter(lua_State *L)
{
	struct lat_tc_job *j;

	lat_tc_engine_check(L);
	luaL_checktype(L, 2, LUA_TBOOLEAN);
	lua_settop(L, 3);
	j = lat_tc_job_new(L, "take tc programs away");
	j->keep = lua_toboolean(L, 2);
	j->run = run_close;
	j->push = lat_tc_push_true;
	return lat_tc_job_submit(L, 1, 4, 3);
}

static void run_clear(struct lat_tc_job *j)
{
	j->number = lat_tc_clear(j->text, NULL, j->say);
	j->status = j->number < 0 ? j->number : 0;
}

static int l_clear(lua_State *L)
{
	const char *pins = luaL_checkstring(L, 1);
	struct lat_tc_job *j;

	luaL_checktype(L, 2, LUA_TFUNCTION);
	lua_settop(L, 2);
	lat_tc_engine_new(L);
	j = lat_tc_job_new(L, "remove what a dead agent left");
	j->text = strdup(pins);
	if (!j->text)
		return luaL_error(L, "out of memory");
	j->run = run_clear;
	j->push = lat_tc_push_number;
	return lat_tc_job_submit(L, 3, 4, 2);
}

static void run_probe(struct lat_tc_job *j)
{
	j->status = lat_tc_probe(j->say);
}

static int l_probe(lua_State *L)
{
	struct lat_tc_job *j;

	luaL_checktype(L, 1, LUA_TFUNCTION);
	lua_settop(L, 1);
	lat_tc_engine_new(L);
	j = lat_tc_job_new(L, "load the tc programs");
	j->run = run_probe;
	j->push = lat_tc_push_true;
	return lat_tc_job_submit(L, 2, 3, 1);
}

/* ---- generations ---- */

#define SETTLE_MS 100u
#define SETTLE_TURNS 20

/* The kernel takes a while to let go of maps, and nobody waits for that: others go first, and the next policy takes their place. */
static void run_settle(struct lat_tc_job *j)
{
	int behind = lat_tc_job_linger(j, SETTLE_MS);

	if (behind == LAT_TC_AN_APPLY)
		return;
	if (behind == LAT_TC_SOMEBODY && j->turns++ < SETTLE_TURNS)
		j->again = true;
	else if (j->engine->filter)
		lat_filter_settle(j->engine->filter);
}

static void run_apply(struct lat_tc_job *j)
{
	j->status = lat_filter_apply(j->engine->filter, j->policy, j->pins, j->count, j->say);
}

/* The new policy is in force; what it replaced is freed when done has been told. */
static int push_apply(lua_State *L, struct lat_tc_job *j)
{
	struct lat_tc_engine *e = j->engine;
	struct lat_tc_job *settle = calloc(1, sizeof(*settle));
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
static void take_pins(lua_State *L, int index, struct lat_tc_job *j)
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
	struct lat_tc_job *j;

	lat_tc_engine_check(L);
	policy = lat_lua_check_generation(L, 2);
	lua_settop(L, 4);
	j = lat_tc_job_new(L, "put a policy in force");
	take_pins(L, 3, j);
	j->policy = lat_policy_ref(policy);
	j->replaces = true;
	j->run = run_apply;
	j->push = push_apply;
	return lat_tc_job_submit(L, 1, 5, 4);
}

static void run_pin(struct lat_tc_job *j)
{
	j->status = lat_filter_pin(j->engine->filter, j->policy, j->pins, j->count);
}

static int l_pin(lua_State *L)
{
	struct lat_tc_engine *e = lat_tc_engine_check(L);
	struct lat_tc_job *j;

	lua_settop(L, 3);
	if (!e->policy)
		luaL_argerror(L, 1, "it has no policy yet");
	j = lat_tc_job_new(L, "pin names to addresses");
	take_pins(L, 2, j);
	j->policy = lat_policy_ref(e->policy);
	j->run = run_pin;
	j->push = lat_tc_push_true;
	return lat_tc_job_submit(L, 1, 4, 3);
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
	struct lat_tc_engine *e = lat_tc_engine_check(L);
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

static int open_tc(lua_State *L)
{
	lat_box_register(L, &lat_tc_draft_type);
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
	{ "counters", lat_tc_l_counters,
		"done: fun(counters: table<integer, { packets: integer, bytes: integer }>?, error?: string, code?: string)", "",
		"Packets and bytes by rule; [0] is the default." },
	{ "flows", lat_tc_l_flows, "limit: integer, done: fun(flows: lattice.tc.Flow[]?, error?: string, code?: string)", "",
		"Open flows, at most limit." },
	{ "cut", lat_tc_l_cut, "done: fun(cut: integer?, error?: string, code?: string)", "",
		"Cut the open flows that the policy in force denies." },
	{ "ask", lat_tc_l_ask, "flow: lattice.tables.Flow", "lattice.tc.Answer?, string? error, string? code",
		"What the loaded program says of a new flow, by a test run that leaves no trace." },
	{ "run", lat_tc_l_run, "dir: \"out\"|\"in\", packet: string", "boolean? passed, string? error, string? code",
		"A packet with its Ethernet header through the first device's program, with all traces of a real one." },
	{ "status", lat_tc_l_status, "", "lattice.tc.Status[]?, string? error, string? code", "One entry a device." },
	{ "hooked", lat_tc_l_hooked, "", "boolean?, string? error, string? code",
		"Whether the programs are on their hooks; false: somebody took one off." },
	{ "rings", lat_tc_l_rings, "", "integer[]?, string? error, string? code",
		"Descriptors of the event rings, one a device; they are the caller's." },
	{ "answer", l_answer,
		"flow: { addr: string, proto: integer, port?: integer, pid?: integer }, allow: boolean, seconds: number",
		"boolean?, string? error, string? code",
		"Of a cgroup, where rules ask: what was answered, for one process (pid 0: all) and so long." },
	{ "forget", l_forget, "", "boolean?, string? error, string? code", "Of a cgroup: forget what was answered." },
	{ "finish", l_close_filter, "keep: boolean, done: fun(ok: true?)", "",
		"End it; keep leaves all in force, else every trace is removed." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.tc.Filter", "The programs on some devices. One that is only closed leaves all in force.", &lat_tc_engine_type,
		methods, NULL },
	{ "lattice.tc.Options", "Where and how: devices and pins, or a cgroup.", NULL, NULL,
		"devices?: string[], pins?: string, adopt?: boolean, no_tcx?: boolean, cgroup?: lattice.tc.Group, flows?: integer, "
		"event_rate?: integer" },
	{ "lattice.tc.Group",
		"The sockets of a cgroup (v2): bound to a device, 127.0.0.53 led to a resolver, no unix socket connected (Linux 6.7).",
		NULL, NULL, "path: string, bind?: string, dns_port?: integer, no_unix?: boolean" },
	{ "lattice.tc.Pin", "An address and the names it was given for.", NULL, NULL, "addr: string, names: string[]" },
	{ "lattice.tc.Temporary", "A temporary rule.", NULL, NULL,
		"id: integer, action: string, log?: boolean, entries: lattice.policies.Entry[]" },
	{ "lattice.tc.Flow", "An open flow.", NULL, NULL,
		"dir: \"out\"|\"in\", proto: integer, local_addr: string, addr: string, port: integer, sport: integer, "
		"rule: integer, generation: integer, packets: integer, bytes: integer" },
	{ "lattice.tc.Answer", "A verdict; rule 0 is the default, why what the packet was counted as.", NULL, NULL,
		"verdict: \"allow\"|\"deny\", action: string, rule: integer, temporary: boolean, generation: integer, why: string" },
	{ "lattice.tc.Status", "One device; packets by what became of them.", NULL, NULL,
		"device: string, hook: \"tcx\"|\"clsact\"|\"cgroup\", pins: string, ifindex: integer, generation: integer, rules: integer, "
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
