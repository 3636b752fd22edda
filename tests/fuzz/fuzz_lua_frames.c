/* Bytes that a client of the control socket sends: whatever they are and however they are cut into pieces, the decoder
 * gives the same objects and the same end, holds no more than its limit and one piece, and the filter that a request may
 * carry is refused with a reason or judges an event. The first byte is the size of the pieces. */
#include "lua/runtime.h"
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char script[] =
	"local frames, filter = require 'lattice.control.frames', require 'lattice.control.filter'\n"
	"local json = require 'lattice.json'\n"
	"local event = { verdict = 'deny', dir = 'out', proto = 6, addr = '10.0.0.7', port = 80, rule = 1, device = 'wf0' }\n"
	"local function read(bytes, piece)\n"
	"  local decoder, seen, why = frames.decoder(4096), {}, nil\n"
	"  for at = 1, #bytes, piece do\n"
	"    local found, reason = decoder:feed(bytes:sub(at, at + piece - 1))\n"
	"    for _, one in ipairs(found or {}) do seen[#seen + 1] = one end\n"
	"    assert(decoder.have <= 4100 + piece or decoder.broken, 'the decoder hoards')\n"
	"    why = why or reason\n"
	"    if why then break end\n"
	"  end\n"
	"  return seen, why\n"
	"end\n"
	"return function(bytes)\n"
	"  local piece = math.max(1, bytes:byte(1) or 1)\n"
	"  bytes = bytes:sub(2)\n"
	"  local seen, why = read(bytes, piece)\n"
	"  local again, reason = read(bytes, math.max(1, #bytes))\n"
	"  assert(#seen == #again and (why == nil) == (reason == nil), 'the pieces matter')\n"
	"  for i, one in ipairs(seen) do\n"
	"    assert(json.encode(one) == json.encode(again[i]))\n"
	"    assert(frames.encode(one, 1 << 20))\n"
	"    local args = type(one.args) == 'table' and one.args or one\n"
	"    local wanted, what = filter.compile(args)\n"
	"    if wanted then\n"
	"      assert(type(wanted(event)) == 'boolean')\n"
	"      filter.narrow(args)\n"
	"    else\n"
	"      assert(type(what) == 'string')\n"
	"    end\n"
	"  end\n"
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
	lua_gc(L, LUA_GCCOLLECT);
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
