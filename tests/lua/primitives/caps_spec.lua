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

  it("says what latticed could use, and asks nothing of it for run", function()
    local function node(edition, ...)
      local ok = {}
      for name in pairs(facts.facts) do ok[name] = true end
      for _, name in ipairs({ ... }) do ok[name] = false end
      return facts.node(ok, edition)
    end
    assert.same({ enforcers = { "ebpf (TCX)", "iptables (nft)" }, without = {}, wireguard = "kernel" }, node("pro"))
    assert.same({ "ebpf (clsact)", "iptables (legacy, no events: no nflog)" },
      node("pro", "tcx", "iptables_nft", "nflog").enforcers)
    assert.same({ "ebpf: no bpf_ring, tcx or clsact", "iptables: no iptables_nft or iptables_legacy" },
      node("pro", "tcx", "clsact", "bpf_ring", "iptables_nft", "iptables_legacy").without)
    assert.equal("wireguard-go", node("pro", "wireguard").wireguard)
    local community = node("community")
    assert.same({ "iptables (nft)" }, community.enforcers)
    assert.matches("^ebpf: a Pro feature", community.without[1])
    for _, name in ipairs({ "tcx", "clsact", "bpf_ring", "bpf_lpm", "bpf_swap", "iptables_nft", "iptables_legacy", "nflog",
      "ipset", "wireguard", "wireguard_go" }) do
      assert.is_nil(facts.facts[name].required)
    end
  end)

  it("says that run cannot work when something it needs is missing", function()
    assert.same({ "user_namespace" }, doctor.missing(findings { user_namespace = true, landlock = true }))
    assert.same({}, doctor.missing(findings { landlock = true, bpf_tc = true, tun_device = true }))
  end)
end)
