-- Faults put into the node agent: BPF calls that are refused, full maps, children that cannot be started, a lock that is
-- held, a full disk, lost netlink messages, a kill at each step of a reload, storms of reloads. Each must end with the
-- old policy or closed. What counts is traffic: a peer sends to a port that every policy here denies, and the node's
-- server tells at the end how much of it arrived.
-- Takes long.
package.path = "tests/support/?.lua;" .. package.path
local Agents = require("agents")
local World = require("world")

local missing = Agents.missing() or not Agents.has("python3") and "python3 is not installed" or nil
local preload = (Agents.helpers or "") .. "fault_preload.so"

local policy = [[
allow "tcp to 203.0.113.2 port 80"
allow "in udp from 203.0.113.2 port 7"
]]
local opens_81 = policy .. 'allow "tcp to 203.0.113.2 port 81"\n'
local EPERM, EAGAIN, ENOMEM, E2BIG, ENOSPC = 1, 11, 12, 7, 28
local CREATE, UPDATE = 0, 2 -- commands of bpf(2)

-- Rules for more than one batch, so that a reload has many steps.
local function long(text)
  local lines = {}
  for i = 1, 700 do lines[i] = ('allow "tcp to 10.%d.%d.0/24 port 443"'):format(i >> 8, i & 255) end
  return text .. table.concat(lines, "\n") .. "\n"
end

