local policy = require("lattice.policy")
local tables = require("lattice.tables")

local function load(text)
  local loaded, problems = policy.load({ sources = { { name = "t.lua", text = text } } })
  return assert(loaded, problems and policy.format_error(problems[1]))
end

local text = [[
default "deny"
allow "tcp to api.example, *.githost.example port 443"
allow { proto = "tcp", to = "10.42.0.0/16", port = "5432, 8000-8999", reason = "staging" }
deny "tcp to ads.example"
allow "tcp to *.example port 80"
allow { proto = "tcp", to = "db.lan", private = true }
allow "in tcp from 2001:db8::/32 port 22"
]]

describe("lattice.tables", function()
  it("judges by the first rule that matches", function()
    local t <close> = assert(tables.build(load(text)))
    assert.equal(6, #t)
    assert.is_true(t:bytes() > 0)
    assert.same({ verdict = "allow", action = "allow", rule = 2, where = "t.lua:3", reason = "staging" },
      t:judge({ dir = "out", proto = 6, addr = "10.42.1.1", port = 8500 }))
    assert.same({ verdict = "deny", action = "deny", rule = 0, where = "default" },
      t:judge({ dir = "out", proto = 17, addr = "10.42.1.1", port = 8500 }))
    assert.equal(6, t:lookup("in", 6, "2001:db8::7", 22))
    assert.equal(0, t:lookup("out", 6, "2001:db8::7", 22))
  end)

  it("takes names from the flow or beside it, and keeps none of them", function()
    local t <close> = assert(tables.build(load(text)))
    local flow = { dir = "out", proto = 6, addr = "203.0.113.7", port = 443 }
    assert.equal(1, t:judge(flow, { "API.example." }).rule)
    assert.equal(0, t:judge(flow).rule)
    flow.names = { "x.y.githost.example" }
    assert.equal(1, t:judge(flow).rule)
    flow.port = 80
    assert.equal(4, t:judge(flow).rule)
  end)

  it("lets a name lead to a private address only where the rule says so", function()
    local t <close> = assert(tables.build(load(text)))
    assert.equal(0, t:judge({ dir = "out", proto = 6, addr = "10.0.0.1", port = 443 }, { "api.example" }).rule)
    assert.equal(5, t:judge({ dir = "out", proto = 6, addr = "10.0.0.1", port = 443 }, { "db.lan" }).rule)
    assert.equal(3, t:judge({ dir = "out", proto = 6, addr = "10.0.0.1", port = 443 }, { "ads.example" }).rule)
  end)

  it("tells which names some rule could allow", function()
    local t <close> = assert(tables.build(load(text)))
    assert.same({ true, false }, { t:resolvable("api.example") })
    assert.same({ true, true }, { t:resolvable("DB.lan") })
    assert.same({ false, false }, { t:resolvable("ads.example") })
    assert.same({ false, false }, { t:resolvable("elsewhere.org") })
  end)

  it("names the rule and the place of what it cannot take", function()
    local function refused(change, want)
      local p = load(text)
      change(p)
      local t, why, code = tables.build(p)
      assert.is_nil(t)
      assert.matches(want, why)
      assert.equal("EINVAL", code)
    end
    refused(function(p) p.rules[2].action = "permit" end, "rule 2 %(t.lua:3%): unknown action")
    refused(function(p) p.rules[2].id = 9 end, "rule 2 .*'id'")
    refused(function(p) p.rules[2].ports[1] = { 9, 8 } end, "rule 2 .*port range")
    refused(function(p) p.rules[2].ports = {} end, "rule 2 .*empty list")
    refused(function(p) p.rules[2].ports = 5 end, "rule 2 .*no list")
    refused(function(p) p.rules[2].protos = { 300 } end, "rule 2 .*protocol")
    refused(function(p) p.rules[2].prefixes[1].len = 33 end, "rule 2 .*prefix")
    refused(function(p) p.rules[2].prefixes[1].addr = "10.42" end, "rule 2 .*prefix")
    refused(function(p) p.rules[2].prefixes[1].addr = "2001:db8::" end, "rule 2 .*IPv6 address")
    refused(function(p) p.rules[2].dir = "up" end, "rule 2 .*'dir'")
    refused(function(p) p.rules[2].errno = "EWHAT" end, "rule 2 .*errno")
    refused(function(p) p.rules[2].ttl = -1 end, "rule 2 .*'ttl'")
    refused(function(p) p.rules[1].names[1] = "10.0.0.1" end, "odd")
    refused(function(p) p.rules[1].names[1] = 7.5 end, "rule 1 .*name")
    refused(function(p) p.rules[3] = "x" end, "rule 3 .*no table")
    refused(function(p) p.rules = nil end, "no list 'rules'")
    refused(function(p) p.default = "perhaps" end, "'default'")
    refused(function(p) p.unix = { "relative" } end, "not absolute")
  end)

  it("throws on odd flows", function()
    local t <close> = assert(tables.build(load(text)))
    assert.error_matches(function() t:judge({ proto = 6, addr = "10.0.0.1" }) end, "direction")
    assert.error_matches(function() t:judge({ dir = "out", proto = 6 }) end, "not an IP address")
    assert.error_matches(function() t:judge({ dir = "out", addr = "10.0.0.1" }) end, "'proto'")
    assert.error_matches(function() t:judge({ dir = "out", proto = 6, addr = "10.0.0.1", port = 65536 }) end,
      "'port'")
    assert.error_matches(function()
      t:judge({ dir = "out", proto = 6, addr = "10.0.0.1" }, { "10.0.0.1" })
    end, "no host name")
    local many = {}
    for i = 1, 65 do many[i] = "n" .. i .. ".example" end
    assert.error_matches(function() t:judge({ dir = "out", proto = 6, addr = "10.0.0.1" }, many) end, "at most 64")
  end)

  it("answers no more once it is closed", function()
    local t = assert(tables.build(load(text)))
    t:close()
    t:close()
    assert.error_matches(function() return #t end, "closed")
    assert.error_matches(function() t:lookup("out", 6, "10.0.0.1", 1) end, "closed")
  end)
end)
