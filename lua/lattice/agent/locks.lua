-- One agent a device: a lock on a file that stands for (network namespace, device), held while the agent runs.
local M = {}

local FOLDER = "/run/lattice"

local function network_namespace()
  return (require("luv").fs_readlink("/proc/self/ns/net") or ""):match("%d+") or "0"
end

-- For all agents of the host; a normal user's agent (in a user namespace) has its own beside the control socket.
local function folder_of(config)
  local uv = require("luv")
  uv.fs_mkdir(FOLDER, tonumber("755", 8))
  if uv.fs_access(FOLDER, "W") then return FOLDER end
  local own = config.control:match("^(.*)/[^/]*$")
  return own ~= "" and own or "/"
end

--- Removes the files of locks that nobody holds: their agents were killed.
---@param folder? string
function M.sweep(folder)
  local uv, sys = require("luv"), require("lattice.sys")
  folder = folder or FOLDER
  local scan, names = uv.fs_scandir(folder), {}
  for name in function() return scan and (uv.fs_scandir_next(scan)) end do names[#names + 1] = name end
  for _, name in ipairs(names) do
    local lock = name:find("^device%-%d+%-.*%.lock$") and sys.lock(folder .. "/" .. name)
    if lock then lock:close() end
  end
end

--- A device of this network namespace that an agent guards now; nil: none.
---@return string?
function M.held()
  local uv, sys = require("luv"), require("lattice.sys")
  local pattern = ("^device%%-%s%%-(.*)%%.lock$"):format(network_namespace())
  local scan = uv.fs_scandir(FOLDER)
  for name in function() return scan and (uv.fs_scandir_next(scan)) end do
    local device = name:match(pattern)
    local lock, _, code
    if device then lock, _, code = sys.lock(FOLDER .. "/" .. name) end
    if lock then lock:close() end
    if code == "EAGAIN" then return device end
  end
  return nil
end

--- The locks of a config's devices, all or none.
---@param config lattice.agent.Config
---@return table[]? locks
---@return string? error
---@return string? code
function M.take(config)
  local sys, folder, held = require("lattice.sys"), folder_of(config), {}
  for _, device in ipairs(config.devices) do
    local path = ("%s/device-%s-%s.lock"):format(folder, network_namespace(), device.name)
    local lock, err, code = sys.lock(path)
    if not lock then
      for _, taken in ipairs(held) do taken:close() end
      if code == "EAGAIN" then
        return nil, ("%s: device '%s' is guarded by another latticed (it holds %s): stop that one first")
          :format(device.where, device.name, path), "busy"
      end
      return nil, "cannot make sure that no other agent is there: " .. err, "unavailable"
    end
    held[#held + 1] = lock
  end
  M.sweep(folder)
  return held
end

return M
