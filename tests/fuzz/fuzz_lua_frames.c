/* Bytes that a client of the control socket sends: whatever they are and however they are cut into pieces, the decoder
 * gives the same objects and the same end, holds no more than its limit and one piece, and the filter that a request may
 * carry is refused with a reason or judges an event. The first byte is the size of the pieces. */
#include "lua_driver.h"

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct lua_target target = { script, sizeof(script) - 1, LAT_RT_TRUSTED, NULL, NULL, false };

	return lua_target_run(&target, data, size);
}
