-- lattice.events: what it writes to the audit: verdicts, ends, losses, the agent's own records.
package.path = "tests/support/?.lua;" .. package.path
local events = require("lattice.events")
local loop = require("lattice.loop")
local steps = require("event_steps")
local pack = require("events").pack
local temporary, generation, push, records = steps.temporary, steps.generation, steps.push, steps.records

describe("the audit of lattice.events", function()
  after_each(function() assert.equal(0, steps.finish()) end)

  it("writes verdicts, ends, losses and the agent's own records to the audit, and the file is checkable", function()
    local path = temporary()
    do
      local source <close> = assert(events.open({ run_name = "node", mode = "node", policy = "p",
        routes = { { sink = "file", target = path } } }))
      local g <close> = generation(4, 'allow { proto = "tcp", to = "any", port = "80", log = false }\n'
        .. 'allow { proto = "tcp", to = "any", port = "443", reason = "web" }\n')
      source:generation(g)
      source:record("start", { text = "latticed" })
      push(source, { action = "allow", rule = 1, generation = 4, port = 80 },
        { action = "allow", rule = 2, generation = 4 }, { action = "drop", generation = 4, port = 22 },
        { kind = "close", action = "allow", rule = 2, generation = 4, bytes_in = 1000, bytes_out = 10, duration_ns = 5 })
      source:record("operator", { uid = 1000, text = "allow tcp to 203.0.113.9 port 22, ttl 60" })
      source:record("reload", { generation = 5, text = "2 rules" })
      source:record("agent", { text = "fallback: iptables", errno = 22 })
    end
    local list, result = records(path)
    assert.is_true(result.complete)
    local kinds = {}
    for i, r in ipairs(list) do kinds[i] = r.kind .. " " .. r.action end
    assert.same({ "start deny", "verdict allow", "verdict drop", "close allow", "operator deny", "reload deny",
      "agent deny", "exit deny" }, kinds)
    assert.matches(":2$", list[2].where)
    assert.equal("web", list[2].text)
    assert.equal("203.0.113.9", list[2].addr)
    assert.equal(1000, list[4].bytes_in)
    assert.equal(1000, list[5].uid)
    assert.matches("OPERATOR uid 1000 \"allow tcp", require("lattice.audit.format").line(list[5]), 1, true)
    assert.equal("node", list[1].mode)
    assert.same({ "2 rules", 5, "fallback: iptables" }, { list[6].text, list[6].generation, list[7].text })
  end)

  it("names the addresses of flows while they are pinned", function()
    local path = temporary()
    do
      local source <close> = assert(events.open({ routes = { { sink = "file", target = path } } }))
      local seen = {}
      source:watch({}, function(e) seen[#seen + 1] = e.name or "-" end)
      assert(source:names({ { addr = "203.0.113.9", names = { "api.example", "www.example" } },
        { addr = "2001:db8::9", names = { "six.example" } }, { addr = "203.0.113.1", names = {} } }))
      push(source, {}, { addr = "2001:db8::9", local_addr = "2001:db8::1" }, { addr = "203.0.113.1" })
      assert(source:names({}))
      push(source, {})
      assert.same({ "api.example", "six.example", "-", "-" }, seen)
      assert.has_error(function() source:names({ { addr = "api", names = {} } }) end)
      assert.has_error(function() source:names({ 1 }) end)
    end
    local list = records(path)
    assert.same({ "api.example", "six.example" }, { list[1].name, list[2].name })
    assert.is_nil(list[4].name)
  end)

  it("tells losses of the kernel, and what was no event, in the same file", function()
    local path = temporary()
    do
      local source <close> = assert(events.open({ routes = { { sink = "file", target = path, kinds = 1 << 0 } } }))
      push(source, {}, { kind = "loss", packets = 1000 }, {}, { kind = 77 }, { action = 99 }, { dir = 5 })
      assert.same({ seen = 2, lost = 3, lost_in_kernel = 1000, audit_lost = 0 }, source:counters())
    end
    local list, result = records(path)
    assert.is_false(result.complete)
    assert.equal(1003, result.lost)
    assert.same({ 0, 0 }, { #result.gaps, #result.problems })
    assert.same({ "verdict", "loss", "verdict", "loss" },
      { list[1].kind, list[2].kind, list[3].kind, list[4].kind })
  end)

  it("tells a flood of losses in few records, and each loss is in one of them", function()
    local path = temporary()
    do
      local source <close> = assert(events.open({ routes = { { sink = "file", target = path, actions = 1 << 0 } } }))
      local bytes = {}
      for i = 1, 2000, 2 do
        bytes[i], bytes[i + 1] = pack({ kind = "loss", packets = 3 }), pack()
      end
      assert(source:push(table.concat(bytes)))
      loop.run()
      assert.equal(3000, source:counters().lost_in_kernel)
    end
    local list, result = records(path)
    assert.equal(3000, result.lost)
    assert.same({ 0, 0 }, { #result.gaps, #result.problems })
    local verdicts = 0
    for _, r in ipairs(list) do verdicts = verdicts + (r.kind == "verdict" and 1 or 0) end
    assert.equal(1000, verdicts)
    assert.is_true(#list - verdicts <= 100)
  end)

  it("counts what a full disk cost, and goes on", function()
    local source <close> = assert(events.open({ routes = { { sink = "file", target = "/dev/full" } } }))
    local seen = 0
    assert(source:on({ name = "h", call = function(b) seen = seen + b.count end }))
    assert(source:push(pack():rep(20000)))
    local bound = loop.timer(5000, loop.stop)
    local step
    step = loop.timer(5, function() if source:counters().audit_lost > 0 then loop.stop() end end, 5)
    loop.run()
    step:close()
    bound:close()
    loop.run("nowait")
    assert.is_true(source:counters().audit_lost > 0)
    assert.equal(20000, seen)
  end)

  it("changes the routes of the audit while it runs", function()
    local one, two = temporary(), temporary()
    do
      local source <close> = assert(events.open({ routes = { { sink = "file", target = one } } }))
      push(source, { port = 1 })
      assert(source:routes({ { sink = "file", target = two, kinds = 1 << 0, actions = 1 << 0 } }))
      push(source, { port = 2 }, { port = 3, action = "allow" })
      local ok, why = source:routes({ { sink = "file", target = "/nowhere/audit.jsonl" } })
      assert.is_nil(ok)
      assert.matches("/nowhere/audit.jsonl", why, 1, true)
      push(source, { port = 4 })
    end
    local function ports(path)
      local list = {}
      for _, r in ipairs((records(path))) do list[#list + 1] = r.kind == "verdict" and r.port or nil end
      return list
    end
    assert.same({ 1 }, ports(one))
    assert.same({ 2, 4 }, ports(two))
  end)

  it("refuses a sink that cannot be opened, and bad arguments", function()
    local source, why = events.open({ routes = { { sink = "file", target = "/nowhere/x" } } })
    assert.is_nil(source)
    assert.matches("/nowhere/x", why, 1, true)
    assert.has_error(function() events.open({ routes = { { sink = "tape" } } }) end)
    assert.has_error(function() events.open({ routes = 3 }) end)
    local ok <close> = assert(events.open())
    assert.has_error(function() ok:push("short") end)
    assert.has_error(function() ok:on({ name = "x" }) end)
    assert.has_error(function() ok:record("verdict", {}) end)
  end)
end)
