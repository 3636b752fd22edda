-- A node on a kernel with neither TCX nor clsact nor the WireGuard module: what the agent takes instead.
package.path = "tests/support/?.lua;" .. package.path
local Nodes = require("nodes")

local missing = Nodes.missing()

local function world(enforcer)
  local nodes = Nodes.new()
  local private = nodes:keys()
  nodes:file("wf0.key", private, tonumber("600", 8))
  nodes:file("policy.lua", 'policy "none"\ndefault "deny"\n')
  nodes.config = nodes:file("lattice.lua", ([[
    device "wf0" { address = "10.42.0.1/24", wireguard = { key = file "wf0.key", listen = 51820 } }
    policy { "policy.lua" }
    control "control.sock"
    pins "%s/bpf"
    %s
  ]]):format(nodes.dir, enforcer or ""))
  return nodes, nodes:start("node", { Nodes.latticed_path, "--config", nodes.config })
end

describe("latticed without clsact and WireGuard", function()
  if missing then return pending(missing) end

  it("takes iptables and wireguard-go, and says so", function()
    local nodes, agent = world()
    local ok, err = xpcall(function()
      agent:expect("guarding wf0")
      local status = nodes:lattice({ "--socket", nodes.dir .. "/control.sock", "status" }).out
      assert.truthy(status:find("iptables", 1, true), status)
      assert.is_true(nodes:try("node", "test -S /var/run/wireguard/wf0.sock || pgrep -f wireguard-go"))
    end, debug.traceback)
    nodes:close()
    if not ok then error(err, 0) end
  end)

  it("does not start where ebpf is asked for by name", function()
    local nodes, agent = world('enforcer "ebpf"')
    local ok, err = xpcall(function()
      agent:expect(function() return agent.status end)
      assert.equal(5, agent.status)
      assert.is_false(nodes:try("node", "ip link show wf0"))
    end, debug.traceback)
    nodes:close()
    if not ok then error(err, 0) end
  end)
end)
