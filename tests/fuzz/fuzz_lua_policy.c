/* Policies that somebody else wrote, in the state that `lattice run` loads them in. An input that begins with '!' is the
 * text of one rule, any other a whole policy. Loading ends with a policy or with errors, never with a thrown one; errors
 * have a place and nothing that acts on a terminal; a policy builds its tables, and each rule's canonical text means the
 * same rule. */
#include "lua/l_policy.h"
#include "lua_driver.h"

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

static void compile(lua_State *L)
{
	struct lat_policy *policy;

	if (lua_isnil(L, -1))
		return;
	if (lat_lua_check_policy(L, lua_gettop(L), 1, &policy) < 0)
		luaL_error(L, "a loaded policy does not compile: %s", lua_tostring(L, -1));
	lat_policy_unref(policy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct lat_rt_limits limits = {
		.instructions = 5000000, .memory = 64u << 20, .deadline_ms = 2000
	};
	static const struct lua_target target = {
		script, sizeof(script) - 1, LAT_RT_POLICY, &limits, compile, .limits_end = true
	};

	return lua_target_run(&target, data, size);
}
