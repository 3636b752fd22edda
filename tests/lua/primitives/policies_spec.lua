local api = require("lattice.api")
local loop = require("lattice.loop")
local policies = require("lattice.policies")

local made = {}

local function file(text)
  local path = os.tmpname()
  local f <close> = assert(io.open(path, "w"))
  f:write(text)
  made[#made + 1] = path
  return path
end

local function load(spec)
  local results = { n = 0 }
  policies.load(spec, function(...) results = table.pack(...) end)
  loop.run()
  return table.unpack(results, 1, results.n)
end

local text = [[
policy "node"
default "drop"
keep_established()
allow "tcp to 10.42.0.0/16 port 443, 8000-8999"
deny { proto = "udp", to = "any", reason = "no udp" }
allow "in tcp from mesh port 22"
allow { proto = "any", to = "db.lan", private = true, log = false }
ask "tcp to any port 25"
]]

describe("lattice.policies", function()
  after_each(function()
    for _, path in ipairs(made) do os.remove(path) end
    made = {}
    assert.equal(0, api.boxes())
  end)

  it("gives a generation with its rules, their match and their names", function()
    local path = file(text)
    local g <close> = assert(load({ number = 7, files = { path }, mesh = { "10.99.0.0/16" } }))
    assert.equal(7, g:number())
    local info = g:info()
    assert.equal("node", info.name)
    assert.equal("drop", info.default)
    assert.equal(5, info.rules)
    assert.is_true(info.keep_established)
    assert.is_true(info.ask)
    assert.equal(path, info.files[1])
    assert.matches("^%x+$", info.digest)
    assert.equal(64, #info.digest)
    assert.same({ id = 2, action = "deny", where = path .. ":5", reason = "no udp", text = g:rule(2).text,
      log = true, rate = 0, ttl = 0 }, g:rule(2))
    assert.matches("udp", g:rule(2).text)
    assert.is_nil(g:rule(6))
    assert.same({ rule = 1, dir = "out", proto = 6, addr = "10.42.0.0", len = 16, family = 4, lo = 8000, hi = 8999 },
      g:entries(2, 1)[1])
    local all = g:entries(1, 1000)
    assert.equal(info.entries, #all)
    assert.equal("10.99.0.0", all[5].addr)
    assert.same({}, g:entries(#all + 1, 10))
    assert.same({ { pattern = "db.lan", rule = 4, dir = "out", proto = 255, lo = 0, hi = 65535, allows = true,
      private = true } }, g:names())
  end)

  it("judges as the tables do, in order over all files", function()
    local first, second = file('deny "tpc to 10.42.1.1"'), file(text)
    local g, err = load({ number = 1, files = { file('deny "tcp to 10.42.1.1"'), second } })
    assert.is_nil(err)
    local function verdict(flow) return g:judge(flow).verdict .. " " .. g:judge(flow).rule end
    assert.equal("deny 1", verdict({ dir = "out", proto = 6, addr = "10.42.1.1", port = 443 }))
    assert.equal("allow 2", verdict({ dir = "out", proto = 6, addr = "10.42.1.2", port = 443 }))
    assert.equal("deny 0", verdict({ dir = "in", proto = 6, addr = "10.42.1.2", port = 443 }))
    assert.equal("deny 6", verdict({ dir = "out", proto = 6, addr = "10.0.0.1", port = 25 }))
    assert.equal("allow 5",
      verdict({ dir = "out", proto = 6, addr = "192.168.1.1", port = 9, names = { "DB.lan" } }))
    g:close()
    assert.has_error(function() g:number() end)
    local _, why, code = load({ number = 1, files = { first } })
    assert.equal("policy", code)
    assert.matches(first .. ":1:", why, 1, true)
  end)

  it("names file and line of everything that is wrong, and of a test that fails", function()
    local wrong = file('allow "tcp to 10.0.0.0/33"\n\ndeny "tpc to any"\n')
    local g, err, code = load({ number = 1, files = { wrong } })
    assert.is_nil(g)
    assert.equal("policy", code)
    assert.matches(wrong .. ":1:", err, 1, true)
    assert.matches(wrong .. ":3:", err, 1, true)
    local failing = file('deny "tcp to any"\ntest { allow = "tcp to 10.0.0.1 port 80" }\n')
    g, err = load({ number = 1, files = { failing } })
    assert.is_nil(g)
    assert.matches(failing .. ":2", err, 1, true)
    g, err = load({ number = 1, files = { "/nonexistent/policy.lua" } })
    assert.is_nil(g)
    assert.matches("/nonexistent/policy.lua", err, 1, true)
    g, err = load({ number = 1, files = { file("while true do end") } })
    assert.is_nil(g)
    assert.matches("instruction budget", err)
  end)

  it("tells by the digest whether two policies mean the same", function()
    local function digest(source)
      local g <close> = assert(load({ number = 1, files = { file(source) } }))
      return g:info().digest
    end
    local one = digest('allow "tcp to 10.0.0.1 port 80"')
    assert.equal(one, digest('-- a comment\nallow "tcp to 10.0.0.1 port 80"'))
    assert.not_equal(one, digest('allow "tcp to 10.0.0.1 port 81"'))
    assert.not_equal(one, digest('deny "tcp to 10.0.0.1 port 80"'))
    assert.not_equal(one, digest('default "allow"\nallow "tcp to 10.0.0.1 port 80"'))
  end)

  it("loads a hundred thousand rules while the loop goes on", function()
    local lines = {}
    for i = 1, 100000 do
      lines[i] = ('allow "tcp to 10.%d.%d.%d port %d"'):format(i >> 16 & 255, i >> 8 & 255, i & 255, 1 + i % 60000)
    end
    local path, sys = file(table.concat(lines, "\n")), require("lattice.sys")
    local turns, last, gap, g = 0, sys.clock(), 0, nil
    local timer = loop.timer(1, function()
      local now = sys.clock()
      turns, gap, last = turns + 1, math.max(gap, now - last), now
    end, 1)
    local began = sys.clock()
    policies.load({ number = 1, files = { path } }, function(result)
      g = assert(result)
      timer:close()
    end)
    loop.run()
    assert.equal(100000, g:info().rules)
    assert.is_true(turns > 20)
    assert.is_true(gap < 250e6, ("the loop stood still for %.0f ms"):format(gap / 1e6))
    assert.is_true(sys.clock() - began < 20e9)
    g:close()
  end)

  it("throws what a caller did wrong, and starts nothing", function()
    local function done() end
    assert.has_error(function() policies.load({ number = 0, files = {} }, done) end)
    assert.has_error(function() policies.load({ number = 1, files = "x" }, done) end)
    assert.has_error(function() policies.load({ number = 1, files = { 1 } }, done) end)
    assert.has_error(function() policies.load({ number = 1, files = {} }) end)
    assert.has_error(function() require("lattice.policies").load() end)
  end)

  it("says what it changes of an older one, by what rules say and not where they stand", function()
    local old <close> = assert(load({ number = 1, files = { file([[
      allow "tcp to 10.0.0.1 port 1"
      allow "tcp to 10.0.0.2 port 2"
      allow "tcp to 10.0.0.2 port 2"
      deny "udp to any"]]) } }))
    local new <close> = assert(load({ number = 2, files = { file([[
      deny "udp to any"
      allow { proto = "tcp", to = "10.0.0.2", port = 2 }
      allow("tcp to 10.0.0.1 port 1", { log = false })
      allow("tcp to 10.0.0.3 port 3", { reason = "new" })]]) } }))
    assert.same({ rules_added = 2, rules_removed = 2, text = table.concat({ '- allow "tcp to 10.0.0.1 port 1"',
      '- allow "tcp to 10.0.0.2 port 2"', '+ allow "tcp to 10.0.0.1 port 1"', '+ allow "tcp to 10.0.0.3 port 3"' }, "\n") },
      new:changes(old))
    assert.same({ rules_added = 0, rules_removed = 0, text = "" }, new:changes(new))
    assert.equal(4, old:changes().rules_added)
    local many <close> = assert(load({ number = 3, files = { file(
      'for i = 1, 2000 do deny("tcp to any port " .. i) end') } }))
    local found = many:changes(old)
    assert.equal(2000, found.rules_added)
    assert.matches("%.%.%. and 1004 more$", found.text)
  end)
end)
