-- The node agent on an existing device: what passes and what does not, reload, crash and restart, the end.
package.path = "tests/support/?.lua;" .. package.path
local Agents = require("agents")

local missing = Agents.missing() or not Agents.has("python3") and "python3 is not installed" or nil

local policy = [[
allow "tcp to 203.0.113.2, 2001:db8::2 port 80"
allow "udp to 203.0.113.2, 2001:db8::2 port 53"
deny  "icmp to 203.0.113.2"
allow "icmpv6 to 2001:db8::2"
allow "in tcp from 203.0.113.2, 2001:db8::2 port 22"
allow "in udp from 203.0.113.2 port 7"
]]

-- where, protocol, address, port: does it get through?
local matrix = {
  { "node", "tcp", "203.0.113.2", 80, true }, { "node", "tcp", "203.0.113.2", 81, false },
  { "node", "tcp", "203.0.113.2", 22, false }, { "node", "udp", "203.0.113.2", 53, true },
  { "node", "udp", "203.0.113.2", 54, false }, { "node", "icmp", "203.0.113.2", 0, false },
  { "node", "tcp", "2001:db8::2", 80, true }, { "node", "tcp", "2001:db8::2", 81, false },
  { "node", "udp", "2001:db8::2", 53, true }, { "node", "icmp", "2001:db8::2", 0, true },
  { "peer", "tcp", "203.0.113.1", 22, true }, { "peer", "tcp", "203.0.113.1", 80, false },
  { "peer", "udp", "203.0.113.1", 7, true }, { "peer", "udp", "203.0.113.1", 53, false },
  { "peer", "icmp", "203.0.113.1", 0, false }, { "peer", "tcp", "2001:db8::1", 22, true },
  { "peer", "tcp", "2001:db8::1", 80, false }, { "peer", "udp", "2001:db8::1", 7, false },
}

