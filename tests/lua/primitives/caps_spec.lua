local caps = require("lattice.caps")
local facts = require("lattice.cli.support.doctor_facts")
local doctor = require("lattice.cli.doctor")

describe("lattice.caps", function()
  it("answers every probe, and doctor explains every one", function()
    for _, name in ipairs(caps.names()) do
      local result = caps.probe(name)
      assert.is_boolean(result.ok)
      assert.is_string(result.detail)
      assert.equal(not result.ok, result.code ~= nil)
      local fact = facts.facts[name]
      assert.is_table(fact, name)
      assert.is_true(#fact.how > 0 and #fact.needed_for > 0)
      assert.is_string(facts.fix(name, "EINVAL"))
    end
    for name in pairs(facts.facts) do assert.is_table(caps.probe(name)) end
  end)

  it("refuses an unknown probe and a bad limit", function()
    assert.has_error(function() caps.probe("warp") end)
    assert.has_error(function() caps.probe("user_namespace", 0) end)
  end)
end)

describe("lattice doctor", function()
  local function findings(broken)
    local list = {}
    for name, fact in pairs(facts.facts) do
      list[#list + 1] = { name = name, ok = not broken[name], required = fact.required or false }
    end
    return list
  end

  it("needs one of the two ways to queue", function()
    assert.same({}, doctor.missing(findings {}))
    assert.same({}, doctor.missing(findings { nfqueue = true }))
    assert.same({}, doctor.missing(findings { nfqueue_compat = true }))
    assert.same({ "nfqueue" }, doctor.missing(findings { nfqueue = true, nfqueue_compat = true }))
  end)

  it("says that run cannot work when something it needs is missing", function()
    assert.same({ "user_namespace" }, doctor.missing(findings { user_namespace = true, landlock = true }))
    assert.same({}, doctor.missing(findings { landlock = true, bpf_tc = true, tun_device = true }))
  end)
end)
