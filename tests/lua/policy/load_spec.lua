-- Loading: what the words build, in which order, and that problems are reported together with their places.
local path = require("tests.support.path")
local policy = require("lattice.policy")

local function load(text, opts)
  opts = opts or {}
  opts.sources = { { name = "a.lua", text = text } }
  opts.shipped = opts.shipped or path.shipped
  return policy.load(opts)
end

local function errors_of(text, opts)
  local loaded, errors = load(text, opts)
  assert.is_nil(loaded)
  local lines = {}
  for i, err in ipairs(errors) do lines[i] = policy.format_error(err) end
  return lines
end

local function judge(p, text)
  return policy.eval.judge(p, assert(policy.flow.parse(text)))
end

describe("a policy", function()
  it("decides by the first rule that matches", function()
    local p = assert(load([[
deny  "tcp to 10.0.0.7 port 22"
allow "tcp to 10.0.0.0/8"
]]))
    local v = judge(p, "tcp to 10.0.0.7 port 22")
    assert.same({ "deny", "deny", 1, "a.lua:1" }, { v.verdict, v.action, v.rule, v.where })
    assert.equal(2, judge(p, "tcp to 10.0.0.8 port 22").rule)
    assert.same({ 0, "deny", "default" }, {
      judge(p, "udp to 10.0.0.8 port 22").rule, judge(p, "udp to 10.0.0.8 port 22").verdict,
      judge(p, "udp to 10.0.0.8 port 22").where,
    })
  end)

  it("reports every bad rule in one go", function()
    assert.same({
      "a.lua:1:8: unknown protocol 'tpc' (expected tcp, udp, icmp, icmpv6, any or a number; did you mean tcp?)",
      "a.lua:3:15: 10.0.0.1/8 has bits set beyond its prefix length (did you mean 10.0.0.0/8?)",
    }, errors_of([[
allow "tpc to any"
allow "tcp to any"
allow "tcp to 10.0.0.1/8"
]]))
  end)

  it("names fifty problems, and that there are more", function()
    local lines = errors_of(('allow "tpc to any"\n'):rep(80))
    assert.equal(51, #lines)
    assert.equal("a.lua:51: and more: not all problems are shown", lines[51])
  end)

  it("refuses to load when one of its tests fails", function()
    assert.same({
      'a.lua:2:17: test failed: expected allow, the verdict is deny by rule 1, a.lua:1: deny "tcp to any"',
    }, errors_of('deny "tcp to any"\ntest { allow = "tcp to 10.0.0.1 port 1" }', { run_tests = true }))
  end)
end)
