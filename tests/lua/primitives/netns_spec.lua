local caps = require("lattice.caps")
local netns = require("lattice.netns")
local possible = caps.probe("net_namespace").ok

local function test(name, fn)
  if possible then it(name, fn) else pending(name, "no network namespace can be made here") end
end

describe("lattice.netns", function()
  test("makes a namespace with nothing but loopback, up", function()
    local ns <close> = assert(netns.open())
    local links = assert(ns:links())
    assert.equal(1, #links)
    assert.equal("lo", links[1].name)
    assert.is_true(links[1].up)
  end)

  test("runs a function inside, as its root, and brings the result back", function()
    local ns <close> = assert(netns.open())
    local inside = ns:run(function()
      local file = io.open("/proc/self/uid_map")
      local inner = file:read("n")
      file:close()
      local devices = 0
      for _ in io.lines("/proc/net/dev") do devices = devices + 1 end
      return { uid = inner, devices = devices - 2, list = { 1, 2, 3 } }
    end)
    assert.equal(0, inside.uid)
    assert.equal(1, inside.devices)
    assert.equal(3, #inside.list)
  end)

  test("throws what the function throws, with its place", function()
    local ns <close> = assert(netns.open())
    local ok, why = pcall(ns.run, ns, function() error("inside") end)
    assert.is_false(ok)
    assert.matches("netns_spec.lua:%d+: inside", why)
    assert.error_matches(function() ns:run(function() return print end) end, "cannot encode a function")
  end)

  test("says so when the process inside ends early", function()
    local ns <close> = assert(netns.open())
    local uv = require("luv")
    local result, why, code = ns:run(function() uv.kill(uv.os_getpid(), "sigkill") end)
    assert.is_nil(result)
    assert.is_string(why)
    assert.equal("EPIPE", code)
  end)

  test("gives sockets of the namespace", function()
    local ns <close> = assert(netns.open())
    local uv = require("luv")
    local fd = assert(ns:socket("udp"))
    local link = uv.fs_readlink("/proc/self/fd/" .. fd)
    assert.matches("^socket:", link)
    local udp = uv.new_udp()
    assert(udp:open(fd))
    -- there is no route but loopback's
    assert.same({ "ENETUNREACH" }, { select(3, udp:try_send("x", "198.51.100.1", 9)) })
    udp:close()
    require("lattice.loop").run()
  end)

  test("is gone when it is closed", function()
    local ns = assert(netns.open())
    ns:close()
    ns:close()
    assert.error_matches(function() ns:links() end, "is closed")
    assert.error_matches(function() ns:run(print) end, "is closed")
  end)
end)
