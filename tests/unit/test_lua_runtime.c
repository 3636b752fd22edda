/* The door, its limits and what a hostile policy tries against them. */
#include "lua/box.h"
#include "lua/embed.h"
#include "lua/runtime.h"
#include <errno.h>
#include <lauxlib.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

static const struct lat_rt_limits small = { .instructions = 2000000, .memory = 16u << 20, .deadline_ms = 3000 };

struct script {
	const char *text;
	lua_Integer result;
};

/* Runs text as policy.lua; its first result, if a number, is the result. */
static int run_script(lua_State *L)
{
	struct script *s = lua_touserdata(L, 1);

	if (luaL_loadbufferx(L, s->text, strlen(s->text), "@policy.lua", "t") != LUA_OK)
		return lua_error(L);
	lua_call(L, 0, 1);
	s->result = lua_tointeger(L, -1);
	return 0;
}

static int run(enum lat_rt_kind kind, const struct lat_rt_limits *limits, const char *text,
	struct lat_rt_error *err, lua_Integer *result)
{
	struct script s = { .text = text, .result = -1 };
	struct lat_rt *rt;
	int r;

	assert_int_equal(lat_rt_new(kind, limits, &rt), 0);
	memset(err, 0, sizeof(*err));
	r = lat_rt_enter(rt, run_script, &s, err);
	if (result)
		*result = s.result;
	/* The state is as good as before: the next script runs. */
	if (r < 0) {
		struct script next = { .text = "return 42" };

		assert_int_equal(lat_rt_enter(rt, run_script, &next, NULL), 0);
		assert_int_equal(next.result, 42);
	}
	assert_int_equal(lat_rt_boxes(rt), 0);
	lat_rt_free(rt);
	return r;
}

static lua_Integer policy(const char *text)
{
	struct lat_rt_error err;
	lua_Integer result;

	if (run(LAT_RT_POLICY, &small, text, &err, &result) < 0)
		fail_msg("%s", err.text);
	return result;
}

static void stopped(const char *text, enum lat_rt_why why, const char *where)
{
	struct lat_rt_error err;
	int r = run(LAT_RT_POLICY, &small, text, &err, NULL);

	if (r >= 0)
		fail_msg("was not stopped: %s", text);
	if (err.why != why)
		fail_msg("%s: reason %d instead of %d: %s", text, (int)err.why, (int)why, err.text);
	assert_int_equal(r, why == LAT_RT_ERROR ? -EPROTO : why == LAT_RT_MEMORY ? -ENOMEM : -ETIME);
	if (where)
		assert_string_equal(err.where, where);
	if (err.where[0])
		assert_int_equal(strncmp(err.text, err.where, strlen(err.where)), 0);
}

static void endless_loops_are_stopped_and_named(void **state)
{
	stopped("local x = 1\nwhile true do end", LAT_RT_INSTRUCTIONS, "policy.lua:2");
	stopped("while true do pcall(function() while true do end end) end", LAT_RT_INSTRUCTIONS, "policy.lua:1");
	stopped("local function f() return f() end f()", LAT_RT_INSTRUCTIONS, "policy.lua:1");
	stopped("for i = 1, math.huge do end", LAT_RT_INSTRUCTIONS, "policy.lua:1");
	stopped("::a:: goto a", LAT_RT_INSTRUCTIONS, "policy.lua:1");
	stopped("repeat until false", LAT_RT_INSTRUCTIONS, "policy.lua:1");
}

static void a_trip_cannot_be_caught(void **state)
{
	stopped("pcall(function() while true do end end) return 1", LAT_RT_INSTRUCTIONS, "policy.lua:1");
	stopped("while true do xpcall(function() while true do end end, function() while true do end end) end",
		LAT_RT_INSTRUCTIONS, NULL);
	stopped("local f f = function() pcall(f) while true do end end f()", LAT_RT_INSTRUCTIONS, NULL);
	stopped("local t <close> = setmetatable({}, { __close = function() while true do end end })\n"
		"while true do end", LAT_RT_INSTRUCTIONS, "policy.lua:2");
	stopped("setmetatable(_G, { __index = function() while true do end end }) return x",
		LAT_RT_INSTRUCTIONS, "policy.lua:1");
}

