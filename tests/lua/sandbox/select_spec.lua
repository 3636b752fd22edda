-- The mode of a run: the strongest that the probes let through, each passed-over one with its reason; what is forced is
-- taken or refused, and never something else. Probes are faked here; tests/e2e/mode_spec.lua has real ones.
package.path = "lua/?.lua;lua/?/init.lua;" .. package.path
local modes = require("lattice.sandbox.select")

-- A host on which everything works but what `broken` names: probe -> detail.
local function host(broken, fields)
  local asked = {}
  local self = { edition = "pro", full = false, host_user_namespace = true, asked = asked,
    has_capability = function() return true end,
    try = function(name)
      asked[#asked + 1] = name
      local why = broken and broken[name]
      return why and { ok = false, detail = why, code = "EPERM" } or { ok = true, detail = "" }
    end }
  for key, value in pairs(fields or {}) do self[key] = value end
  return self
end

local function without(...)
  local missing = {}
  for _, name in ipairs({ ... }) do missing[name] = true end
  return function(name) return not missing[name] end
end

describe("the mode of a run", function()
  local built = modes.built

  setup(function() modes.built = { kernel = true, user = true, preload = true } end)
  teardown(function() modes.built = built end)

  it("is kernel where everything works, and asks nothing of the weaker ones", function()
    local h = host()
    local chosen = assert(modes.select({ name = "auto" }, h))
    assert.equal("kernel", chosen.name)
    assert.equal("the strongest that works here", chosen.reason)
    assert.same({}, chosen.passed_over)
    assert.same({ "user_namespace", "bpf_cgroup" }, h.asked)
    assert.equal("", modes.reasons(chosen))
  end)

  it("is user without the capabilities, which are named", function()
    for _, case in ipairs({ { { "bpf", "sys_admin" }, "CAP_BPF missing (root has them)" },
      { { "net_admin" }, "CAP_NET_ADMIN missing (root has them)" },
      { { "bpf", "sys_admin", "net_admin" }, "CAP_BPF and CAP_NET_ADMIN missing (root has them)" } }) do
      local h = host(nil, { has_capability = without(table.unpack(case[1])) })
      local chosen = assert(modes.select({ name = "auto" }, h))
      assert.equal("user", chosen.name)
      assert.same({ { name = "kernel", reason = case[2] } }, chosen.passed_over)
      assert.equal("kernel: " .. case[2], modes.reasons(chosen))
      assert.same({ "user_namespace" }, h.asked)
    end
  end)

  it("is user for root who may not map itself", function()
    local chosen = assert(modes.select({ name = "auto" }, host(nil, { root = true, has_capability = without("setfcap") })))
    assert.equal("user", chosen.name)
    assert.equal("CAP_SETFCAP missing, which root's user namespace needs", chosen.passed_over[1].reason)
    assert.equal("kernel", modes.select({ name = "auto" }, host(nil, { has_capability = without("setfcap") })).name)
  end)

  it("is user for root of a user namespace, in community, and where a program is not asked", function()
    local function passed(h)
      local chosen = assert(modes.select({ name = "auto" }, h))
      assert.equal("user", chosen.name)
      return chosen.passed_over[1].reason
    end
    assert.matches("a user namespace's here: the host's own are needed", passed(host(nil, { host_user_namespace = false })))
    assert.matches("Pro feature", passed(host(nil, { edition = "community" })))
    assert.equal("bpf_cgroup: no cgroup2 is mounted", passed(host({ bpf_cgroup = "no cgroup2 is mounted" })))
  end)

  it("is never preload where namespaces or seccomp-notify exist", function()
    local broken = { bpf_cgroup = "x", net_namespace = "no" }
    local chosen, why, code = modes.select({ name = "auto" }, host(broken, { full = true }))
    assert.is_nil(chosen)
    assert.equal("no mode works here: kernel: bpf_cgroup: x; user: net_namespace: no; gvisor: it is not in this build; "
      .. "preload: advisory, and this host has better: user_namespace", why)
    assert.equal("unavailable", code)
    broken = { user_namespace = "sysctl" }
    chosen, why = modes.select({ name = "auto" }, host(broken))
    assert.is_nil(chosen)
    assert.equal("no mode works here: kernel: user_namespace: sysctl; user: user_namespace: sysctl; "
      .. "gvisor: it is not in this build; preload: advisory, and this host has better: seccomp_notify", why)
    broken.seccomp_notify = "ENOSYS"
    chosen = assert(modes.select({ name = "auto" }, host(broken)))
    assert.equal("preload", chosen.name)
    assert.equal("the strongest that works here; advisory", chosen.reason)
    assert.equal(3, #chosen.passed_over)
  end)

  it("is what was forced, or the reason why that cannot be had, and nothing weaker", function()
    assert.equal("user", assert(modes.select({ name = "user" }, host())).name)
    assert.equal("preload", assert(modes.select({ name = "preload" }, host())).name)
    assert.equal("kernel", assert(modes.select({ name = "auto" }, host(nil, { has_capability = without("bpf") }))).name)
    local h = host(nil, { has_capability = without("bpf", "sys_admin") })
    local chosen, why, code = modes.select({ name = "kernel" }, h)
    assert.is_nil(chosen)
    assert.equal("mode kernel (forced by --mode) cannot be had: CAP_BPF missing (root has them)", why)
    assert.equal("unavailable", code)
    assert.same({}, h.asked)
    chosen, why, code = modes.select({ name = "kernel" }, host(nil, { edition = "community" }))
    assert.is_nil(chosen)
    assert.matches("Pro feature", why)
    assert.equal(402, code)
    assert.matches("not in this build", (select(2, modes.select({ name = "gvisor" }, host()))))
    assert.matches("Pro feature", (select(2, modes.select({ name = "gvisor" }, host(nil, { edition = "community" })))))
    assert.matches("no mode warp", (select(2, modes.select({ name = "warp" }, host()))))
  end)

  it("is the script's, which sees every candidate", function()
    local seen
    local chosen = assert(modes.select({ name = "auto", script = function(list)
      seen = list
      return "user"
    end }, host(nil, { full = true })))
    assert.equal("user", chosen.name)
    assert.equal("chosen by the script of --mode-script", chosen.reason)
    assert.same({ { name = "kernel", reason = "the script of --mode-script chose another" } }, chosen.passed_over)
    assert.same({ "kernel", "user", "gvisor", "preload" }, { seen[1].name, seen[2].name, seen[3].name, seen[4].name })
    assert.equal("kernel", assert(modes.select({ name = "auto", script = function() end }, host())).name)
    local _, why = modes.select({ name = "auto", script = function() return "gvisor" end }, host())
    assert.equal("mode gvisor (chosen by the script of --mode-script) cannot be had: it is not in this build", why)
    _, why = modes.select({ name = "auto", script = function() return "warp" end }, host())
    assert.equal("the script of --mode-script chose warp, which is none", why)
    _, why = modes.select({ name = "auto", script = function() error("boom", 0) end }, host())
    assert.equal("the script of --mode-script failed: boom", why)
  end)

  it("tries everything that a mode is made of when asked for all of it", function()
    local candidates = modes.probe(host({ nf_tables = "no module", nfqueue = "a", nfqueue_compat = "b", bpf_lpm = "c" },
      { full = true }))
    assert.equal("bpf_lpm: c", candidates[1].reason)
    assert.equal("nf_tables: no module, nfqueue: b", candidates[2].reason)
    assert.is_true(modes.probe(host({ nfqueue = "a" }, { full = true }), { "user" })[1].ok)
  end)

  it("reads a script that gets the list, and says where it is wrong", function()
    local path = os.tmpname()
    local function write(text)
      local file <close> = assert(io.open(path, "w"))
      file:write(text)
    end
    write("local list = ...\nfor _, mode in ipairs(list) do if mode.ok then return mode.name end end")
    assert.equal("b", assert(modes.script(path))({ { name = "a", ok = false }, { name = "b", ok = true } }))
    write("return +")
    local script, why = modes.script(path)
    assert.is_nil(script)
    assert.matches(":1: unexpected symbol", why)
    os.remove(path)
  end)
end)
