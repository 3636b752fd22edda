/* lattice.events: the verdict events of an enforcer, for the audit, for watchers and for ordered handlers. A source owns
 * the audit and the newest events (core/pump.h); what feeds it is events_read.c, what Lua gets events_batch.c. */
#include "lua/events.h"
#include "base/clock.h"
#include "lua/l_policies.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_ROUTES 64
#define DEADLINE_MS 50 /* of a batch in Lua */

const char *lat_events_text(lua_State *L, int table, const char *key, bool needed)
{
	int type = lua_getfield(L, table, key);

	if (type != LUA_TSTRING && (needed || type != LUA_TNIL))
		luaL_argerror(L, table, lua_pushfstring(L, "'%s' must be a text", key));
	return lua_tostring(L, -1); /* it stays in the table */
}

static lua_Integer optional_integer(lua_State *L, int table, const char *key, lua_Integer fallback)
{
	lua_Integer value = fallback;
	int is = 1;

	if (lua_getfield(L, table, key) != LUA_TNIL)
		value = lua_tointegerx(L, -1, &is);
	if (!is || value < 0)
		luaL_argerror(L, table, lua_pushfstring(L, "'%s' must be a count", key));
	lua_pop(L, 1);
	return value;
}

/* ---- opening ---- */

/* Routes of the list at `index`; the texts stay in it. Nothing is held. */
static size_t check_routes(lua_State *L, int index, struct lat_audit_route routes[MAX_ROUTES])
{
	static const char *const sinks[] = { "file", "syslog", "unix" };
	size_t n = (size_t)luaL_len(L, index);

	luaL_argcheck(L, n <= MAX_ROUTES, index, "too many audit routes");
	for (size_t i = 0; i < n; i++) {
		const char *sink;
		unsigned s = 0;
		int row;

		luaL_argcheck(L, lua_geti(L, index, (lua_Integer)i + 1) == LUA_TTABLE, index, "a list of routes expected");
		row = lua_gettop(L);
		sink = lat_events_text(L, row, "sink", true);
		while (s < 3 && strcmp(sinks[s], sink) != 0)
			s++;
		luaL_argcheck(L, s < 3, index, "a route's sink is \"file\", \"syslog\" or \"unix\"");
		routes[i] = (struct lat_audit_route){ .fd = -1, .sink = s,
			.target = lat_events_text(L, row, "target", s != LAT_SINK_SYSLOG),
			.kinds = (uint32_t)optional_integer(L, row, "kinds", 0),
			.actions = (uint32_t)optional_integer(L, row, "actions", 0),
			.rotate_bytes = (uint64_t)optional_integer(L, row, "rotate", 0) };
		lua_settop(L, row - 1);
	}
	return n;
}

static int push_sink_error(lua_State *L, int r, const char *target)
{
	char tried[300];

	snprintf(tried, sizeof(tried), "open the audit sink %.250s", target ? target : "");
	return lat_push_errno(L, r, tried);
}

static int l_open(lua_State *L)
{
	struct lat_audit_route routes[MAX_ROUTES];
	struct lat_audit_options audit = { .routes = routes };
	struct lat_pump_options pump = { .audit = &audit };
	char run_id[48], host[256] = "";
	const char *target, *id;
	struct lat_box *box;
	struct lat_events *s;
	int r;

	if (lua_isnoneornil(L, 1)) {
		lua_settop(L, 0);
		lua_newtable(L);
	}
	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	audit.run_name = lat_events_text(L, 1, "run_name", false);
	audit.mode = lat_events_text(L, 1, "mode", false);
	if (!audit.mode)
		audit.mode = "node";
	gethostname(host, sizeof(host) - 1);
	if (!audit.run_name)
		audit.run_name = host;
	audit.policy = lat_events_text(L, 1, "policy", false);
	id = lat_events_text(L, 1, "run_id", false);
	snprintf(run_id, sizeof(run_id), "%llx-%d", (unsigned long long)lat_wall_ms(), getpid());
	audit.run_id = id ? id : run_id;
	audit.queue_records = (size_t)optional_integer(L, 1, "queue", 0);
	pump.memory = (size_t)optional_integer(L, 1, "memory", 0);
	luaL_argcheck(L, audit.queue_records <= 1 << 20 && pump.memory <= 1 << 20, 1, "'queue' and 'memory': too many");
	if (lua_getfield(L, 1, "routes") != LUA_TNIL) {
		luaL_argcheck(L, lua_istable(L, -1), 1, "'routes' must be a list");
		audit.route_count = check_routes(L, lua_gettop(L), routes);
	}
	r = (int)optional_integer(L, 1, "deadline_ms", DEADLINE_MS);
	box = lat_box_new(L, &lat_events_type);
	lua_createtable(L, 3, 0);
	for (int i = LAT_EVENTS_CALLS; i <= LAT_EVENTS_WATCHES; i++) {
		lua_newtable(L);
		lua_rawseti(L, -2, i);
	}
	lua_setiuservalue(L, -2, 1);
	s = calloc(1, sizeof(*s));
	if (!s)
		return lat_push_errno(L, ENOMEM, "open a source of events");
	s->rt = lat_rt_of(L);
	s->deadline_ms = (uint32_t)r;
	r = lat_pump_new(&pump, &s->pump, &target);
	if (r < 0) {
		free(s);
		return push_sink_error(L, r, target);
	}
	lat_box_fill(L, box, s);
	return 1;
}

