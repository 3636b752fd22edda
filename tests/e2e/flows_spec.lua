-- Flows under lattice run behave as they do outside: each test runs the same program there and here, and compares.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")

local open = 'policy "flows" allow "any to any"'
local missing = World.missing() or not World.has("python3") and "python3 is not installed" or nil

describe("flows under lattice run", function()
  if missing then
    pending("all of it", missing)
    return
  end
  local world, server

  setup(function()
    world = World.new()
    -- A neighbour that is not there: what is sent to it is lost in silence.
    world:run("host", { "ip", "neigh", "add", "203.0.113.77", "lladdr", "02:00:00:00:00:99", "dev", "v0" })
    server = world:serve({ "python3", "tests/support/flows.py", "serve" }, { tcp = { 7000, 7006 }, udp = 7007 })
    server:expect("ready")
  end)

  teardown(function() world:close() end)

  local function command(...)
    return { "python3", "-u", World.root .. "/tests/support/flows.py", ... }
  end

  local function outside(...)
    local p = world:run("host", command(...), { user = "65534", timeout = 90000 })
    assert.equal(0, p.status, p.err)
    return p.out
  end

  local function inside(...)
    local p = world:under(open, command(...), { timeout = 90000 })
    assert.equal(0, p.status, p.out .. p.err)
    return p.out, p
  end

  local function same(...)
    local out = outside(...)
    assert.equal(out, (inside(...)))
    return out
  end

  for _, address in ipairs({ "203.0.113.9", "2001:db8::9" }) do
    local version = address:find(":") and " (IPv6)" or " (IPv4)"

    it("half-close works both ways" .. version, function()
      assert.equal("hello end after 6\n104857664\n", same("half_close", address))
    end)

    it("a reset arrives as a reset, from either side" .. version, function()
      assert.equal("reset\n", same("reset_by_server", address))
      server.out = ""
      inside("reset_by_client", address)
      server:expect("client reset")
      server.out = ""
      inside("close_by_client", address)
      server:expect("client closed")
    end)

    it("100 MB go each way at once and arrive whole" .. version, function()
      assert.equal("104857664 True True\n", (inside("both_ways", address)))
    end)

    it("datagrams of every size come back whole, from whom was asked" .. version, function()
      assert.matches("peer is who was asked", same("datagrams", address))
    end)
  end

  it("1000 at once each get their own bytes", function()
    local out, p = inside("concurrent", "203.0.113.9")
    assert.equal("1000 open, 1000 right\n", out)
    assert.equal(1000, #World.find(p.audit, { kind = "verdict", action = "allow" }))
    assert.equal(1000, #World.find(p.audit, { kind = "close" }))
  end)

  it("tiny writes arrive in order", function()
    assert.equal("True end after 3000\n", same("tiny_writes", "203.0.113.9"))
  end)

  it("an urgent byte arrives as one", function()
    assert.equal("abcdef\n1\n!\n", same("urgent_data", "203.0.113.9"))
  end)

  it("a reader that stands still stops the writer, and does not grow the supervisor", function()
    local p = world:under(open, command("stalled_reader", "203.0.113.9"), { background = true, stdin = "open" })
    p:expect("full True\n", 60000)
    local peak = tonumber(World.read(("/proc/%d/status"):format(p.pid)):match("VmHWM:%s+(%d+)"))
    assert.is_true(peak < 40000, peak .. " kB")
    p:write("go\n")
    assert.equal("full True\nTrue\n", p:wait(60000).out)
  end)

  it("errors of connects are those of outside; UDP is told as soon, that the port is closed", function()
    local to = { "203.0.113.9/7099", "2001:db8::9/7099", "192.0.2.1", "10.1.2.3", "2001:db8:1::1" }
    local out = outside("errors", table.unpack(to))
    assert.matches("203.0.113.9/7099 ECONNREFUSED ECONNREFUSED ECONNREFUSED\n", out, 1, true)
    assert.matches("192.0.2.1 EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH\n", out, 1, true)
    assert.matches("10.1.2.3 ENETUNREACH ENETUNREACH ENETUNREACH\n", out, 1, true)
    -- in user mode UDP leaves by the relay; in kernel mode it is the host's own
    if World.mode_of_all ~= "kernel" then out = out:gsub("E[A-Z]+\n", "ECONNREFUSED\n") end
    assert.equal(out, (inside("errors", table.unpack(to))))
  end)

  it("a destination that never answers delays nobody", function()
    assert.equal("soon pending\n", same("beside_silence", "203.0.113.77", "203.0.113.9"))
  end)

  it("keepalive keeps a connection", function()
    assert.equal("True still here\n", same("keepalive", "203.0.113.9"))
  end)
end)
