-- One agent a network namespace (rules and NAT of two would be in each other's way): a lock on a file that stands for the
-- namespace, held while the agent runs.
local M = {}

local FOLDER = "/run/lattice"
local TRIES, PAUSE_MS = 10, 20

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
    local lock = name:find("^agent%-%d+%.lock$") and sys.lock(folder .. "/" .. name)
    if lock then lock:close() end
  end
end

--- Whether an agent runs in this network namespace now: the path of its lock; nil: none.
---@return string?
function M.held()
  local path = ("%s/agent-%s.lock"):format(FOLDER, network_namespace())
  if not require("luv").fs_stat(path) then return nil end
  local lock, _, code = require("lattice.sys").lock(path)
  if lock then lock:close() end
  return code == "EAGAIN" and path or nil
end

--- The lock of our network namespace.
---@param config lattice.agent.Config
---@return lattice.sys.Lock?
---@return string? error
---@return string? code
function M.take(config)
  local folder = folder_of(config)
  local path = ("%s/agent-%s.lock"):format(folder, network_namespace())
  local lock, err, code
  for _ = 1, TRIES do -- an agent elsewhere that sweeps holds it for a moment; so does a child of a killed one that begins
    lock, err, code = require("lattice.sys").lock(path)
    if lock or code ~= "EAGAIN" then break end
    require("luv").sleep(PAUSE_MS)
  end
  if not lock and code == "EAGAIN" then
    return nil, ("another latticed guards devices of this network namespace (it holds %s): stop that one first, or add "
      .. "the device to its configuration"):format(path), "busy"
  elseif not lock then
    return nil, "cannot make sure that no other agent is there: " .. err, "unavailable"
  end
  M.sweep(folder)
  return lock
end

return M