static int l_routes(lua_State *L)
{
	struct lat_events *s = lat_events_check(L);
	struct lat_audit_route routes[MAX_ROUTES];
	const char *target;
	size_t n;
	int r;

	luaL_checktype(L, 2, LUA_TTABLE);
	n = check_routes(L, 2, routes);
	r = lat_audit_reroute(lat_pump_audit(s->pump), routes, n, &target);
	if (r < 0)
		return push_sink_error(L, r, target);
	lua_pushboolean(L, true);
	return 1;
}

/* ---- the rest ---- */

static int l_generation(lua_State *L)
{
	struct lat_events *s = lat_events_check(L);

	lat_pump_generation(s->pump, lat_lua_check_generation(L, 2));
	return 0;
}

/* Who this process is. */
static void fill_self(struct lat_record *r)
{
	r->who.pid = getpid();
	r->who.uid = getuid();
	snprintf(r->who.exe, sizeof(r->who.exe), "%s", program_invocation_name);
}

void lat_events_end_record(struct lat_events *s)
{
	struct lat_record r = { .kind = LAT_RECORD_EXIT };

	if (!s->started || s->ended)
		return;
	fill_self(&r);
	lat_audit_emit(lat_pump_audit(s->pump), &r);
}

static int l_record(lua_State *L)
{
	static const char *const names[] = { "start", "exit", "reload", "operator", "handler", "agent", NULL };
	static const uint8_t kinds[] = { LAT_RECORD_START, LAT_RECORD_EXIT, LAT_RECORD_RELOAD, LAT_RECORD_OPERATOR,
		LAT_RECORD_HANDLER, LAT_RECORD_AGENT };
	struct lat_events *s = lat_events_check(L);
	struct lat_record r = { .kind = kinds[luaL_checkoption(L, 2, NULL, names)] };
	const char *text, *where;

	luaL_checktype(L, 3, LUA_TTABLE);
	text = lat_events_text(L, 3, "text", false);
	where = lat_events_text(L, 3, "where", false);
	snprintf(r.text, sizeof(r.text), "%s", text ? text : "");
	snprintf(r.where, sizeof(r.where), "%s", where ? where : "");
	r.generation = (uint32_t)optional_integer(L, 3, "generation", 0);
	r.err = (uint16_t)optional_integer(L, 3, "errno", 0);
	r.status = (int32_t)optional_integer(L, 3, "status", 0);
	r.who.uid = (uid_t)optional_integer(L, 3, "uid", getuid());
	r.who.pid = (pid_t)optional_integer(L, 3, "pid", 0);
	if ((r.kind == LAT_RECORD_START || r.kind == LAT_RECORD_EXIT) && !r.who.pid)
		fill_self(&r);
	s->started |= r.kind == LAT_RECORD_START;
	s->ended |= r.kind == LAT_RECORD_EXIT;
	lat_audit_emit(lat_pump_audit(s->pump), &r);
	return 0;
}

/* The list as the enforcer's pins: { addr, names = { ... } }. */
static int l_names(lua_State *L)
{
	struct lat_events *s = lat_events_check(L);
	struct lat_pump_name *names;
	size_t n, used = 0;
	int r;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	n = (size_t)luaL_len(L, 2);
	luaL_argcheck(L, n <= 1 << 20, 2, "too many addresses");
	names = lua_newuserdatauv(L, (n + 1) * sizeof(*names), 0);
	for (size_t i = 1; i <= n; i++) {
		const char *addr, *name;

		luaL_argcheck(L, lua_geti(L, 2, (lua_Integer)i) == LUA_TTABLE, 2, "a list of { addr, names } expected");
		addr = lat_events_text(L, 4, "addr", true);
		luaL_argcheck(L, lat_addr_parse(addr, &names[used].addr) == 0, 2, "an address expected");
		luaL_argcheck(L, lua_getfield(L, 4, "names") == LUA_TTABLE, 2, "names expected");
		lua_geti(L, -1, 1);
		name = lua_tostring(L, -1);
		if (name)
			snprintf(names[used++].name, sizeof(names->name), "%s", name);
		lua_settop(L, 3);
	}
	r = lat_pump_names(s->pump, names, used);
	if (r < 0)
		return lat_push_errno(L, r, "name addresses");
	lua_pushboolean(L, true);
	return 1;
}

static int l_counters(lua_State *L)
{
	struct lat_events *s = lat_events_check(L);
	struct lat_pump_counters c;

	lat_pump_count(s->pump, &c);
	lua_createtable(L, 0, 4);
	lua_pushinteger(L, (lua_Integer)c.seen);
	lua_setfield(L, -2, "seen");
	lua_pushinteger(L, (lua_Integer)c.lost);
	lua_setfield(L, -2, "lost");
	lua_pushinteger(L, (lua_Integer)c.lost_in_kernel);
	lua_setfield(L, -2, "lost_in_kernel");
	lua_pushinteger(L, (lua_Integer)c.audit_lost);
	lua_setfield(L, -2, "audit_lost");
	return 1;
}

