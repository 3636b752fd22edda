-- The agent's core with parts that only note what is asked of them: the order of start and stop, what a reload does and
-- does not do, the fallback, temporary rules.
package.path = "tests/support/?.lua;" .. package.path
local api = require("lattice.api")
local loop = require("lattice.loop")
local parts = require("agent_parts")

local agent, folder
local note = parts.note

local function write(name, text)
  local f <close> = assert(io.open(folder .. "/" .. name, "w"))
  f:write(text)
end

local function await(starter)
  local result
  starter(function(...) result = table.pack(...) end)
  while not result do loop.run("once") end
  return table.unpack(result, 1, result.n)
end

local function has(...)
  local text = table.concat(parts.calls, "\n")
  for _, want in ipairs({ ... }) do
    if not text:find(want, 1, true) then return false, text end
  end
  return true
end

local CONFIG = [[
device "wf0" { kind = "existing" }
policy "p.lua"
pins "FOLDER/pins"
nat { source = "172.18.0.0/16", out = "wf0" }
control "FOLDER/control.sock"
]]

local function start(config)
  write("lattice.lua", ((config or CONFIG):gsub("FOLDER", folder)))
  local loaded, err = require("lattice.agent.config").load(folder .. "/lattice.lua")
  assert(loaded, err)
  agent = require("lattice.agent.core").new(loaded, {
    stop = function() end, notify = { ready = function() end, reloading = function() end },
  })
  agent.log = function(_, level, text) parts.calls[#parts.calls + 1] = level .. ": " .. text end
  return await(function(done) require("lattice.agent.start").start(agent, done) end)
end

local function stop(keep)
  if not agent then return end
  await(function(done) require("lattice.agent.start").stop(agent, keep or false, function() end, done) end)
  agent = nil
end

local function reload(opts)
  return await(function(done) agent:reload(opts or { by = "test" }, done) end)
end

describe("the agent", function()
  local keep_capabilities
  before_each(function()
    folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir " .. folder))
    write("p.lua", 'allow "tcp to 10.0.0.1 port 80"\n')
    parts.install()
    local sys = require("lattice.sys")
    keep_capabilities = sys.keep_capabilities
    sys.keep_capabilities = function(names)
      note("keep", table.concat(names, ","))
      return true
    end
  end)
  after_each(function()
    stop()
    require("lattice.sys").keep_capabilities = keep_capabilities
    parts.uninstall()
    os.execute("rm -r " .. folder)
    collectgarbage()
    collectgarbage()
    assert.equal(0, api.boxes())
  end)

  it("starts in the order that leaves nothing open, and stops in reverse", function()
    assert.is_true(start())
    assert.same({ "open nat", "open wf0", "open ebpf", "events 1", "apply ebpf 1", "temporary ebpf 0", "remove iptables",
      "raise wf0", "open control", "keep net_admin,bpf,net_raw",
      "record start true ebpf: the strongest that works here; tried" }, parts.calls)
    parts.calls = {}
    stop()
    assert.same({ "close wf0 false", "close ebpf false", "record exit true stopped", "close events", "close nat false",
      "close control" }, parts.calls)
  end)

  it("adopts the number that a dead agent's enforcement has, and leaves it when told to", function()
    parts.left = 41
    assert.is_true(start())
    assert.is_true(has("apply ebpf 42"))
    parts.calls = {}
    stop(true)
    assert.is_true(has("close wf0 true", "close ebpf true", "close nat true"))
  end)

  it("takes everything back when a step fails, but never what was in force before", function()
    parts.broken.verb = true
    assert.is_nil((start()))
    assert.is_true(has("close ebpf false", "close nat false", "close control"))
    parts.broken.verb, parts.broken.control, parts.calls = nil, true, {}
    local ok, err = start()
    assert.is_nil(ok)
    assert.matches("the socket is taken", err)
    assert.is_true(has("close ebpf false", "close nat false"))
    parts.calls, parts.left = {}, 7
    assert.is_nil((start()))
    assert.is_true(has("close ebpf true"))
  end)

  it("touches nothing when the policy is wrong or a device is missing", function()
    write("p.lua", 'allow "tpc to any"\n')
    local ok, err, code = start()
    assert.is_nil(ok)
    assert.matches("p.lua:1:", err)
    assert.equal("policy", code)
    assert.same({}, parts.calls)
    write("p.lua", "")
    parts.broken.device = true
    ok, err = start()
    assert.is_nil(ok)
    assert.matches("lattice.lua:1: there is no device wf0", err)
    assert.same({ "open nat", "close events", "close nat false" }, parts.calls)
  end)

  it("is the only one in its network namespace", function()
    assert.is_true(start())
    local first = agent
    local ok, err, code = start()
    assert.is_nil(ok)
    assert.matches("another latticed guards devices", err)
    assert.equal("busy", code)
    agent = first
  end)

  it("falls back to the weaker enforcer at the start, and says why", function()
    parts.broken["probe ebpf"] = "EPERM"
    assert.is_true(start())
    assert.is_true(has("warn: enforcer iptables, not ebpf: not here", "apply iptables 1"))
    local status = agent:status()
    assert.same({ { name = "ebpf", reason = "not here" } }, status.enforcer.passed_over)
    assert.equal("iptables", status.enforcer.name)
    assert.equal("the strongest that works here; tried", status.enforcer.reason)
  end)

  it("does not do the weaker thing when the stronger is forced", function()
    parts.broken["probe ebpf"] = 402
    local ok, err, code = start(CONFIG .. 'enforcer "ebpf"')
    assert.is_nil(ok)
    assert.matches("enforcer ebpf %(forced by the config%) cannot be had: not here", err)
    assert.equal(402, code)
    assert.same({}, parts.calls)
  end)

  it("asks the config's own function", function()
    assert.is_true(start(CONFIG .. 'enforcer(function(list) return list[2].ok and list[2].name end)'))
    assert.equal("iptables", agent:enforcer().name)
    stop()
    local ok, err, code = start(CONFIG .. "enforcer(function() while true do end end)")
    assert.is_nil(ok)
    assert.matches("budget", err)
    assert.equal("policy", code)
  end)

  it("reloads by flipping to the next generation", function()
    assert.is_true(start())
    parts.calls = {}
    write("p.lua", 'allow "tcp to 10.0.0.1 port 80"\nallow "tcp to 10.0.0.2 port 80"\n')
    local result = assert(reload())
    assert.equal(2, result.generation)
    assert.equal(2, result.rules_added)
    assert.equal(3, result.flows_cut)
    assert.same({ "apply ebpf 2", "events 2" }, { parts.calls[1], parts.calls[2] })
    assert.equal(2, agent:generation():number())
    assert.equal(1, agent:status().reloads.ok)
    assert.is_true(has("record reload true generation 2"))
  end)

  it("goes on with the generation that is in force when a part breaks after the flip", function()
    assert.is_true(start())
    parts.broken.cut = true
    local result = assert(reload())
    assert.matches("a fault of ours", result.problems[1])
    assert.equal(2, agent:generation():number())
    parts.broken.cut = nil
    assert.equal(3, assert(reload()).generation)
  end)

  it("refuses a wrong policy with its place and keeps the old generation", function()
    assert.is_true(start())
    parts.calls = {}
    write("p.lua", '\nallow "tpc to any"\n')
    local result, err, code = reload()
    assert.is_nil(result)
    assert.matches("p.lua:2:", err)
    assert.equal("policy", code)
    assert.equal(1, agent:generation():number())
    assert.is_false((has("apply")))
    assert.is_true(has("record reload false"))
    assert.equal(1, agent:status().reloads.refused)
    assert.matches("p.lua:2:", agent:status().reloads.last_error)
    write("p.lua", 'deny "tcp to any"\ntest { allow = "tcp to 10.0.0.1 port 1" }\n')
    assert.is_nil((reload()))
    assert.equal(1, agent:generation():number())
  end)

  it("refuses what needs a restart, and takes live what can be", function()
    assert.is_true(start())
    write("lattice.lua", ((CONFIG .. 'device "eth1" { kind = "existing" }'):gsub("FOLDER", folder)))
    local result, err, code = reload()
    assert.is_nil(result)
    assert.matches("lattice.lua:6: device 'eth1' is new: that needs a restart", err)
    assert.equal("policy", code)
    write("lattice.lua", ((CONFIG .. 'forward { from = "wf0", to = "eth0" }'):gsub("FOLDER", folder)))
    assert(reload())
    assert.is_true(has("change nat 2"))
  end)

  it("previews without a change", function()
    assert.is_true(start())
    parts.calls = {}
    write("p.lua", 'allow "tcp to 10.0.0.2 port 80"\n')
    local result = assert(reload({ preview = true }))
    assert.equal(1, result.flows_cut)
    assert.matches("cut: out 6 10.0.0.1 port 80", result.text)
    assert.same({}, parts.calls)
    assert.equal(1, agent:generation():number())
  end)

  it("makes one reload of a storm, and it is the last", function()
    assert.is_true(start())
    parts.calls = {}
    local answers = 0
    for i = 1, 50 do
      write("p.lua", ('allow "tcp to 10.0.0.%d port 80"\n'):format(i))
      agent:reload({ by = "test" }, function(result)
        assert(result)
        answers = answers + 1
      end)
    end
    while answers < 50 do loop.run("once") end
    assert.equal(3, agent:generation():number())
    assert.matches("10.0.0.50", agent:generation():rule(1).text)
  end)

  it("lets the fallback take over before a failed enforcer goes", function()
    assert.is_true(start())
    parts.calls, parts.broken["apply ebpf"] = {}, true
    assert(reload())
    assert.same({ "open iptables", "apply iptables 2", "temporary iptables 0", "close ebpf false" },
      { parts.calls[1], parts.calls[2], parts.calls[3], parts.calls[4] })
    assert.equal("iptables", agent:enforcer().name)
    assert.is_true(has("record reload true fallback: ebpf failed at run time: the map is full"))
    assert.equal(1, agent:status().fallbacks)
  end)

  it("keeps the old generation when the fallback fails too, or none is allowed", function()
    assert.is_true(start())
    parts.calls, parts.broken["apply ebpf"], parts.broken["apply iptables"] = {}, true, true
    local result, err = reload()
    assert.is_nil(result)
    assert.matches("the old generation stays in force", err)
    assert.is_true(has("close iptables false"))
    assert.equal("ebpf", agent:enforcer().name)
    assert.equal(1, agent:generation():number())
    stop()
    parts.broken = {}
    assert.is_true(start(CONFIG .. 'enforcer "ebpf"'))
    parts.calls, parts.broken["apply ebpf"] = {}, true
    assert.is_nil((reload()))
    assert.is_false((has("open iptables")))
  end)

  it("switches the enforcer when the config says so, and nothing else", function()
    assert.is_true(start())
    parts.calls = {}
    write("lattice.lua", ((CONFIG .. 'enforcer "iptables"'):gsub("FOLDER", folder)))
    assert(reload())
    assert.same({ "open iptables", "apply iptables 2", "temporary iptables 0", "close ebpf false" },
      { parts.calls[1], parts.calls[2], parts.calls[3], parts.calls[4] })
    assert.is_false((has("nat")))
    assert.equal("forced by the config; tried", agent:status().enforcer.reason)
  end)

  it("has temporary rules that end by themselves and outlive a reload", function()
    assert.is_true(start())
    local id = assert(await(function(done)
      agent:temporary_add("allow", "tcp to 10.0.0.7 port 443", { ttl = 1, uid = 1000 }, done)
    end))
    assert.equal(1, id)
    assert.is_true(has("temporary ebpf 1"))
    assert.equal(1, #agent:status().temporary)
    assert(reload())
    assert.equal(1, #agent:temporary_list())
    parts.calls = {}
    while #agent:temporary_list() > 0 do loop.run("once") end
    assert.is_true(has("temporary ebpf 0", "ended (its time is over)"))
  end)

  it("refuses temporary rules that are odd, and keeps no rule that the enforcer refused", function()
    assert.is_true(start())
    local function refused(action, text, ttl, want)
      local id, err = await(function(done) agent:temporary_add(action, text, { ttl = ttl, uid = 0 }, done) end)
      assert.is_nil(id)
      assert.is_truthy(err:find(want, 1, true), err)
    end
    refused("ask", "tcp to any", 5, "allow, deny or drop")
    refused("allow", "tpc to any", 5, "did you mean tcp?")
    refused("allow", "tcp to any", nil, "needs a ttl")
    refused("allow", "tcp to host.example", 5, "not names")
    refused("allow", "tcp to any\nallow tcp to any", 5, "one line")
    parts.broken.temporary = true
    refused("allow", "tcp to any", 5, "no room")
    assert.same({}, agent:temporary_list())
  end)

  it("puts the policy on a device that came back before it is raised", function()
    assert.is_true(start())
    parts.calls = {}
    parts.made.device.gone("wf0")
    parts.made.device.back("wf0")
    while not has("back and guarded") do loop.run("once") end
    assert.is_true(has("apply ebpf 1\nraise wf0"))
  end)

  it("explains by the enforcer, with the rule's place", function()
    assert.is_true(start())
    local verdict = await(function(done) agent:explain({ dir = "out", proto = 6, addr = "10.0.0.1", port = 80 }, done) end)
    assert.matches("p.lua:1", verdict.where)
    assert.matches("10.0.0.1", verdict.text)
  end)
end)
