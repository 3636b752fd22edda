-- lattice.events: handlers and watchers, what they are told and what is done to those that fail.
package.path = "tests/support/?.lua;" .. package.path
local api = require("lattice.api")
local events = require("lattice.events")
local loop = require("lattice.loop")
local steps = require("event_steps")
local pack = require("events").pack
local temporary, generation, push, records = steps.temporary, steps.generation, steps.push, steps.records

describe("lattice.events", function()
  after_each(function() assert.equal(0, steps.finish()) end)

  it("gives each batch to the handlers, in the order of their before and after", function()
    local source <close> = assert(events.open())
    local order = {}
    local function add(name, words)
      words.name, words.call = name, function(batch) order[#order + 1] = name .. batch.count end
      return source:on(words)
    end
    assert(add("c", {}))
    assert(add("b", { before = "c", after = "a" }))
    assert(add("a", {}))
    assert(add("z", { before = "a" }))
    assert.has_error(function() add("a", {}) end)
    local ok, why, code = add("x", { before = "z", after = "c" })
    assert.is_nil(ok)
    assert.matches("'x'.*contradict", why)
    assert.equal("ELOOP", code)
    push(source, {}, {})
    assert.same({ "z2", "a2", "b2", "c2" }, order)
    local names = {}
    for i, h in ipairs(source:handlers()) do names[i] = h.name end
    assert.same({ "z", "a", "b", "c" }, names)
  end)

  it("removes a handler, and another may have its name", function()
    local source <close> = assert(events.open())
    local calls = {}
    local function add(name, words)
      words.name, words.call = name, function() calls[#calls + 1] = name .. (words.mark or "") end
      return source:on(words)
    end
    assert(add("a", {}))
    assert(add("b", { before = "a" }))
    push(source, {})
    assert.is_true(source:off("a"))
    assert.is_false(source:off("a"))
    push(source, {})
    local ok, _, code = add("a", { before = "b" }) -- b comes before any a
    assert.same({ nil, "ELOOP" }, { ok, code })
    assert.is_true(source:off("b"))
    assert(add("a", { mark = "2" }))
    assert(add("b", { after = "a", mark = "2" }))
    assert(source:on({ name = "c", call = function() calls[#calls + 1] = select(3, source:off("a")) end }))
    push(source, {})
    assert.same({ "b", "a", "b", "a2", "b2", "EBUSY" }, calls)
  end)

  it("tells all of an event without a table, and as a table", function()
    local source <close> = assert(events.open())
    local g <close> = generation(3, 'default "deny"\nallow { proto = "tcp", to = "any", reason = "web" }\n')
    source:generation(g)
    local fields, addresses, event
    assert(source:on({ name = "h", call = function(batch)
      fields = { batch:fields(1) }
      addresses = { batch:addresses(1) }
      event = batch:event(1)
      assert.has_error(function() batch:fields(2) end)
      assert.has_error(function() batch:fields(0) end)
    end }))
    push(source, { action = "allow", dir = "in", proto = 6, rule = 1, generation = 3, port = 443, sport = 5555,
      length = 60, time_ns = 77, addr = "2001:db8::1", local_addr = "2001:db8::2", ifindex = 1 })
    assert.same({ 1, 1, 6, 1, 3, 443, 5555, 60, 77 }, fields)
    assert.same({ "2001:db8::1", "2001:db8::2", "lo" }, addresses)
    assert.matches(":2$", event.where)
    assert.same({ "allow", "allow", "in", "2001:db8::1", "2001:db8::2", 443, 5555, 1, 3, "web", "lo", "verdict" },
      { event.verdict, event.action, event.dir, event.addr, event.local_addr, event.port, event.sport, event.rule,
        event.generation, event.reason, event.device, event.kind })
  end)

  it("keeps no batch beyond its handler", function()
    local source <close> = assert(events.open())
    local kept
    assert(source:on({ name = "h", call = function(batch) kept = batch end }))
    push(source, {})
    assert.has_error(function() kept:event(1) end)
  end)

  it("splits many events into batches, and none is lost", function()
    local source <close> = assert(events.open())
    local count, largest, batches = 0, 0, 0
    assert(source:on({ name = "h", call = function(batch)
      count, largest, batches = count + batch.count, math.max(largest, batch.count), batches + 1
    end }))
    assert(source:push(pack():rep(100000)))
    loop.run()
    assert.equal(100000, count)
    assert.equal(256, largest)
    assert.equal(391, batches)
    assert.same({ seen = 100000, lost = 0, lost_in_kernel = 0, audit_lost = 0 }, source:counters())
  end)

  it("names the rules of this generation and the last, of temporary rules and the default", function()
    local source <close> = assert(events.open())
    local first <close> = generation(1, 'allow "tcp to any port 1"\n')
    local second <close> = generation(2, '\n\nallow "tcp to any port 2"\n')
    source:generation(first)
    source:generation(second)
    local where = {}
    local stop = source:watch({}, function(e) where[#where + 1] = e.where:match("[^/]*$") end)
    push(source, { rule = 1, generation = 1 }, { rule = 1, generation = 2 }, { rule = 0, generation = 2 },
      { rule = 0x80000003 }, { rule = 9, generation = 2 }, { rule = 1, generation = 77 })
    stop()
    assert.matches(":1$", where[1])
    assert.matches(":3$", where[2])
    assert.same({ "default", "temporary:3", "rule 9", "rule 1" }, { table.unpack(where, 3) })
  end)

  it("shows a watcher the last events and then each new one that its filter lets pass", function()
    local source <close> = assert(events.open({ memory = 4 }))
    push(source, { port = 1 }, { port = 2 }, { port = 3 }, { port = 4 }, { port = 5 }, { port = 6, action = "allow" })
    local function ports(filter)
      local list = {}
      return list, source:watch(filter, function(e) list[#list + 1] = e.port end)
    end
    local all = ports({ last = 100 })
    local two, stop_two = ports({ last = 2, verdict = "deny" })
    local far = ports({ addr = "198.51.100.0/24" })
    local inward = ports({ dir = "in", proto = 17, port = 53, rule = 4 })
    assert.same({ 3, 4, 5, 6 }, all)
    assert.same({ 4, 5 }, two)
    push(source, { port = 7 }, { port = 8, addr = "198.51.100.7" },
      { port = 53, proto = 17, dir = "in", rule = 4, action = "allow" })
    stop_two()
    stop_two()
    push(source, { port = 9 })
    assert.same({ 3, 4, 5, 6, 7, 8, 53, 9 }, all)
    assert.same({ 4, 5, 7, 8 }, two)
    assert.same({ 8 }, far)
    assert.same({ 53 }, inward)
    for _, bad in ipairs({ { addr = "10.0.0.1/8" }, { verdict = "maybe" }, { port = 70000 }, { last = -1 } }) do
      assert.has_error(function() source:watch(bad, print) end)
    end
  end)

  it("counts what a watcher could not be shown, and tells those who ask", function()
    local source <close> = assert(events.open({ memory = 16 }))
    local seen, lost = 0, 0
    source:watch({ losses = true }, function(e)
      if e.kind == "loss" then lost = lost + e.lost else seen = seen + 1 end
    end)
    assert(source:push(pack():rep(1000)))
    loop.run()
    assert.equal(1000, seen + lost)
    assert.is_true(seen >= 64)
  end)

  it("lets one handler's errors hurt no other, and notes them once", function()
    local path = temporary()
    do
      local source <close> = assert(events.open({ routes = { { sink = "file", target = path } } }))
      local good = 0
      assert(source:on({ name = "bad", call = function() error("broken here") end }))
      assert(source:on({ name = "odd", call = function() error({}) end }))
      assert(source:on({ name = "good", call = function() good = good + 1 end }))
      source:watch({}, function() error("so is this") end)
      for _ = 1, 5 do push(source, {}) end
      assert.equal(5, good)
    end
    local notes = {}
    for _, r in ipairs((records(path))) do
      if r.kind == "handler" then notes[#notes + 1] = r.text end
    end
    assert.equal(3, #notes)
    assert.matches("^handler bad: .*broken here", notes[1])
    assert.matches("^ended: a watcher: .*so is this", notes[3])
  end)

  it("stops a handler without end, drops it after three times, and the others get every batch", function()
    local path = temporary()
    do
      local source <close> = assert(events.open({ deadline_ms = 20, routes = { { sink = "file", target = path } } }))
      local before, after, watched = 0, 0, 0
      assert(source:on({ name = "before", call = function(b) before = before + b.count end }))
      assert(source:on({ name = "endless", call = function()
        while true do pcall(function() while true do end end) end
      end }))
      assert(source:on({ name = "after", call = function(b) after = after + b.count end }))
      source:watch({}, function() watched = watched + 1 end)
      for _ = 1, 6 do push(source, {}) end
      assert.same({ 6, 6, 6 }, { before, after, watched })
      local list = source:handlers()
      assert.same({ false, true, false }, { list[1].dropped, list[2].dropped, list[3].dropped })
      assert.equal(0, list[1].trips + list[3].trips)
    end
    local list, result = records(path)
    local notes = {}
    for _, r in ipairs(list) do
      if r.kind == "handler" then notes[#notes + 1] = r.text end
    end
    assert.equal(2, #notes)
    assert.matches("^dropped: handler endless: .*longer than its time limit", notes[2])
    assert.is_true(result.complete)
  end)

  it("bounds the memory of a handler", function()
    local source <close> = assert(events.open())
    local after = 0
    assert(source:on({ name = "greedy", call = function()
      local kept = {}
      for i = 1, 1000 do kept[i] = ("x"):rep(1 << 20) .. i end
      return kept
    end }))
    assert(source:on({ name = "after", call = function() after = after + 1 end }))
    for _ = 1, 4 do push(source, {}) end
    assert.equal(4, after)
    assert.is_true(source:handlers()[1].dropped)
  end)

  it("may be closed, and get handlers, from inside a handler", function()
    local source = assert(events.open())
    local late = 0
    assert(source:on({ name = "adds", call = function()
      pcall(source.on, source, { name = "late", call = function(b) late = late + b.count end })
    end }))
    push(source, {}, {})
    push(source, {})
    assert.equal(1, late)
    assert(source:on({ name = "closes", before = "late", call = function() source:close() end }))
    assert(source:push(pack():rep(5000)))
    loop.run()
    assert.equal(1, late)
    assert.has_error(function() source:counters() end)
  end)

  it("ends by itself when nobody holds it", function()
    local source = assert(events.open())
    assert(source:on({ name = "h", call = function() return source end }))
    assert.equal(1, api.boxes())
    source = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert.equal(0, api.boxes())
  end)
end)
