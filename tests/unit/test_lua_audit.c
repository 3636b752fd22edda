/* What record_ocsf.c writes, lua/lattice/audit/reader.lua reads: every kind, every field, and text that others chose. */
#include "core/audit.h"
#include "lua/runtime.h"
#include <lauxlib.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static const struct lat_audit_context context = { .run_name = "agent", .run_id = "r1", .mode = "user", .policy = "p",
	.host = "node", .line = 7 };

struct question {
	const struct lat_record *record;
	char line[16384];
};

static void number(lua_State *L, const char *field, int64_t want)
{
	lua_getfield(L, -1, field);
	if (!lua_isinteger(L, -1) || lua_tointeger(L, -1) != want)
		luaL_error(L, "%s is %s, not %d", field, luaL_tolstring(L, -1, NULL), (int)want);
	lua_pop(L, 1);
}

static void text(lua_State *L, const char *field, const char *want)
{
	lua_getfield(L, -1, field);
	if (strcmp(luaL_optstring(L, -1, "nil"), want) != 0)
		luaL_error(L, "%s is '%s', not '%s'", field, luaL_tolstring(L, -1, NULL), want);
	lua_pop(L, 1);
}

static void check_common(lua_State *L, const struct lat_record *r)
{
	number(L, "seq", (int64_t)r->seq);
	number(L, "line", 7);
	number(L, "time", (int64_t)r->time_ms);
	number(L, "rule", r->rule);
	number(L, "generation", r->generation);
	number(L, "pid", r->who.pid);
	number(L, "uid", r->who.uid);
	text(L, "exe", r->who.exe);
	text(L, "program", "curl");
	text(L, "run", "r1");
	text(L, "run_name", "agent");
	text(L, "mode", "user");
	text(L, "policy", "p");
	text(L, "where", r->where);
	text(L, "text", r->text);
	text(L, "action", lat_action_name(r->action));
}

static void check_flow(lua_State *L, const struct lat_record *r)
{
	char addr[LAT_ADDR_TEXT];

	text(L, "dir", r->flow.dir == LAT_DIR_IN ? "in" : "out");
	number(L, "proto", r->flow.proto);
	number(L, "port", r->flow.dport);
	text(L, "addr", lat_addr_format(&r->flow.remote, addr, sizeof(addr)));
	text(L, "name", r->name);
}

static int compare(lua_State *L)
{
	const struct question *q = lua_touserdata(L, 1);
	const struct lat_record *r = q->record;

	lua_getglobal(L, "require");
	lua_pushliteral(L, "lattice.audit.reader");
	lua_call(L, 1, 1);
	lua_getfield(L, -1, "parse");
	lua_pushstring(L, q->line);
	lua_call(L, 1, 2);
	if (lua_isnil(L, -2))
		luaL_error(L, "%s in %s", lua_tostring(L, -1), q->line);
	lua_pop(L, 1);
	check_common(L, r);
	if (r->kind == LAT_RECORD_VERDICT || r->kind == LAT_RECORD_CLOSE)
		check_flow(L, r);
	if (r->kind == LAT_RECORD_CLOSE) {
		number(L, "bytes_out", (int64_t)r->bytes_out);
		number(L, "bytes_in", (int64_t)r->bytes_in);
		number(L, "duration_ns", (int64_t)r->duration_ns);
	}
	if (r->kind == LAT_RECORD_DNS) {
		number(L, "qtype", r->qtype);
		number(L, "rcode", r->rcode);
		text(L, "name", r->name);
	}
	if (r->kind == LAT_RECORD_LOSS)
		number(L, "lost", (int64_t)r->lost);
	if (r->kind == LAT_RECORD_EXIT)
		number(L, "status", r->status);
	return 0;
}

static void ask(struct lat_rt *rt, const struct lat_record *r)
{
	static struct question q;
	struct lat_rt_error err;

	q.record = r;
	assert_true(lat_record_ocsf(r, &context, q.line, sizeof(q.line)) > 0);
	if (lat_rt_enter(rt, compare, &q, &err) < 0)
		fail_msg("kind %u: %s", r->kind, err.text);
}

static void every_kind_goes_round(void **state)
{
	struct lat_rt *rt;

	assert_int_equal(lat_rt_new(LAT_RT_TRUSTED, NULL, &rt), 0);
	for (unsigned i = 0; i < LAT_RECORD_COUNT * 4u; i++) {
		struct lat_record r = { .kind = (uint8_t)(i / 4), .action = (uint8_t)(i % LAT_ACTION_COUNT), .seq = 41 + i,
			.time_ms = 1790000000123, .err = 111, .rule = i % 3, .generation = 1 + i, .rcode = 5, .qtype = 28,
			.who = { 812, 1000, "/usr/bin/curl" }, .bytes_out = 1ull << 40, .bytes_in = 7,
			.duration_ns = 123456789012, .lost = 3, .status = 128 + 9, .name = "api.example", .where = "a.lua:14" };

		r.flow = (struct lat_flow){ .proto = i & 1 ? IPPROTO_TCP : IPPROTO_UDP, .dir = i & 2 ? LAT_DIR_IN : LAT_DIR_OUT,
			.sport = 40000, .dport = 443 };
		lat_addr_parse(i & 1 ? "203.0.113.9" : "2001:db8::9", &r.flow.remote);
		lat_addr_parse("192.0.0.2", &r.flow.local);
		strcpy(r.text, i & 1 ? "plain" : "quote\" back\\ \n \x1b[31m caf\xc3\xa9");
		ask(rt, &r);
	}
	lat_rt_free(rt);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(every_kind_goes_round) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
