-- latticed with a wf0 of its own: killed, handed over, restarted, and its wireguard-go killed. Under both enforcers, with no
-- more capabilities than the unit gives.
package.path = "tests/support/?.lua;" .. package.path
local Agents = require("agents")
local uv = require("luv")

local missing = Agents.missing()
for _, program in ipairs { "wireguard-go", "wg", "setpriv" } do
  if not missing and not Agents.has(program) then missing = program .. " is not installed" end
end
if not missing and not uv.fs_access("/dev/net/tun", "R") then missing = "/dev/net/tun cannot be opened" end

local POLICY = [[
policy "ping"
default "deny"
allow "icmp to any"
allow "in icmp from any"
]]

local function world(enforcer)
  local nodes = Agents.bare()
  nodes:configure_wf0({ policy = POLICY, enforcer = enforcer })
  -- Where the unit runs systemd has mounted one. Without CAP_SYS_CHROOT the agent could only mount it for itself.
  if enforcer == "ebpf" then Agents.sh_here(("mkdir %s/pins; mount -t bpf bpf %s/pins"):format(nodes.dir, nodes.dir)) end
  return nodes
end

local function agent(nodes)
  return nodes:up({ under = { "setpriv", "--no-new-privs", "--bounding-set",
    "-all,+net_admin,+bpf,+net_raw,+sys_admin,+setpcap,+chown,+dac_read_search" } })
end

local function ended(p)
  p:expect(function() return p.status end)
end

local function ping(nodes, from, to)
  return nodes:try(from, "ping -n -c 1 -W 2 " .. to)
end

for enforcer, why in Agents.enforcers(missing) do
  describe("latticed with wf0, by " .. enforcer, function()
    local function test(name, fn)
      if why then return pending(name, why) end
      it(name, Agents.within(function() return world(enforcer) end, fn))
    end

    test("is killed, taken over, and handed over, without a lost packet; a stop removes all", function(nodes)
      local first = agent(nodes)
      assert.is_true(ping(nodes, "node", "10.42.0.2"))
      local flood = nodes:start("peer", { "ping", "-n", "-i", "0.02", "-W", "2", "10.42.0.1" })
      flood:expect("bytes from")
      first:kill("sigkill")
      ended(first)
      local second = agent(nodes)
      second:kill("sigusr2")
      ended(second)
      local third = agent(nodes)
      flood:kill("sigint")
      flood:wait()
      assert.equal(0, Agents.lost_pings(flood.out), flood.out)
      assert.matches("adopted generation", third.err)
      third:kill()
      assert.equal(0, third:wait().status)
      assert.is_false(nodes:try("node", "ip link show wf0"))
      assert.equal("", nodes:sh("node", "ss -Hlun"))
    end)

    test("forgets a peer with its networks by the reload that removes it", function(nodes)
      local config = Agents.read(nodes.config)
      local _, other = nodes:keys()
      nodes:policy('allow "icmp to mesh"\nallow "in icmp from mesh"\n')
      nodes:file("lattice.lua", (config:gsub("peers = {", ('peers = { { key = "%s", allowed = { "10.77.0.0/24" } },')
        :format(other))))
      local first = agent(nodes)
      local function judged(flow)
        return nodes:lattice({ "--socket", nodes.dir .. "/control.sock", "explain", flow }).out:match("^%u+")
      end
      assert.equal("ALLOW", judged("icmp to 10.77.0.5"))
      assert.equal("ALLOW", judged("in icmp from 10.77.0.5"))
      local route = nodes:sh("node", "ip route")
      assert.is_truthy(route:find("10.77.0.0/24 dev wf0", 1, true), route)
      nodes:file("lattice.lua", config)
      first:kill("sighup")
      first:expect("reload: generation 2")
      assert.equal("DENY", judged("icmp to 10.77.0.5"))
      assert.equal("DENY", judged("in icmp from 10.77.0.5"))
      assert.is_nil(nodes:sh("node", "ip route"):find("10.77.0.0", 1, true))
      assert.equal("ALLOW", judged("icmp to 10.42.0.2"))
      assert.is_true(ping(nodes, "node", "10.42.0.2"))
      first:kill()
      assert.equal(0, first:wait().status)
    end)

    test("denies what the policy denies while it is dead", function(nodes)
      local first = agent(nodes)
      nodes:serve({ "python3", "-m", "http.server", "8080" }, { ns = "node", tcp = 8080, cwd = nodes.dir })
      local try = [[python3 -c 'import socket; socket.create_connection(("10.42.0.1", 8080), 1)']]
      assert.is_true(ping(nodes, "peer", "10.42.0.1"))
      assert.is_false(nodes:try("peer", try))
      first:kill("sigkill")
      ended(first)
      assert.is_true(ping(nodes, "peer", "10.42.0.1"))
      assert.is_false(nodes:try("peer", try))
      local second = agent(nodes)
      assert.is_false(nodes:try("peer", try))
      second:kill()
      second:wait()
    end)

    test("brings wf0 back guarded when wireguard-go dies, with the few capabilities it has kept", function(nodes)
      local node = agent(nodes)
      local child = nodes:sh("node", "ip link show wf0"):match("wireguard%-go (%d+)")
      if not child then return pending("the kernel's WireGuard has no process") end
      uv.kill(math.tointeger(tonumber(child)), "sigkill")
      node:expect("back and guarded")
      assert.is_true(Agents.await("the tunnel", function() return ping(nodes, "node", "10.42.0.2") end, 15000))
      child = nodes:sh("node", "ip link show wf0"):match("wireguard%-go (%d+)")
      assert.matches("CapEff:\t0000000000001000", Agents.read(("/proc/%s/status"):format(child)))
      node:kill()
      assert.equal(0, node:wait().status)
      assert.is_false(nodes:try("node", "ip link show wf0"))
      assert.is_nil(uv.fs_stat("/var/run/wireguard/wf0.sock"))
    end)
  end)
end