/* Each would start a count of its own, and its __close methods would run without a hook. */
static void a_policy_state_has_no_coroutines(void **state)
{
	assert_int_equal(policy("return coroutine and 1 or 0"), 0);
	assert_int_equal(policy("return pcall(require, 'coroutine') and 1 or 0"), 0);
}

static void a_coroutine_of_ours_is_stopped_too(void **state)
{
	struct lat_rt_error err;

	assert_int_equal(run(LAT_RT_TRUSTED, &small, "coroutine.wrap(function() while true do end end)()", &err, NULL),
		-ETIME);
	assert_string_equal(err.where, "policy.lua:1");
	assert_int_equal(run(LAT_RT_TRUSTED, &small, "local co co = coroutine.wrap(function() "
		"pcall(function() while true do end end) end)\npcall(co) return 1", &err, NULL), -ETIME);
}

static void allocation_without_end_is_stopped(void **state)
{
	stopped("local t = {}\nfor i = 1, 1e9 do t[i] = i end", LAT_RT_MEMORY, "policy.lua:2");
	stopped("local s = 'x'\nwhile true do s = s .. s end", LAT_RT_MEMORY, "policy.lua:2");
	stopped("return ('x'):rep(1 << 31)", LAT_RT_ERROR, NULL);
	stopped("return ('x'):rep(1000000):rep(100)", LAT_RT_MEMORY, "policy.lua:1");
	stopped("local t = {} while true do pcall(function() t[#t + 1] = ('x'):rep(100000) end) end",
		LAT_RT_INSTRUCTIONS, NULL);
	stopped("return table.concat({}, ('x'):rep(100000), 1, 1 << 40)", LAT_RT_ERROR, NULL);
}

static void deep_recursion_is_stopped(void **state)
{
	stopped("local function f() return 1 + f() end return f()", LAT_RT_MEMORY, "policy.lua:1");
	stopped("local t = setmetatable({}, {}) getmetatable(t).__index = function(_, k) return t[k] end return t.x",
		LAT_RT_ERROR, NULL);
	stopped("local f f = function(s) return (s:gsub('.', f)) end return f('x')", LAT_RT_ERROR, NULL);
	stopped("return load(('('):rep(100000))()", LAT_RT_ERROR, NULL);
	stopped("return load('return ' .. ('{'):rep(300) .. ('}'):rep(300))()", LAT_RT_ERROR, NULL);
}

static void bad_error_objects_are_reported(void **state)
{
	struct lat_rt_error err;

	stopped("error({})", LAT_RT_ERROR, NULL);
	stopped("error(nil)", LAT_RT_ERROR, NULL);
	stopped("error(setmetatable({}, { __tostring = function() error('x') end }))", LAT_RT_ERROR, NULL);
	stopped("error(setmetatable({}, { __tostring = function() return 1 end }))", LAT_RT_ERROR, NULL);
	stopped("error(setmetatable({}, { __tostring = function() while true do end end }))",
		LAT_RT_INSTRUCTIONS, "policy.lua:1");
	stopped("error(setmetatable({}, { __name = ('x'):rep(100000) }))", LAT_RT_ERROR, NULL);
	assert_int_equal(run(LAT_RT_POLICY, &small, "\n\nerror('no good')", &err, NULL), -EPROTO);
	assert_string_equal(err.where, "policy.lua:3");
	assert_string_equal(err.text, "policy.lua:3: no good");
	assert_non_null(strstr(err.trace, "policy.lua:3: in main chunk"));
	assert_int_equal(run(LAT_RT_POLICY, &small, "return +", &err, NULL), -EPROTO);
	assert_string_equal(err.where, "policy.lua:1");
}

