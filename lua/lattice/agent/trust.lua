-- Whether a file that the agent obeys is its owner's alone: who can write it, or put another in its place, decides what the
-- node enforces. Root and the agent's own user may; the disk is only looked at.
local M = {}

local OTHERS_WRITE, GROUP_WRITE, STICKY = 2, 16, 512
local UNMAPPED = 65534 -- in a user namespace: who has no number here, the host's root among them

--- Who the agent is: its uid and group, and whether it sees all users by their own numbers.
---@return { uid: integer, gid: integer, mapped: boolean }
function M.self()
  local found, uv = pcall(require, "luv")
  local map = io.open("/proc/self/uid_map")
  local text = map and map:read("a") or ""
  if map then map:close() end
  return { uid = found and uv.getuid() or 0, gid = found and uv.getgid() or 0,
    mapped = text == "" or text:find("^%s*0%s+0%s+4294967295%s*$") ~= nil }
end

local function doubt(self, path, stat, sticky)
  local mode = stat.mode
  local uid, gid = stat.uid or 0, stat.gid or 0
  if uid ~= 0 and uid ~= self.uid and (self.mapped or uid ~= UNMAPPED) then
    return ("%s belongs to uid %d, not to root or the agent"):format(path, uid), "chown root " .. path
  elseif sticky then
    return nil
  elseif mode & OTHERS_WRITE ~= 0 then
    return ("every user can write %s"):format(path), "chmod o-w " .. path
  elseif mode & GROUP_WRITE ~= 0 and gid ~= 0 and gid ~= self.gid and (self.mapped or gid ~= UNMAPPED) then
    return ("group %d can write %s"):format(gid, path), "chmod g-w " .. path
  end
end

--- Why a file is not to be believed, and the way out; nil: it is. In a sticky folder nobody puts another in its place.
---@param stat fun(path: string): table?
---@param path string
---@param self? table  of M.self
---@return string? problem
---@return string? expected
function M.doubt(stat, path, self)
  self = self or M.self()
  local file = stat(path)
  if not file then return nil end -- who reads it says so
  local problem, expected = doubt(self, path, file)
  if problem then return problem, expected end
  local place = path:match("^(.*)/[^/]*$")
  if place == "" then place = "/" elseif not place then place = "." end
  local folder = stat(place)
  if folder then return doubt(self, place, folder, folder.mode & STICKY ~= 0) end
end

--- The same of every folder on the way to the file, too: for files that hold a user, who may own one of them.
---@param stat fun(path: string): table?
---@param path string  absolute
---@param self? table  of M.self
---@return string? problem
---@return string? expected
function M.doubt_way(stat, path, self)
  self = self or M.self()
  local problem, expected = M.doubt(stat, path, self)
  local at = path:match("^(.*)/[^/]*$")
  while not problem and at and at ~= "" do
    local above = at:match("^(.*)/[^/]*$")
    local folder = stat(above == "" and "/" or above)
    if folder then problem, expected = doubt(self, above == "" and "/" or above, folder, folder.mode & STICKY ~= 0) end
    at = above
  end
  return problem, expected
end

return M
