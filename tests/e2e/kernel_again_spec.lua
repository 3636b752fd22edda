-- What other specs show of `lattice run` in user mode, once more in kernel mode.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")

local missing = World.missing() or World.no_mode("kernel")

describe("in kernel mode:", function()
  if missing then
    pending("all of it", missing)
    return
  end

  setup(function() World.mode_of_all = "kernel" end)
  teardown(function() World.mode_of_all = nil end)

  for _, name in ipairs({ "dns", "live", "flows", "terminal", "sinks" }) do
    assert(loadfile(("tests/e2e/%s_spec.lua"):format(name), "t", _ENV))()
  end
end)
