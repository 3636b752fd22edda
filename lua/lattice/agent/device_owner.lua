-- Who made a device: a mark in its alias (`ip link show` prints it), so that a start takes over what a killed agent left and
-- leaves everything else alone.
--
--   latticed 1234.567890                     made by that process (pid, and its start time: pids come again)
--   latticed 1234.567890 wireguard-go 1235.567900
local sys = require("lattice.sys")

local M = {}

--- When a process started, in clock ticks since boot; nil when there is none.
---@param pid integer
---@return integer?
function M.started(pid)
  local file = io.open(("/proc/%d/stat"):format(pid), "r")
  if not file then return nil end
  local text = file:read("a") or ""
  file:close()
  -- behind the name, which may hold anything: state is field 3, the start time is field 22
  local n = 2
  for word in (text:match("^.*%)(.*)$") or ""):gmatch("%S+") do
    n = n + 1
    if n == 22 then return math.tointeger(tonumber(word)) end
  end
  return nil
end

local function stamp(pid)
  return ("%d.%d"):format(pid, M.started(pid) or 0)
end

--- The mark of this process, and of the wireguard-go that it started.
---@param child? integer
---@return string
function M.mark(child)
  return "latticed " .. stamp(sys.pid()) .. (child and " wireguard-go " .. stamp(child) or "")
end

local function alive(pid, started)
  return started > 0 and M.started(pid) == started
end

--- What a mark says: nil for a device that no agent made; running: that agent is still there; child: its wireguard-go,
--- if that is still there.
---@param alias string
---@return { pid: integer, running: boolean, child: integer? }?
function M.read(alias)
  local pid, started, rest = alias:match("^latticed (%d+)%.(%d+)(.*)$")
  if not pid then return nil end
  local child, child_started = rest:match("^ wireguard%-go (%d+)%.(%d+)$")
  if rest ~= "" and not child then return nil end
  pid, child = math.tointeger(tonumber(pid)), child and math.tointeger(tonumber(child))
  return {
    pid = pid, running = alive(pid, math.tointeger(tonumber(started)) or 0),
    child = child and alive(child, math.tointeger(tonumber(child_started)) or 0) and child or nil,
  }
end

return M
