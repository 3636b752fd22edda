/* Our pattern functions against the string library's, on generated patterns, subjects and replacements. */
#include "lua/pattern.h"
#include "lua/runtime.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static const char script[] =
	"math.randomseed(20261)\n"
	"local pieces = { 'a', 'b', '.', '%a', '%d', '%s', '%W', '[ab]', '[^a]', '[a-c]', '[%d.]', '[]]', '[^]]',\n"
	"  '[a-]', '%.', '%%', '*', '+', '-', '?', '(', ')', '()', '%1', '%2', '%b()', '%f[%w]', '%f[^a]', '$', '^',\n"
	"  '\\0', '[%a_]', '[a%]', '[', '%', '%f', '%b', '%bx', ']', '[a-%d]', '\\200', '[\\1-\\255]' }\n"
	"local letters = { 'a', 'b', 'c', '(', ')', '.', '1', '2', ' ', '\\0', ']', '-', 'aa', 'ab', '\\200' }\n"
	"local function pick(from, most)\n"
	"  local t = {}\n"
	"  for i = 1, math.random(0, most) do t[i] = from[math.random(#from)] end\n"
	"  return table.concat(t)\n"
	"end\n"
	"local function all(f) return function(...) local t = {}\n"
	"  for a, b, c in f(...) do t[#t + 1] = tostring(a) .. '|' .. tostring(b) .. '|' .. tostring(c)\n"
	"    if #t > 50 then break end end\n"
	"  return table.concat(t, ',') end end\n"
	"local replacements = { 'x', '%0%0', '%1', '<%2>', '%%', '%', '%x', '', 7, 1.5, { a = 'A', aa = false, b = 1 },\n"
	"  function(a, b) return b end, function(a) return a and tostring(a):upper() end, function() return {} end,\n"
	"  function() return false end, true }\n"
	"local function same(name, f, g, ...)\n"
	"  local x, y = table.pack(pcall(f, ...)), table.pack(pcall(g, ...))\n"
	"  local function text(t) local o = {}\n"
	"    for i = 1, t.n do o[i] = type(t[i]) .. ':' .. tostring(t[i]):gsub('table: 0x%x+', 'T'):gsub(\"to '[%w.?]+'\", 'to F') end\n"
	"    return table.concat(o, ' ') end\n"
	"  if text(x) ~= text(y) then\n"
	"    local a = table.pack(...) for i = 1, a.n do a[i] = ('%q'):format(tostring(a[i])) end\n"
	"    error(('%s(%s): library %s, ours %s'):format(name, table.concat(a, ', '), text(x), text(y)))\n"
	"  end\n"
	"  return x[1]\n"
	"end\n"
	"local good = 0\n"
	"for i = 1, 60000 do\n"
	"  local s, p = pick(letters, 10), pick(pieces, 6)\n"
	"  local init = ({ nil, 1, 2, -3, 0, 100, -100 })[math.random(7)]\n"
	"  if same('find', string.find, ours.find, s, p, init) then good = good + 1 end\n"
	"  same('find', string.find, ours.find, s, p, init, true)\n"
	"  same('match', string.match, ours.match, s, p, init)\n"
	"  same('gmatch', all(string.gmatch), all(ours.gmatch), s, p, init)\n"
	"  local r = replacements[math.random(#replacements)]\n"
	"  same('gsub', string.gsub, ours.gsub, s, p, r, ({ nil, 0, 1, 2 })[math.random(4)])\n"
	"end\n"
	"assert(good > 20000, good)\n"
	"same('find', string.find, ours.find)\n"
	"same('gsub', string.gsub, ours.gsub, 'a', 'a')\n"
	"same('find', string.find, ours.find, ('a'):rep(300), ('a?'):rep(300))\n"
	"same('find', string.find, ours.find, 'x', ('('):rep(40))\n"
	"same('match', string.match, ours.match, ('a'):rep(100000), '^a*$')\n";

static int run_script(lua_State *L)
{
	lua_newtable(L);
	luaL_setfuncs(L, lat_pattern_functions, 0);
	lua_setglobal(L, "ours");
	if (luaL_loadbufferx(L, script, strlen(script), "@script", "t") != LUA_OK)
		return lua_error(L);
	lua_call(L, 0, 0);
	return 0;
}

static void our_patterns_are_luas(void **state)
{
	struct lat_rt_error err;
	struct lat_rt *rt;

	assert_int_equal(lat_rt_new(LAT_RT_TRUSTED, NULL, &rt), 0);
	if (lat_rt_enter(rt, run_script, NULL, &err) < 0)
		fail_msg("%s\n%s", err.text, err.trace);
	lat_rt_free(rt);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(our_patterns_are_luas) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
