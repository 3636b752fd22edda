/* Policies that somebody else wrote, in the state that `lattice run` loads them in. An input that begins with '!' is the
 * text of one rule, any other a whole policy. Loading ends with a policy or with errors, never with a thrown one; errors
 * have a place and nothing that acts on a terminal; a policy builds its tables, and each rule's canonical text means the
 * same rule. */
#include "lua/l_policy.h"
#include "lua/runtime.h"
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char script[] =
	"local policy = require 'lattice.policy'\n"
	"local function load(text)\n"
	"  return policy.load { sources = { { name = 'f.lua', text = text } }, run_tests = true,\n"
	"    read = function() return nil, 'no files here' end }\n"
	"end\n"
	"local function same(a, b)\n"
	"  for _, list in ipairs { 'prefixes', 'names', 'protos', 'ports' } do\n"
	"    local x, y = a[list] or {}, b[list] or {}\n"
	"    assert(#x == #y, list)\n"
	"    for i, one in ipairs(x) do\n"
	"      if type(one) ~= 'table' then assert(one == y[i], list)\n"
	"      else for k, v in pairs(one) do assert(y[i][k] == v, list) end end\n"
	"    end\n"
	"  end\n"
	"  assert(a.dir == b.dir and a.any == b.any and a.host == b.host and a.text == b.text)\n"
	"end\n"
	"return function(bytes)\n"
	"  if bytes:sub(1, 1) == '!' then bytes = ('allow(%q)'):format(bytes:sub(2)) end\n"
	"  local loaded, errors = load(bytes)\n"
	"  if not loaded then\n"
	"    for _, err in ipairs(errors) do\n"
	"      local text = policy.format_error(err)\n"
	"      assert(not text:find('[%c\\127-\\255]'), 'the error acts on a terminal')\n"
	"      assert(err.file and err.line, 'the error has no place')\n"
	"    end\n"
	"    return nil\n"
	"  end\n"
	"  policy.print.dump(loaded)\n"
	"  for i, rule in ipairs(loaded.rules) do\n"
	"    assert(rule.id == i)\n"
	"    if not rule.subject and not rule.text:find('@', 1, true) then\n"
	"      local again, problems = load(rule.text)\n"
	"      if not again then error(rule.text .. ': ' .. policy.format_error(problems[1])) end\n"
	"      same(rule, again.rules[1])\n"
	"    end\n"
	"  end\n"
	"  return loaded\n"
	"end\n";

static const char key;

struct bytes {
	const uint8_t *data;
	size_t size;
};

static int prepare(lua_State *L)
{
	if (luaL_loadbufferx(L, script, sizeof(script) - 1, "=fuzz", "t") != LUA_OK)
		return lua_error(L);
	lua_call(L, 0, 1);
	lua_rawsetp(L, LUA_REGISTRYINDEX, &key);
	return 0;
}

static int feed(lua_State *L)
{
	const struct bytes *in = lua_touserdata(L, 1);
	struct lat_policy *policy;

	lua_rawgetp(L, LUA_REGISTRYINDEX, &key);
	lua_pushlstring(L, (const char *)in->data, in->size);
	lua_call(L, 1, 1);
	if (lua_isnil(L, -1))
		return 0;
	if (lat_lua_check_policy(L, lua_gettop(L), 1, &policy) < 0)
		return luaL_error(L, "a loaded policy does not compile: %s", lua_tostring(L, -1));
	lat_policy_unref(policy);
	return 0;
}

static void enter(struct lat_rt *rt, lua_CFunction what, void *ctx)
{
	struct lat_rt_error err;

	/* a limit that was met is no finding: the program refuses such a policy */
	if (lat_rt_enter(rt, what, ctx, &err) == 0 || err.why != LAT_RT_ERROR)
		return;
	fprintf(stderr, "%s\n%s\n", err.text, err.trace);
	abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct lat_rt_limits limits = { .instructions = 5000000, .memory = 64u << 20, .deadline_ms = 2000 };
	static struct lat_rt *rt;
	struct bytes in = { data, size };

	if (!rt) {
		if (lat_rt_new(LAT_RT_POLICY, &limits, &rt) < 0)
			abort();
		enter(rt, prepare, NULL);
	}
	enter(rt, feed, &in);
	return 0;
}