static void nothing_runs_unbounded_inside_c(void **state)
{
	static const char *const refused[] = {
		"(''):rep(1 << 60)",
		"('x'):rep(1e8, '')",
		"table.move({}, 1, 1 << 60, 2)",
		"table.move({}, math.mininteger, math.maxinteger, 2)",
		"table.insert(setmetatable({}, { __len = function() return 1 << 60 end }), 1, 1)",
		"table.remove(setmetatable({}, { __len = function() return 1 << 60 end }), 1)",
		"table.sort(setmetatable({}, { __len = function() return 1 << 30 end, __index = type }))",
		"table.concat(setmetatable({}, { __index = type }), '', 1, 1 << 60)",
		"table.unpack({}, 1, 1 << 30)",
		"setmetatable({}, { __gc = function() while true do end end })",
		"string.format('%' .. ('9'):rep(1000) .. 'd', 1)",
	};
	char text[512];

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		struct lat_rt_error err;

		snprintf(text, sizeof(text), "return %s", refused[i]);
		if (run(LAT_RT_POLICY, &small, text, &err, NULL) == 0)
			fail_msg("not refused: %s", refused[i]);
	}
}

static void patterns_that_blow_up_are_stopped(void **state)
{
	stopped("local s = ('a'):rep(40)\nreturn s:find(('a*'):rep(40) .. 'b')", LAT_RT_INSTRUCTIONS, "policy.lua:2");
	stopped("return ('a'):rep(5000):match('.-.-.-.-b')", LAT_RT_INSTRUCTIONS, "policy.lua:1");
	stopped("return ('a'):rep(30):gsub(('a?'):rep(30) .. 'b', '')", LAT_RT_INSTRUCTIONS, "policy.lua:1");
	stopped("for x in ('a'):rep(3000):gmatch('(a*)(a*)(a*)b') do end", LAT_RT_INSTRUCTIONS, "policy.lua:1");
	stopped("local ok = pcall(string.find, ('a'):rep(5000), '.-.-.-b') return 1", LAT_RT_INSTRUCTIONS, "policy.lua:1");
	stopped("local s = ('a'):rep(1000000) return s:find(('a'):rep(500000) .. 'b' .. s:sub(1, 400000), 1, true) "
		"or error('absent')", LAT_RT_ERROR, NULL);
}

static void a_policy_state_has_no_way_out(void **state)
{
	assert_int_equal(policy("local n = debug.getinfo and debug.where and 0 "
		"for _, k in pairs(debug) do n = n + 1 end return n"), 2);
	assert_int_equal(policy("local n = 0 for _, k in ipairs { 'dofile', 'loadfile', 'collectgarbage' } do "
		"if _G[k] ~= nil then n = n + 1 end end return n"), 0);
	assert_int_equal(policy("local n = 0 for _, k in ipairs { 'execute', 'exit', 'remove', 'rename', 'tmpname', "
		"'setlocale' } do if os[k] ~= nil then n = n + 1 end end return n"), 0);
	assert_int_equal(policy("local n = 0 for _, k in ipairs { 'popen', 'output', 'tmpfile', 'write', 'stdout' } do "
		"if io[k] ~= nil then n = n + 1 end end return n"), 0);
	assert_int_equal(policy("return string.dump and 1 or 0"), 0);
	assert_int_equal(policy("return package.loadlib and 1 or 0"), 0);
	assert_int_equal(policy("return pcall(io.open, '/dev/null', 'w') and 1 or 0"), 0);
	assert_int_equal(policy("return pcall(io.open, '/dev/null', 'r+') and 1 or 0"), 0);
	assert_int_equal(policy("local f = io.open('/dev/null') f:close() return f and 1 or 0"), 1);
	assert_int_equal(policy("return pcall(require, 'luv') and 1 or 0"), 0);
	assert_int_equal(policy("return pcall(require, 'lattice.loop') and 1 or 0"), 0);
	assert_int_equal(policy("return pcall(require, 'lattice.sys') and 1 or 0"), 0);
	assert_int_equal(policy("return require('lattice.addr').contains('10.0.0.0/8', '10.0.0.1') and 1 or 0"), 1);
	assert_int_equal(policy("return require('lpeg').version and 1 or 0"), 1);
	assert_int_equal(policy("return getmetatable('') == 'locked' and 1 or 0"), 1);
}

