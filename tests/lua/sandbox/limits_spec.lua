-- What holds a policy's limits: a group where there is one, rlimits, or nothing, and then by name and with the reason.
package.path = "lua/?.lua;lua/?/init.lua;" .. package.path
local limits = require("lattice.sandbox.limits")

-- lattice.cgroup.make on a host that cannot hold `broken`: name -> reason ("group": none at all).
local function host(broken)
  local open, made = {}, {}
  local function make(options)
    for name in pairs(options.limits) do
      if broken[name] then return nil, broken[name] end
    end
    if broken.group then return nil, broken.group end
    local group = { limits = options.limits, name = options.name }
    function group.close() open[group] = nil end
    function group.paths() return { "/sys/fs/cgroup/lattice/" .. options.name } end
    open[group] = true
    made[#made + 1] = group
    return group
  end
  return make, open, made
end

local function take(wanted, broken, programs)
  local make, open = host(broken or {})
  local taken, why = limits.take(wanted, { name = "t", make = make, programs = programs })
  local count = 0
  for _ in pairs(open) do count = count + 1 end
  return taken, count, why
end

describe("limits of a run", function()
  it("need no group when there are none", function()
    local taken, open = take(nil)
    assert.same({ rlimits = {}, missing = {}, held = {} }, taken)
    assert.equal(0, open)
    assert.is_nil(limits.why_missing(taken))
    assert.is_nil(limits.describe(taken))
  end)

  it("are held by one group and by rlimits", function()
    local taken, open = take({ memory = 1 << 20, cpu = 0.5, pids = 20, files = 40 })
    assert.same({ memory = 1 << 20, cpu = 0.5, pids = 20 }, taken.group.limits)
    assert.same({ files = 40 }, taken.rlimits)
    assert.equal(1, open)
    assert.equal("cpu, memory, pids by /sys/fs/cgroup/lattice/t; files by rlimits", limits.describe(taken))
  end)

  it("that only a group holds are missing without one, each with its reason; pids falls back to an rlimit", function()
    local taken, open = take({ memory = 1 << 20, pids = 20 }, { group = "not here" })
    assert.is_nil(taken.group)
    assert.same({ pids = 20 }, taken.rlimits)
    assert.same({ { name = "memory", reason = "not here" } }, taken.missing)
    assert.equal("  memory: not here", limits.why_missing(taken))
    assert.equal("memory", limits.names_missing(taken))
    assert.equal(0, open)
  end)

  it("that hold are held when another does not", function()
    local taken, open = take({ memory = 1 << 20, io = 5, pids = 20 }, { io = "no disk" })
    assert.same({ memory = 1 << 20, pids = 20 }, taken.group.limits)
    assert.same({ { name = "io", reason = "no disk" } }, taken.missing)
    assert.equal(1, open)
  end)

  it("of swap are tried beside memory", function()
    local taken = take({ memory = 1 << 20, swap = 0 }, { swap = "not counted" })
    assert.same({ memory = 1 << 20 }, taken.group.limits)
    assert.same({ { name = "swap", reason = "not counted" } }, taken.missing)
  end)

  it("do not keep a group from the programs that need one, and without one there is an error", function()
    local taken = take({ io = 5 }, { io = "no disk" }, true)
    assert.same({}, taken.group.limits)
    local none, _, why = take({}, { group = "no cgroup v2" }, true)
    assert.is_nil(none)
    assert.equal("no cgroup v2", why)
  end)
end)
