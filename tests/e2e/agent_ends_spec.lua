-- The node agent when things end or fail: enforcers that break, devices that go, agents that are killed in the middle, and
-- what `lattice down` and the exit status say.
-- Takes long.
package.path = "tests/support/?.lua;" .. package.path
local Agents = require("agents")
local World = require("world")

local missing = Agents.missing() or not Agents.has("python3") and "python3 is not installed" or nil

local policy = [[
allow "tcp to 203.0.113.2 port 80"
allow "in udp from 203.0.113.2 port 7"
]]

-- For fault_preload.c: the kernel makes no BPF map any more (E2BIG).
local FULL = "bpf 0 1 errno 7\n"

local function suite(enforcer)
  local nodes
  local strongest = enforcer == "ebpf" and it or function() end

  before_each(function() nodes = Agents.new() end)
  after_each(function() nodes:close() end)

  local function up(what)
    what = what or {}
    what.policy, what.enforcer = what.policy or policy, what.enforcer or enforcer
    nodes:configure(what)
    return nodes:up()
  end

  local function guarded()
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 80))
    assert.is_false(nodes:open("node", "tcp", "203.0.113.2", 81, 300))
    assert.is_false(nodes:open("peer", "udp", "203.0.113.1", 53, 300))
  end

  local function faulty()
    return { env = { LD_PRELOAD = Agents.helpers .. "fault_preload.so", LATTICE_FAULTS = nodes.dir .. "/faults" } }
  end

  local function lattice(...)
    return nodes:lattice({ "--socket", nodes.dir .. "/control.sock", ... })
  end

  it("goes down by `lattice down` and leaves nothing", function()
    local before = nodes:trace()
    up()
    guarded()
    local p = lattice("down")
    assert.equal(0, p.status, p.err)
    assert.equal(0, nodes.agent:wait().status)
    assert.equal(before, nodes:trace())
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 81))
  end)

  it("leaves to `lattice down` what a killed one left", function()
    local before = nodes:trace()
    up()
    nodes:down("sigkill")
    guarded()
    local p = lattice("down", "--pins", nodes.dir .. "/pins")
    assert.equal(0, p.status, p.out .. p.err)
    assert.matches("removed", p.out)
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 81))
    assert.equal(before, nodes:trace())
  end)

  it("guards a device again that went and came back", function()
    up()
    nodes:sh("node", "ip link del eth0")
    nodes.agent:expect(function() return nodes.agent.err:find("device 'eth0' is gone", 1, true) end)
    World.sh(([[ip link add eth0 netns %s type veth peer name eth0 netns %s
      for n in %s %s; do ip -n $n link set eth0 up; done
      ip -n %s addr add 203.0.113.1/24 dev eth0; ip -n %s addr add 203.0.113.2/24 dev eth0]]):format(nodes.node,
      nodes.peer, nodes.node, nodes.peer, nodes.node, nodes.peer))
    nodes.agent:expect(function() return nodes.agent.err:find("back and guarded", 1, true) end)
    Agents.await("the path", function() return nodes:open("node", "tcp", "203.0.113.2", 80, 300) end)
    guarded()
    nodes:reload('allow "tcp to 203.0.113.2 port 81"')
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 81))
    assert.equal(0, nodes:down())
  end)

  it("lets go of a device that is not configured any more when a killed one guarded it", function()
    nodes:sh("node", "ip link add x0 type veth peer name x1; ip link set x0 up; ip link set x1 up")
    up({ extra = 'device "x0" { kind = "existing" }' })
    local function guards()
      return nodes:sh("node", "iptables-save | grep -e '-[io] x0' || true; "
        .. "ls " .. nodes.dir .. "/pins 2>/dev/null | grep x0 || true") ~= ""
    end
    assert.is_true(guards())
    nodes:down("sigkill")
    up()
    assert.is_false(guards())
    guarded()
  end)

  it("ends with the old or the new policy when it is killed in the middle of a reload", function()
    local lines = {}
    for i = 1, 1500 do lines[i] = ('allow "tcp to 10.%d.%d.0/24 port 443"'):format(i >> 8, i & 255) end
    local big = policy .. table.concat(lines, "\n") .. "\n"
    up({ policy = big })
    local denied = nodes:sender("peer", "203.0.113.1", 53)
    local allowed = nodes:sender("peer", "203.0.113.1", 7)
    for i = 1, 5 do
      nodes:policy(big .. ('allow "tcp to 10.99.%d.0/24 port 443"\n'):format(i))
      nodes.agent:kill("sighup")
      local until_ = Agents.uv.hrtime() + i * 25e6
      while Agents.uv.hrtime() < until_ do Agents.uv.run("nowait") end
      nodes:down("sigkill")
      guarded()
      nodes:up()
    end
    guarded()
    local lost, leaked = allowed.result(), denied.result()
    assert.equal(0, leaked.echoed)
    assert.same({}, lost.missing)
    assert.equal(0, nodes:down())
  end)

  strongest("gives way to iptables when it fails at run time, and nothing gets through meanwhile", function()
    nodes:configure({ policy = policy, enforcer = "auto" })
    nodes:up(faulty())
    assert.matches("guarding eth0 by ebpf", nodes.agent.err)
    local denied = nodes:sender("peer", "203.0.113.1", 53)
    nodes:file("faults", FULL)
    local text = nodes:reload(policy .. 'allow "tcp to 203.0.113.2 port 22"\n')
    assert.matches("ebpf failed at run time", text)
    assert.matches("iptables took over", text)
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 22))
    guarded()
    assert.equal(0, denied.result().echoed)
    local told = assert(Agents.json.decode(lattice("status", "--json").out))
    assert.equal("iptables", told.enforcer.name)
    assert.matches("fallback: ebpf failed at run time", told.enforcer.reason)
    assert.equal("", nodes:sh("node", "tc filter show dev eth0 egress; ls -A " .. nodes.dir ..
      "/pins | grep -v debug || true"))
    assert.equal(0, nodes:down())
  end)

  strongest("keeps the old generation when it fails at run time and was forced", function()
    nodes:configure({ policy = policy, enforcer = "ebpf" })
    nodes:up(faulty())
    nodes:file("faults", FULL)
    local text = nodes:reload('allow "tcp to 203.0.113.2 port 81"\n', "reload refused")
    assert.matches("generation 1 stays in force", text)
    guarded()
    assert.is_true(os.remove(nodes.dir .. "/faults"))
    nodes:reload('allow "tcp to 203.0.113.2 port 81"\n')
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 81))
  end)

  strongest("is passed over, with one warning, where the kernel or the privileges refuse it", function()
    if not World.has("capsh") then return pending("capsh is not installed (libcap2-bin)") end
    nodes:configure({ policy = policy, enforcer = "auto" })
    local p = nodes:start("node", { "capsh", "--drop=cap_bpf,cap_sys_admin", "--", "-c",
      ("exec %s --config %s"):format(Agents.latticed_path, nodes.config) })
    nodes.agent = p
    p:expect("guarding eth0 by iptables")
    local _, warnings = p.err:gsub('"level":"warn"', "")
    assert.equal(1, warnings, p.err)
    assert.matches("enforcer iptables, not ebpf: [^\n]*not permitted", p.err)
    guarded()
    nodes:down()
    nodes:configure({ policy = policy, enforcer = "ebpf" })
    p = nodes:start("node", { "capsh", "--drop=cap_bpf,cap_sys_admin", "--", "-c",
      ("exec %s --config %s"):format(Agents.latticed_path, nodes.config) }):wait()
    assert.equal(5, p.status)
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 81)) -- nothing was attached
  end)

  strongest("is passed over where its pins would end with the agent", function()
    if not World.has("capsh") then return pending("capsh is not installed (libcap2-bin)") end
    local function begin(name)
      nodes:configure({ policy = policy, enforcer = name })
      return nodes:start("node", { "unshare", "-m", "--propagation", "private", "capsh", "--drop=cap_sys_chroot", "--",
        "-c", ("exec %s --config %s"):format(Agents.latticed_path, nodes.config) })
    end
    local p = begin("ebpf"):wait()
    assert.equal(5, p.status, p.err)
    assert.matches("mount one there first", p.err)
    nodes.agent = begin("auto")
    nodes.agent:expect("guarding eth0 by iptables")
    nodes:down("sigkill")
    guarded()
    assert.equal(0, lattice("down").status)
  end)

  strongest("changes the enforcer by a reload, and is never open meanwhile; NAT and forwarding are not touched", function()
    local extra = 'nat { source = "172.18.0.0/16", out = "eth0" }\nforward { from = "eth0", to = "eth1" }'
    up({ extra = extra })
    local denied = nodes:sender("peer", "203.0.113.1", 53)
    local function others()
      return (nodes:sh("node", "iptables-save -t nat; iptables-save -t filter | grep FORWARD | grep -v LATTICE-[IO]")
        :gsub("#[^\n]*\n", ""):gsub("%[%d+:%d+%]", ""))
    end
    local before = others()
    nodes:configure({ policy = policy, enforcer = "iptables", extra = extra })
    nodes:reload()
    guarded()
    assert.equal(before, others())
    nodes:configure({ policy = policy, enforcer = "ebpf", extra = extra })
    nodes:reload()
    guarded()
    assert.equal(before, others())
    assert.equal(0, denied.result().echoed)
    assert.equal(0, nodes:down())
  end)

  it("says in its status what is in force", function()
    up()
    local status = lattice("status", "--json")
    assert.equal(0, status.status, status.err)
    local told = assert(Agents.json.decode(status.out))
    assert.equal(enforcer, told.enforcer.name)
    assert.equal(1, told.generation)
    assert.equal(1, told.in_force)
  end)

  -- A verb of the control socket, as the REPL gives it.
  local function verb(text)
    local script = nodes:file("verb.lua", ([[
local c = assert(require("lattice.control.client").open(%q))
local result, err = c:call(%s)
c:close()
print(require("lattice.json").encode(result or { error = err.text }))
]]):format(nodes.dir .. "/control.sock", text))
    local p = nodes:run("node", { World.lattice_path, "lua", script })
    assert.equal(0, p.status, p.err)
    return assert(Agents.json.decode(p.out))
  end

  it("has temporary rules that outlive a reload, end by themselves, and cut what they alone allowed", function()
    up()
    assert.is_false(nodes:open("node", "tcp", "203.0.113.2", 81, 300))
    local made = verb(('"temporary-add", { action = "allow", text = "tcp to 203.0.113.2 port 81", ttl = %d }'):format(
      4 * (math.tointeger(tonumber(os.getenv("LATTICE_PATIENCE"))) or 1)))
    assert.is_nil(made.error)
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 81))
    local kept = nodes:probe("node", "keep", "203.0.113.2", 81)
    kept:expect("connected")
    nodes:reload(policy .. 'deny "udp to any"\n')
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 81))
    assert.matches("tcp to 203.0.113.2 port 81", lattice("status").out)
    assert.equal("allow", verb('"explain", { flow = "tcp to 203.0.113.2 port 81" }').verdict)
    nodes.agent:expect(function() return nodes.agent.err:find("its time is over", 1, true) end)
    kept:expect("cut")
    assert.is_false(nodes:open("node", "tcp", "203.0.113.2", 81, 300))
    assert.equal("deny", verb('"explain", { flow = "tcp to 203.0.113.2 port 81" }').verdict)
    verb('"temporary-add", { action = "deny", text = "tcp to 203.0.113.2 port 80", ttl = 60 }')
    assert.is_false(nodes:open("node", "tcp", "203.0.113.2", 80, 300))
    local audit = World.read(nodes.dir .. "/audit.jsonl")
    assert.matches("temporary rule 1", audit)
    assert.matches("its time is over", audit)
  end)

  it("says by its exit status what was wrong, and touches nothing then", function()
    local before = nodes:trace()
    local function fails(status, want, what)
      what.enforcer = what.enforcer or enforcer
      nodes:configure(what)
      local p = nodes:latticed({ "--config", nodes.config }):wait()
      assert.equal(status, p.status, p.err)
      assert.is_truthy(p.err:find(want, 1, true), p.err)
      assert.equal(before, nodes:trace())
    end
    fails(3, "p.lua:1:8", { policy = 'allow "tpc to any"' })
    fails(3, "unknown word 'devise'", { extra = "devise()" })
    fails(1, "nowhere0", { device = "nowhere0" })
    nodes:configure({ policy = 'allow "tpc to any"', enforcer = enforcer })
    local check = nodes:latticed({ "--check", "--config", nodes.config }):wait()
    assert.equal(3, check.status)
    assert.matches("p.lua:1:8", check.err)
    nodes:configure({ policy = policy, enforcer = enforcer })
    check = nodes:latticed({ "--check", "--config", nodes.config }):wait()
    assert.equal(0, check.status)
    assert.equal("ok\n", check.out)
    assert.equal(2, nodes:latticed({ "--nonsense" }):wait().status)
  end)
end

describe("latticed", function()
  for enforcer, why in Agents.enforcers(missing) do
    describe("with " .. enforcer, function()
      if why then return pending("all of it", why) end
      suite(enforcer)
    end)
  end

  if missing or Agents.able("ebpf") then return end
  it("does not do the weaker thing in the community edition: exit 6", function()
    local nodes = Agents.new()
    nodes:configure({ policy = policy, enforcer = "ebpf" })
    local p = nodes:latticed({ "--config", nodes.config }):wait()
    nodes:close()
    assert.equal(6, p.status)
    assert.matches("Pro feature", p.err)
  end)
end)