static void bytecode_is_refused(void **state)
{
	assert_int_equal(policy("local f, e = load('\\27Lua', 'x', 'b') return f and 1 or 0"), 0);
	assert_int_equal(policy("local f, e = load('\\27Lua', 'x', 'bt') return f and 1 or 0"), 0);
	assert_int_equal(policy("local i = 0 local f = load(function() i = i + 1 return ({ '\\27', 'Lua' })[i] end) "
		"return f and 1 or 0"), 0);
	assert_int_equal(policy("return load('return ...')(7)"), 7);
	assert_int_equal(policy("return load('return x', 'c', 't', { x = 8 })()"), 8);
	assert_int_equal(policy("x = 9 return load('return x', 'c')()"), 9);
}

static void the_environment_is_not_looked_at(void **state)
{
	struct lat_rt_error err;
	lua_Integer result;

	setenv("LUA_PATH", "/nowhere/?.lua", 1);
	setenv("LUA_CPATH_5_4", "/nowhere/?.so", 1);
	assert_int_equal(run(LAT_RT_TRUSTED, NULL, "return #package.path + #package.cpath + (#package.searchers - 1)",
		&err, &result), 0);
	assert_int_equal(result, 0);
	unsetenv("LUA_PATH");
	unsetenv("LUA_CPATH_5_4");
}

static void the_deadline_holds_where_instructions_do_not(void **state)
{
	const struct lat_rt_limits limits = { .deadline_ms = 50, .memory = 64u << 20 };
	struct lat_rt_error err;
	struct timespec from, to;

	clock_gettime(CLOCK_MONOTONIC, &from);
	assert_int_equal(run(LAT_RT_POLICY, &limits, "\nwhile true do end", &err, NULL), -ETIME);
	assert_int_equal(err.why, LAT_RT_DEADLINE);
	assert_string_equal(err.where, "policy.lua:2");
	assert_int_equal(run(LAT_RT_POLICY, &limits, "local s = ('x'):rep(8000000) while true do s:upper() end",
		&err, NULL) < 0, 1);
	clock_gettime(CLOCK_MONOTONIC, &to);
	assert_true(to.tv_sec - from.tv_sec < 10);
}

/* One call copies 400000 arguments twice: a thousand of them would take seconds. */
static void the_deadline_holds_for_few_slow_instructions(void **state)
{
	static const char text[] =
		"local t = {} for i = 1, 400000 do t[i] = i end\n"
		"local function sink(...) end\n"
		"local function g(...) while true do sink(...) sink(...) sink(...) sink(...) sink(...) end end\n"
		"g(table.unpack(t))\n";
	const struct lat_rt_limits limits = { .deadline_ms = 50, .memory = 256u << 20 };
	struct lat_rt_error err;
	struct timespec from, to;

	clock_gettime(CLOCK_MONOTONIC, &from);
	assert_int_equal(run(LAT_RT_POLICY, &limits, text, &err, NULL), -ETIME);
	clock_gettime(CLOCK_MONOTONIC, &to);
	assert_int_equal(err.why, LAT_RT_DEADLINE);
	assert_true((to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000 < 50 + 500);
}

static void limits_can_be_changed_and_are_per_stay(void **state)
{
	struct script s = { .text = "local n = 0 for i = 1, 100000 do n = n + 1 end return n" };
	struct lat_rt *rt;

	assert_int_equal(lat_rt_new(LAT_RT_POLICY, &small, &rt), 0);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(lat_rt_enter(rt, run_script, &s, NULL), 0);
		assert_int_equal(s.result, 100000);
	}
	lat_rt_set_limits(rt, &(struct lat_rt_limits){ .instructions = 5000 });
	assert_int_equal(lat_rt_enter(rt, run_script, &s, NULL), -ETIME);
	lat_rt_set_limits(rt, &(struct lat_rt_limits){ 0 });
	assert_int_equal(lat_rt_enter(rt, run_script, &s, NULL), 0);
	lat_rt_free(rt);
}

