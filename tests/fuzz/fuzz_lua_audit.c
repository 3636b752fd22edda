/* Audit logs that somebody else wrote: the reader survives any bytes, the line for people has nothing that acts on a
 * terminal, the check ends with a verdict, and the learned policy loads, whatever the records say. */
#include "lua/runtime.h"
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char script[] =
	"local reader, check = require 'lattice.audit.reader', require 'lattice.audit.check'\n"
	"local format, learn = require 'lattice.audit.format', require 'lattice.audit.learn'\n"
	"local policy = require 'lattice.policy'\n"
	"return function(bytes)\n"
	"  local at, list, checker = 1, {}, check.new()\n"
	"  local file = { read = function(_, n)\n"
	"    if at > #bytes then return nil end\n"
	"    at = at + n\n"
	"    return bytes:sub(at - n, at - 1)\n"
	"  end }\n"
	"  for record in reader.each(file, function(p) checker:garbage(p) end) do\n"
	"    checker:add(record)\n"
	"    list[#list + 1] = record\n"
	"    local line = format.line(record):gsub('→', ''):gsub('←', '')\n"
	"    assert(not line:find('[%c\\127-\\255]'), 'the line acts on a terminal')\n"
	"  end\n"
	"  assert(#check.describe(checker:result()) > 0)\n"
	"  local text = learn.policy(list)\n"
	"  local loaded, problems = policy.load { sources = { { name = 'learned', text = text } } }\n"
	"  if not loaded then error(policy.format_error(problems[1]) .. '\\n' .. text) end\n"
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

	lua_rawgetp(L, LUA_REGISTRYINDEX, &key);
	lua_pushlstring(L, (const char *)in->data, in->size);
	lua_call(L, 1, 0);
	lua_gc(L, LUA_GCCOLLECT); /* what stays between two inputs makes libFuzzer look for leaks after each */
	return 0;
}

static void enter(struct lat_rt *rt, lua_CFunction what, void *ctx)
{
	struct lat_rt_error err;

	if (lat_rt_enter(rt, what, ctx, &err) == 0)
		return;
	fprintf(stderr, "%s\n%s\n", err.text, err.trace);
	abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct lat_rt *rt;
	struct bytes in = { data, size };

	if (!rt) {
		if (lat_rt_new(LAT_RT_TRUSTED, NULL, &rt) < 0)
			abort();
		enter(rt, prepare, NULL);
	}
	enter(rt, feed, &in);
	return 0;
}