static const struct lat_api_function functions[] = {
	{ "open", l_open,
		"options?: { routes?: table[], run_name?: string, run_id?: string, mode?: string, policy?: string, "
		"queue?: integer, memory?: integer, deadline_ms?: integer }",
		"lattice.events.Source?, string? error, string? code",
		"Open a source of verdict events. routes: as lattice.generation makes them ({ kinds, actions, sink, target, "
		"rotate }); queue: records that the audit holds; memory: events kept for watch(); deadline_ms: for a batch in "
		"Lua." },
	{ 0 },
};

static const struct lat_api_function methods[] = {
	{ "ring", lat_events_ring, "fd: integer", "boolean?, string? error, (string|integer)? code",
		"Read the records of a BPF ring buffer map, by descriptor (taken). Pro." },
	{ "nflog", lat_events_nflog, "group: integer", "boolean?, string? error, string? code",
		"Take the packets of an NFLOG group whose prefix is \"lattice:GENERATION:RULE:ACTION:DIR\"." },
	{ "held", lat_events_held, "count: integer", "",
		"So many events were held back by the enforcer and will not come: they are counted as lost in the kernel." },
	{ "account", lat_events_account, "total: integer", "",
		"The kernel's own count of lost events since the source was opened: what no LOSS event has told yet is told now." },
	{ "push", lat_events_push, "bytes: string", "boolean?, string? error, string? code",
		"Take whole records of struct lat_event from a script, in the next turn of the loop." },
	{ "on", lat_events_on, "handler: { name: string, before?: string, after?: string, call: fun(batch: lattice.events.Batch) }",
		"boolean?, string? error, string? code",
		"Call a handler with each batch of verdicts from now on. before, after: the name of a handler that comes "
		"after or before this one." },
	{ "off", lat_events_off, "name: string", "boolean? was_there, string? error, string? code",
		"Remove a handler; not from inside one." },
	{ "handlers", lat_events_handlers, "", "{ name: string, trips: integer, dropped: boolean }[]",
		"The handlers in their order; dropped: stopped too often at the time limit." },
	{ "watch", lat_events_watch,
		"filter: { verdict?: string, proto?: integer, addr?: string, port?: integer, dir?: string, rule?: integer, "
		"last?: integer, closes?: boolean, losses?: boolean }, fn: fun(event: table)",
		"(fun())?, string? error, string? code",
		"Give fn the `last` events that the filter lets pass, and then each new one; call the result to end it. addr: "
		"an address or prefix; closes: ends of flows as well; losses: { kind = \"loss\", lost } as well." },
	{ "tap", lat_events_tap, "most: integer", "",
		"Keep the records from now on as they are, at most so many, until taken() takes them." },
	{ "taken", lat_events_taken, "", "string hex, integer count, integer lost",
		"What the tap has, as hexadecimal text of struct lat_event, and how many it could not keep." },
	{ "ends", lat_events_ends, "filter: lattice.tc.Filter", "",
		"All sockets of a filter's group are gone: read what the readers still have, for the audit and the tap alone, and "
		"tell the ends of the flows that are open still. The source is then to be closed." },
	{ "generation", l_generation, "generation: lattice.policies.Generation", "",
		"Name the rules of events by this generation; those of the last ones are still known." },
	{ "names", l_names, "pins: { addr: string, names: string[] }[]", "boolean?, string? error, string? code",
		"The names that addresses stand for now, the whole list: events and records of flows to them have the first." },
	{ "routes", l_routes, "routes: table[]", "boolean?, string? error, string? code",
		"Replace the audit's routes; sinks that stay stay open." },
	{ "record", l_record,
		"kind: \"start\"|\"exit\"|\"reload\"|\"operator\"|\"agent\"|\"handler\", fields: { text?: string, "
		"where?: string, generation?: integer, uid?: integer, pid?: integer, errno?: integer, status?: integer }",
		"", "Write a record of the agent's own to the audit. errno: it failed (a refused reload). A source that was "
		"started and is closed without an exit writes one." },
	{ "counters", l_counters, "",
		"{ seen: integer, lost: integer, lost_in_kernel: integer, audit_lost: integer }",
		"Events so far, and what was lost: here, in the kernel, and records by the audit." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.events.Source", "Verdict events of an enforcer: to the audit, to watchers, to ordered handlers.",
		&lat_events_type, methods, NULL },
	{ "lattice.events.Batch",
		"Events in a handler, valid until it returns. fields: dir (0 out, 1 in), action (0 deny, 1 allow, 2 drop, "
		"4 audit), proto, rule, generation, port, sport, length, time_ns, without making a table. addresses: remote "
		"address, local address, device. event: a table, as watch() gives it.",
		NULL, NULL, LAT_EVENTS_BATCH_FIELDS },
	{ 0 },
};

const struct lat_api lat_api_events = {
	.name = "lattice.events",
	.doc = "Verdict events: audit, watchers, handlers.",
	.functions = functions,
	.classes = classes,
};
