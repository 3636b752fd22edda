/* Audit logs that somebody else wrote: the reader survives any bytes, the line for people has nothing that acts on a
 * terminal, the check ends with a verdict, and the learned policy loads, whatever the records say. */
#include "lua_driver.h"

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct lua_target target = { script, sizeof(script) - 1, LAT_RT_TRUSTED, NULL, NULL, false };

	return lua_target_run(&target, data, size);
}
