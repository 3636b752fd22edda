-- Events by NFLOG, from rules of iptables in a network namespace of its own.
local loop = require("lattice.loop")
local netns = require("lattice.netns")

-- What iptables says in such a namespace; nil: it can log.
local function refusal()
  local ns <close> = netns.open()
  if not ns then return "no network namespace" end
  return ns:run(function()
    local pipe = io.popen("iptables -w 5 -A OUTPUT -p udp --dport 9 -j NFLOG --nflog-group 1 2>&1")
    local text = pipe:read("a")
    return not pipe:close() and "iptables: " .. text:gsub("\n.*", "") or nil
  end)
end
local why_not = refusal()

local function test(name, fn)
  if why_not then pending(name, why_not) else it(name, fn) end
end

-- Runs fn(iptables, send) in a namespace with `lo` up; what it returns comes back.
local function inside(fn)
  local ns <close> = assert(netns.open())
  return ns:run(function()
    local function iptables(rule) assert(os.execute("iptables -w 5 " .. rule)) end
    assert(os.execute("ip link set lo up"))
    local uv = require("luv")
    local socket = uv.new_udp()
    assert(socket:bind("127.0.0.1", 4000))
    local function send(text, port, count)
      for _ = 1, count or 1 do socket:try_send(text, "127.0.0.1", port) end
    end
    return fn(iptables, send)
  end)
end

describe("events by NFLOG", function()
  test("tell the rule, the verdict and the flow of the packet", function()
    local got = inside(function(iptables, send)
      local events = require("lattice.events")
      iptables('-A OUTPUT -p udp --dport 9 -j NFLOG --nflog-prefix "lattice:3:17:deny:out" --nflog-group 7214 '
        .. "--nflog-size 128")
      iptables('-A INPUT -p udp --dport 10 -j NFLOG --nflog-prefix "lattice:4:2147483651:allow:in" --nflog-group 7214')
      iptables('-A INPUT -p udp --dport 11 -j NFLOG --nflog-prefix "somebody else" --nflog-group 7214')
      local source <close> = assert(events.open())
      assert(source:nflog(7214))
      local second, why, code = events.open():nflog(7214)
      local list = {}
      source:watch({}, function(e)
        list[#list + 1] = { e.generation, e.rule, e.where, e.action, e.dir, e.proto, e.addr, e.port, e.sport,
          e.local_addr, e.device, e.length }
        if #list == 2 then loop.stop() end
      end)
      loop.timer(5000, loop.stop)
      send("hello", 9)
      send("", 11)
      send("hello", 10)
      loop.run()
      return { events = list, counters = source:counters(), second = tostring(second), why = why, code = code }
    end)
    assert.same({ 3, 17, "rule 17", "deny", "out", 17, "127.0.0.1", 9, 4000, "127.0.0.1", "lo", 33 }, got.events[1])
    assert.same({ 4, 2147483651, "temporary:3", "allow", "in", 17, "127.0.0.1", 10, 4000, "127.0.0.1", "lo", 33 },
      got.events[2])
    assert.same({ seen = 2, lost = 1, lost_in_kernel = 0, audit_lost = 0 }, got.counters)
    assert.same({ "nil", "EBUSY" }, { got.second, got.code })
  end)

  test("count what a reader that does not come has cost", function()
    local got = inside(function(iptables, send)
      local events = require("lattice.events")
      iptables('-A OUTPUT -p udp --dport 9 -j NFLOG --nflog-prefix "lattice:1:1:deny:out" --nflog-group 7')
      local source <close> = assert(events.open())
      assert(source:nflog(7))
      local total = 0
      repeat -- nobody reads: the socket's buffer must overflow
        send(("x"):rep(400), 9, 10000)
        total = total + 10000
      until total == 200000
      local function told() local c = source:counters() return c.seen + c.lost_in_kernel end
      local timer = loop.timer(20000, loop.stop)
      loop.timer(20, function()
        send("x", 9) -- its number tells what was lost before it
        total = total + 1
        if told() >= total - 1 and source:counters().lost_in_kernel > 0 then loop.stop() end
      end, 20)
      loop.run()
      timer:close()
      local c = source:counters()
      return { total = total, seen = c.seen, lost = c.lost_in_kernel }
    end)
    assert.is_true(got.lost > 0)
    assert.is_true(got.total - got.seen - got.lost <= 1 and got.total >= got.seen + got.lost,
      ("%d sent, %d seen, %d lost"):format(got.total, got.seen, got.lost))
  end)
end)