local function suite(enforcer)
  local nodes

  setup(function() nodes = Agents.new() end)
  teardown(function() nodes:close() end)
  after_each(function()
    if nodes.agent and not nodes.agent.status then nodes:down() end
  end)

  local function up(text, extra)
    nodes:configure({ policy = text or policy, enforcer = enforcer, extra = extra })
    return nodes:up()
  end

  it("gives every flow the policy's verdict, both ways and in both families", function()
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 81)) -- open without the agent
    up()
    for _, case in ipairs(matrix) do
      local where, proto, address, port, want = table.unpack(case)
      assert.equal(want, nodes:open(where, proto, address, port, 400),
        ("%s: %s to %s port %d"):format(where, proto, address, port))
    end
  end)

  it("denies everything without a rule", function()
    up("")
    for _, case in ipairs(matrix) do
      assert.is_false(nodes:open(case[1], case[2], case[3], case[4], 300))
    end
  end)

  it("leaves nothing behind on SIGTERM, and what it made five times is the same", function()
    local before = nodes:trace()
    for _ = 1, 3 do
      up()
      assert.is_false(nodes:open("node", "tcp", "203.0.113.2", 81, 200))
      assert.equal(0, nodes:down())
      assert.equal(before, nodes:trace())
    end
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 81))
  end)

  it("flips a verdict by SIGHUP and cuts what is denied then", function()
    up()
    local kept = nodes:probe("node", "keep", "203.0.113.2", 80)
    kept:expect("connected")
    assert.is_false(nodes:open("node", "tcp", "203.0.113.2", 81, 300))
    nodes:reload('allow "tcp to 203.0.113.2 port 81"')
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 81))
    assert.is_false(nodes:open("node", "tcp", "203.0.113.2", 80, 300))
    kept:expect("cut")
  end)

  it("keeps the old generation when the new policy is wrong, and says where", function()
    up()
    local text = nodes:reload('allow "tcp to 203.0.113.2 port 81"\nallow "tpc to any"\n', "reload refused")
    assert.matches("p.lua:2:8: unknown protocol 'tpc'", text)
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 80))
    assert.is_false(nodes:open("node", "tcp", "203.0.113.2", 81, 300))
    nodes:reload('deny "tcp to any"\ntest { allow = "tcp to 203.0.113.2 port 80" }\n', "reload refused")
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 80))
  end)

  it("goes on enforcing after kill -9; the next start adopts without a gap", function()
    local text = policy .. 'allow "in udp from 203.0.113.2 port 54"\n'
    up(text)
    local denied = nodes:sender("peer", "203.0.113.1", 53)
    local allowed = nodes:sender("peer", "203.0.113.1", 7)
    nodes:down("sigkill")
    assert.is_false(nodes:open("node", "tcp", "203.0.113.2", 81, 300))
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 80))
    local agent = up(text)
    assert.matches("adopted generation 1", agent.err)
    assert.matches("generation 2", agent.err)
    local lost, leaked = allowed.result(), denied.result()
    assert.is_true(leaked.sent > 100)
    assert.equal(0, leaked.echoed)
    assert.same({}, lost.missing)
  end)

  it("restarts by SIGUSR2 without a gap", function()
    up()
    local denied = nodes:sender("peer", "203.0.113.1", 53)
    local allowed = nodes:sender("peer", "203.0.113.1", 7)
    assert.equal(0, nodes:down("sigusr2"))
    up()
    local lost, leaked = allowed.result(), denied.result()
    assert.equal(0, leaked.echoed)
    assert.same({}, lost.missing)
    assert.equal(0, nodes:down())
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 81))
  end)

  it("stands a storm of SIGHUP: the last state of the files is in force", function()
    up()
    local denied = nodes:sender("peer", "203.0.113.1", 53)
    local allowed = nodes:sender("peer", "203.0.113.1", 7)
    for i = 1, 100 do
      nodes:policy(policy .. ('allow "in udp from 198.51.100.%d port 53"\n'):format(i))
      nodes.agent:kill("sighup")
    end
    nodes:reload(policy .. 'allow "tcp to 203.0.113.2 port 81"\n')
    Agents.await("the last policy", function() return nodes:open("node", "tcp", "203.0.113.2", 81, 300) end)
    local lost, leaked = allowed.result(), denied.result()
    assert.equal(0, leaked.echoed)
    assert.same({}, lost.missing)
    local _, reloads = nodes.agent.err:gsub("reload: generation", "")
    assert.is_true(reloads < 100)
  end)

  it("is the only one in its network namespace", function()
    up()
    local second = nodes:latticed({ "--config", nodes.config }):wait()
    assert.equal(1, second.status)
    assert.matches("another latticed guards devices", second.err)
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 80))
    assert.is_false(nodes:open("node", "tcp", "203.0.113.2", 81, 300))
  end)

  it("runs beside one in another network namespace", function()
    up()
    local own = nodes.config
    local other = nodes:file("peer.lua", ([[
device "eth0" { kind = "existing" }
policy "peer-policy.lua"
enforcer %q
control "%s/peer.sock"
pins "%s/peer-pins"
]]):format(enforcer, nodes.dir, nodes.dir))
    nodes:file("peer-policy.lua", 'allow "in any from any"\nallow "tcp to any port 22"\n')
    local p = nodes:start("peer", { Agents.latticed_path, "--config", other })
    p:expect("guarding")
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 80))
    assert.is_true(nodes:open("peer", "tcp", "203.0.113.1", 22))
    assert.is_false(nodes:open("peer", "udp", "203.0.113.1", 7, 300))
    p:kill("sigterm")
    assert.equal(0, p:wait().status)
    assert.is_true(nodes:open("peer", "udp", "203.0.113.1", 7))
    assert.is_false(nodes:open("node", "tcp", "203.0.113.2", 81, 300))
    nodes.config = own
  end)

  it("has given up every capability that it does not need", function()
    up()
    local status = nodes:sh("node", ("cat /proc/%d/task/*/status | grep CapEff | sort -u"):format(nodes.agent.pid))
    local mask = tonumber(status:match("CapEff:%s*(%x+)%s*$"), 16)
    local allowed = 1 << 12 | 1 << 39 -- net_admin, bpf
    if enforcer == "iptables" then allowed = allowed | 1 << 13 end
    if mask & 1 << 21 ~= 0 then -- sys_admin: only for the bpffs that it mounted
      assert.matches(nodes.dir .. "/pins", Agents.read("/proc/self/mountinfo"))
      allowed = allowed | 1 << 21
    end
    assert.equal(0, mask & ~allowed, status)
  end)

  it("tells the service manager", function()
    local path = nodes.dir .. "/notify.sock"
    local manager = nodes:start("node", { "socat", "-u", "UNIX-RECV:" .. path, "STDOUT" })
    Agents.await("the manager's socket", function() return Agents.uv.fs_stat(path) end)
    nodes:configure({ policy = policy, enforcer = enforcer })
    nodes:up({ env = { NOTIFY_SOCKET = path, WATCHDOG_USEC = "300000" } })
    manager:expect("READY=1.*generation 1, policy %x+, 6 rules")
    manager:expect("WATCHDOG=1")
    nodes:reload()
    manager:expect("RELOADING=1\nMONOTONIC_USEC=%d+")
    nodes:reload("nonsense", "reload refused")
    manager:expect("reload refused: [^\n]*p.lua:1")
    nodes:down()
    manager:expect("STOPPING=1")
    manager:kill("sigterm")
  end)
end

describe("latticed", function()
  for enforcer, why in Agents.enforcers(missing) do
    describe("with " .. enforcer, function()
      if why then return pending("all of it", why) end
      suite(enforcer)
    end)
  end
end)
