-- A wf0 on a node by lattice.agent.device (device_agent.lua), joined to a peer that only the tools made.
local Nodes = require("nodes")

local M = {}
local script = Nodes.root .. "/tests/support/device_agent.lua"

--- A node's key file, its public key, and the config of its wf0.
function M.node_config(nodes, peer_public, change)
  local private, public = nodes:keys()
  local key = nodes:file("wf0.key", private .. "\n", tonumber("600", 8))
  local device = {
    name = "wf0", kind = "wireguard", address = { "10.42.0.1/24", "fd42::1/64" }, where = "lattice.lua:1",
    wireguard = { key = key, listen = 51820, peers = {
      { key = peer_public, endpoint = "203.0.113.2:51820", allowed = { "10.42.0.2/32", "fd42::2/128" } } } },
  }
  if change then change(device) end
  return device, public, private
end

function M.write_config(nodes, ...)
  local text = {}
  local function put(value)
    if type(value) ~= "table" then return ("%q"):format(value) end
    local parts = {}
    for k, v in pairs(value) do parts[#parts + 1] = ("[%s]=%s"):format(put(k), put(v)) end
    return "{" .. table.concat(parts, ",") .. "}"
  end
  for i, device in ipairs({ ... }) do text[i] = put(device) end
  return nodes:file("devices.lua", "return {" .. table.concat(text, ",") .. "}")
end

function M.start(nodes, device, env)
  return nodes:start("node", { Nodes.lattice_path, "lua", script, M.write_config(nodes, device) }, { env = env })
end

--- Node and peer, both up. Results: the agent's process, the peer's wireguard-go, the device, both keys of the peer.
function M.joined(nodes, change, peer_options)
  local peer_private, peer_public = nodes:keys()
  local device, public, private = M.node_config(nodes, peer_public, change)
  peer_options = peer_options or {}
  peer_options.private = peer_private
  local peer = nodes:peer_end(public, peer_options)
  local agent = M.start(nodes, device)
  agent:expect("up\n")
  return agent, peer, device, { public = public, private = private, peer = peer_public, peer_private = peer_private }
end

return M