local function suite(enforcer)
  local nodes, senders

  before_each(function() nodes, senders = Agents.new(), {} end)
  after_each(function()
    if nodes.agent and not nodes.agent.status then nodes.agent:kill("sigcont") end
    nodes:close()
  end)

  local function fault(text)
    local path = nodes.dir .. "/faults"
    if not text then return os.remove(path) end
    assert(Agents.uv.fs_rename(nodes:file("faults.new", text .. "\n"), path))
  end

  local function faulty() return { env = { LD_PRELOAD = preload, LATTICE_FAULTS = nodes.dir .. "/faults" } } end

  -- Denied and allowed packets flow from here on; so few that a busy machine's echo server loses none of them.
  local function watch()
    senders = { denied = nodes:sender("peer", "203.0.113.1", 53, 300),
      allowed = nodes:sender("peer", "203.0.113.1", 7, 200) }
  end

  local function up(what, opts)
    what = what or {}
    what.policy, what.enforcer = what.policy or policy, what.enforcer or enforcer
    nodes:configure(what)
    return nodes:up(opts or faulty())
  end

  local function guarded(port_81)
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 80))
    assert.equal(port_81 or false, nodes:open("node", "tcp", "203.0.113.2", 81, 300))
  end

  -- No denied packet arrived; with `whole` no allowed one is missing.
  local function evidence(whole)
    local denied, allowed = senders.denied.result(), senders.allowed.result()
    nodes.node4:kill("sigterm")
    local arrived = Agents.json.decode((nodes.node4:wait().out:match("{.*}")))
    assert.is_true(denied.sent > 50, denied.sent)
    assert.equal(0, arrived["53"], "denied packets arrived")
    assert.is_true(arrived["7"] > 40, "the control")
    if whole then assert.same({}, allowed.missing) end
  end

  -- A reload to a policy that opens port 81, with a fault: refused, and nothing is changed by it.
  local function refused(text)
    fault(text)
    nodes:reload(opens_81, "reload refused")
    guarded()
    fault(nil)
  end

  local calls = enforcer == "ebpf" and {
    { "a map that cannot be made", ("bpf %d 1 errno %d"):format(CREATE, ENOMEM) },
    { "the second map that cannot be made", ("bpf %d 2 errno %d"):format(CREATE, EPERM) },
    { "a map that is full", ("bpf %d 1 errno %d"):format(UPDATE, E2BIG) },
    { "a map that is full at the third entry", ("bpf %d 3 errno %d"):format(UPDATE, ENOSPC) },
    { "a map whose batch is refused, and its entries, too", ("bpf -1 4 errno %d"):format(ENOMEM) },
  } or {
    { "a child that cannot be started", ("fork -1 1 errno %d"):format(EAGAIN) },
    { "the second child that cannot be started", ("fork -1 2 errno %d"):format(EAGAIN) },
    { "the third child that cannot be started", ("fork -1 3 errno %d"):format(ENOMEM) },
  }

  for _, call in ipairs(calls) do
    it("keeps the old policy in a reload with " .. call[1], function()
      up()
      watch()
      refused(call[2])
      nodes:reload(opens_81)
      guarded(true)
      evidence(true)
      assert.equal(0, nodes:down())
    end)
  end

  it("is not started, and leaves nothing, when the kernel refuses its very first steps", function()
    local before = nodes:trace()
    local steps = enforcer == "ebpf" and { "bpf 5", "bpf -1" } or { "fork -1" }
    for _, call in ipairs(steps) do
      for nth = 1, 9, 2 do
        fault(("%s %d errno %d"):format(call, nth, EPERM))
        nodes:configure({ policy = policy, enforcer = enforcer })
        local p = nodes:latticed({ "--config", nodes.config }, faulty())
        p:expect(function() return p.status or p.err:find("guarding", 1, true) end, 20000)
        if not p.status then -- it needs no more calls than that
          p:kill("sigterm")
          p:wait()
          break
        end
        assert.is_true(p.status == 1 or p.status == 5, ("%s %d: exit %s: %s"):format(call, nth, p.status, p.err))
        fault(nil)
        assert.equal(before, nodes:trace(), call .. " " .. nth)
      end
    end
  end)

  it("is closed or has the old policy when it is killed at each step of a reload", function()
    up({ policy = long(policy) })
    watch()
    local kills = 0
    for nth = 1, 40, enforcer == "ebpf" and 3 or 1 do
      fault(("%s -1 %d kill 0"):format(enforcer == "ebpf" and "bpf" or "fork", nth))
      local from = #nodes.agent.err
      nodes:policy(long(('allow "tcp to 10.99.%d.0/24 port 443"\n'):format(nth) .. policy))
      nodes.agent:kill("sighup")
      nodes.agent:expect(function()
        return nodes.agent.status or nodes.agent.err:find("reload: generation", from + 1, true)
      end, 20000)
      fault(nil)
      if not nodes.agent.status then break end
      nodes.agent:wait()
      kills = kills + 1
      guarded()
      nodes:up(faulty())
    end
    assert.is_true(kills >= 3, kills)
    guarded()
    evidence(true)
    assert.equal(0, nodes:down())
  end)

  it("keeps the policy when the netlink messages about its device are lost, and sees what became of it", function()
    up()
    watch()
    nodes.agent:kill("sigstop")
    nodes:sh("node", [[for i in $(seq 1 4000); do echo "link set lo mtu $((60000 + i % 2))"; done | ip -batch -]])
    nodes:sh("node", "ip link del eth0")
    nodes.agent:kill("sigcont")
    nodes.agent:expect(function() return nodes.agent.err:find("device 'eth0' is gone", 1, true) end, 20000)
    World.sh(([[ip link add eth0 netns %s type veth peer name eth0 netns %s
      for n in %s %s; do ip -n $n link set eth0 up; done
      ip -n %s addr add 203.0.113.1/24 dev eth0; ip -n %s addr add 203.0.113.2/24 dev eth0]]):format(nodes.node,
      nodes.peer, nodes.node, nodes.peer, nodes.node, nodes.peer))
    nodes.agent:expect(function() return nodes.agent.err:find("back and guarded", 1, true) end, 20000)
    Agents.await("the path", function() return nodes:open("node", "tcp", "203.0.113.2", 80, 300) end)
    guarded()
    assert.is_false(nodes:open("peer", "udp", "203.0.113.1", 53, 300))
    assert.equal(0, nodes:down())
  end)

  it("judges as before when the disk of its audit is full, and counts what is lost", function()
    local disk = nodes.dir .. "/disk"
    World.sh(("mkdir %s; mount -t tmpfs -o size=64k tmpfs %s"):format(disk, disk))
    up({ extra = ("audit { to = file %q }"):format(disk .. "/audit.jsonl") })
    watch()
    World.sh(("cat /dev/zero > %s/rest 2>/dev/null || true"):format(disk))
    nodes:sh("peer", "bash -c 'for p in $(seq 1000 1400); do echo x > /dev/udp/203.0.113.1/$p; done'")
    guarded()
    nodes:reload(opens_81)
    guarded(true)
    local told
    Agents.await("the loss in status", function()
      told = assert(Agents.json.decode(nodes:lattice({ "--socket", nodes.dir .. "/control.sock", "status", "--json" }).out))
      return told.audit.lost > 0
    end)
    World.sh("rm " .. disk .. "/rest")
    evidence(true)
    assert.equal(0, nodes:down())
    World.sh("umount " .. disk)
  end)

  it("has no window in a storm of reloads of right and wrong policies", function()
    up()
    watch()
    for i = 1, 150 do
      nodes:policy(i % 3 == 0 and 'allow "tpc to any"' or i % 3 == 1 and policy
        or policy .. ('deny "udp to 198.51.100.%d"\n'):format(i))
      nodes.agent:kill("sighup")
      if i % 30 == 0 then guarded() end
    end
    nodes:policy(opens_81)
    nodes.agent:kill("sighup")
    Agents.await("the last policy", function() return nodes:open("node", "tcp", "203.0.113.2", 81, 300) end, 20000)
    evidence(true)
    assert.equal(0, nodes:down())
  end)

  if enforcer == "iptables" then
    it("refuses a reload while another program holds the xtables lock, and takes the next", function()
      nodes:sh("node", "iptables-legacy -A INPUT -i lo -j ACCEPT") -- so the legacy back end is this host's
      local own = nodes:file("xtables.lock", "")
      nodes:configure({ policy = policy, enforcer = enforcer })
      nodes.agent = nodes:start("node", { "unshare", "-m", "sh", "-c",
        'touch /run/xtables.lock; mount --bind "$1" /run/xtables.lock && exec "$0" --config "$2" -v',
        Agents.latticed_path, own, nodes.config })
      nodes.agent:expect(function() return nodes.agent.err:find("guarding", 1, true) end, 20000)
      watch()
      local holder = nodes:start("node", { "sh", "-ec", 'exec 9>"$0"; flock 9; echo held; exec sleep 60', own })
      holder:expect("held")
      local text = nodes:reload(opens_81, "reload refused")
      assert.matches("xtables lock", text)
      guarded()
      holder:kill("sigterm")
      holder:wait()
      nodes:reload(opens_81)
      guarded(true)
      evidence(true)
      assert.equal(0, nodes:down())
    end)
  end
end

describe("latticed under faults", function()
  if not missing and not Agents.uv.fs_stat(preload) then missing = preload .. " is not built" end
  for enforcer, why in Agents.enforcers(missing) do
    describe("with " .. enforcer, function()
      if why then return pending("all of it", why) end
      suite(enforcer)
    end)
  end
end)
