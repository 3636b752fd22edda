-- The programs of a device (tc) and of a cgroup give the oracle's verdict and rule: generated policies in their maps,
-- generated flows as questions (by test run, no trace) and as packets with state: the first, one more, and the answer.
-- The C tables are asked beside them. The work is in tc_inside.lua, in a network and a mount namespace of its own.
-- LATTICE_SEED changes the sets, LATTICE_AGREE_SETS their number.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")
local uv = require("luv")

local first = math.tointeger(tonumber(os.getenv("LATTICE_SEED") or 1))
local sets = math.tointeger(tonumber(os.getenv("LATTICE_AGREE_SETS") or 240))
local FLOWS = 300

local missing = World.missing()

-- Where cgroup v2 is mounted, or nil.
local function cgroup2()
  for line in io.lines("/proc/self/mountinfo") do
    local at = line:match("^%S+ %S+ %S+ / (%S+) .- %- cgroup2 ")
    if at then return at end
  end
end

local function agree(from, count, env, own)
  if missing then return pending(missing) end
  local world = World.new()
  finally(function()
    world:close()
    if own then uv.fs_rmdir(own) end
  end)
  local p = world:run("host", { "unshare", "-n", "-m", World.lattice_path, "lua", "tests/agree/tc_inside.lua",
    tostring(from), tostring(count), tostring(FLOWS),
    own and ("/proc/%d/root%s"):format(uv.os_getpid(), own) }, -- a namespace hides /sys
    { env = env, timeout = 300000 })
  local skip = p.out:match("^skip: (.*)\n")
  if skip then return pending(skip) end
  assert.equal("", p.err)
  local rule, default, allowed, v6, coming, names =
    p.out:match("^agreed (%d+) default (%d+) allowed (%d+) v6 (%d+) in (%d+) names (%d+)")
  local flows = tonumber(rule) + tonumber(default)
  assert.is_true(flows > count * FLOWS * 8 // 10, flows .. " flows were judged")
  for what, n in pairs({ rule = rule, default = default, allowed = allowed, v6 = v6, ["in"] = coming, names = names }) do
    assert.is_true(tonumber(n) > flows // 10, what .. ": only " .. n .. " of " .. flows)
  end
end

describe("the tc programs", function()
  it(("agree with the oracle on %d sets x %d flows"):format(sets, FLOWS), function() agree(first, sets) end)

  it("agree on a cgroup, too", function()
    local tree = cgroup2()
    local group = tree and ("%s/lattice-agree-%d"):format(tree, uv.os_getpid())
    if not group or not uv.fs_mkdir(group, 493) then return pending("no group of cgroup v2 can be made here") end
    agree(first + 6000, 40, nil, group)
  end)

  it("agree on clsact, too", function() agree(first + 5000, 20, { LATTICE_NO_TCX = "1" }) end)
end)