/* A module is stored as text and compiled; both are there, and a traceback names the file either way. */
static int load_each(lua_State *L)
{
	for (const struct lat_embedded *e = lat_embedded; e->name; e++) {
		assert_ptr_equal(lat_embedded_find(e->name), e);
		assert_int_equal(strlen(e->text), e->len);
		if (strchr(e->name, '/'))
			continue;
		for (int compiled = 0; compiled < 2; compiled++) {
			lua_Debug ar;

			assert_int_equal(luaL_loadbufferx(L, compiled ? e->code : e->text, compiled ? e->code_len : e->len,
				e->chunk, compiled ? "b" : "t"), LUA_OK);
			lua_getinfo(L, ">S", &ar);
			assert_string_equal(ar.source, e->chunk);
		}
	}
	return 0;
}

static void embedded_modules_load_as_text_and_compiled(void **state)
{
	struct lat_rt_error err;
	struct lat_rt *rt;

	assert_int_equal(lat_rt_new(LAT_RT_TRUSTED, NULL, &rt), 0);
	if (lat_rt_enter(rt, load_each, NULL, &err) < 0)
		fail_msg("%s", err.text);
	lat_rt_free(rt);
	assert_null(lat_embedded_find("lattice.nothing"));
}

/* ---- boxes ---- */

static int closed;

static void close_thing(void *object)
{
	closed++;
	free(object);
}

static const struct lat_box_type thing = { "test.Thing", close_thing };

static int use_boxes(lua_State *L)
{
	struct lat_box *box;

	lat_box_register(L, &thing);
	box = lat_box_new(L, &thing);
	lat_box_fill(L, box, malloc(1));
	assert_int_equal(lat_rt_boxes(lat_rt_of(L)), 1);
	lat_box_close(L, box);
	lat_box_close(L, box);
	assert_int_equal(closed, 1);
	assert_int_equal(lat_rt_boxes(lat_rt_of(L)), 0);
	lat_box_new(L, &thing); /* stays empty: nothing to close */
	lat_box_fill(L, lat_box_new(L, &thing), malloc(1));
	lua_setglobal(L, "kept"); /* closed with the state */
	lat_box_fill(L, lat_box_new(L, &thing), malloc(1));
	luaL_getmetafield(L, -1, "__close");
	lua_pushvalue(L, -2);
	lua_call(L, 1, 0);
	assert_int_equal(closed, 2);
	assert_null(((struct lat_box *)lua_touserdata(L, -1))->object);
	lat_box_check(L, -1, &thing); /* throws: it is closed */
	return 0;
}

static void boxes_close_once_and_with_the_state(void **state)
{
	struct lat_rt_error err;
	struct lat_rt *rt;

	closed = 0;
	assert_int_equal(lat_rt_new(LAT_RT_TRUSTED, NULL, &rt), 0);
	assert_int_equal(lat_rt_enter(rt, use_boxes, NULL, &err), -EPROTO);
	assert_non_null(strstr(err.text, "this test.Thing is closed"));
	assert_int_equal(lat_rt_boxes(rt), 1);
	lat_rt_free(rt);
	assert_int_equal(closed, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(endless_loops_are_stopped_and_named),
		cmocka_unit_test(a_trip_cannot_be_caught),
		cmocka_unit_test(a_policy_state_has_no_coroutines),
		cmocka_unit_test(a_coroutine_of_ours_is_stopped_too),
		cmocka_unit_test(allocation_without_end_is_stopped),
		cmocka_unit_test(deep_recursion_is_stopped),
		cmocka_unit_test(bad_error_objects_are_reported),
		cmocka_unit_test(nothing_runs_unbounded_inside_c),
		cmocka_unit_test(patterns_that_blow_up_are_stopped),
		cmocka_unit_test(a_policy_state_has_no_way_out),
		cmocka_unit_test(bytecode_is_refused),
		cmocka_unit_test(the_environment_is_not_looked_at),
		cmocka_unit_test(the_deadline_holds_where_instructions_do_not),
		cmocka_unit_test(the_deadline_holds_for_few_slow_instructions),
		cmocka_unit_test(limits_can_be_changed_and_are_per_stay),
		cmocka_unit_test(embedded_modules_load_as_text_and_compiled),
		cmocka_unit_test(boxes_close_once_and_with_the_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
