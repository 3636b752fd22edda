-- Facts of processes by /proc, and of their groups in the tree of cgroup v2: what bindings and the agent's runs look at. A
-- process is known by its number and its start: a number alone is given out again.
local uv = require("luv")

local M = {}

local KERNEL_THREAD = 0x00200000 -- PF_KTHREAD

--- The text of a small file.
---@param path string
---@return string?
---@return string? err
function M.read(path)
  local file, why = io.open(path, "rb")
  if not file then return nil, why end
  local text, problem = file:read("a")
  file:close()
  return text, problem
end

--- Writes to a file of the kernel's, in one call.
---@param path string
---@param text string
---@return true?
---@return string? err
---@return string? code
function M.write(path, text)
  local fd, why, code = uv.fs_open(path, "w", 0)
  if not fd then return nil, why, code end
  local written
  written, why, code = uv.fs_write(fd, text)
  uv.fs_close(fd)
  if not written then return nil, ("%s: %s"):format(path, why), code end
  return true
end

---@class lattice.sandbox.Process
---@field pid integer
---@field comm string
---@field state string
---@field ppid integer
---@field start integer  ticks since the boot
---@field kernel boolean

--- nil where there is no such process.
---@param pid integer
---@return lattice.sandbox.Process?
function M.stat(pid)
  local text = M.read(("/proc/%d/stat"):format(pid))
  local comm, rest = (text or ""):match("^%d+ %((.*)%) (.*)$")
  if not comm then return nil end
  local fields = {}
  for word in rest:gmatch("%S+") do fields[#fields + 1] = word end
  return { pid = pid, comm = comm, state = fields[1], ppid = math.tointeger(tonumber(fields[2])),
    kernel = math.tointeger(tonumber(fields[7])) & KERNEL_THREAD ~= 0, start = math.tointeger(tonumber(fields[20])) }
end

--- Real, effective, saved and file system uid.
---@param pid integer
---@return integer[]?
function M.uids(pid)
  local line = (M.read(("/proc/%d/status"):format(pid)) or ""):match("\nUid:%s*([%d%s]-)\n")
  if not line then return nil end
  local list = {}
  for word in line:gmatch("%d+") do list[#list + 1] = math.tointeger(tonumber(word)) end
  return list
end

--- Whether the process is in our network namespace; nil where that cannot be told.
---@param pid integer
---@return boolean?
function M.our_network(pid)
  local theirs, ours = uv.fs_readlink(("/proc/%d/ns/net"):format(pid)), uv.fs_readlink("/proc/self/ns/net")
  if not theirs or not ours then return nil end
  return theirs == ours
end

--- How many sockets it has; nil where that cannot be told.
---@param pid integer
---@return integer?
function M.sockets(pid)
  local folder = ("/proc/%d/fd"):format(pid)
  local scan, count = uv.fs_scandir(folder), 0
  if not scan then return nil end
  for name in function() return (uv.fs_scandir_next(scan)) end do
    local target = uv.fs_readlink(folder .. "/" .. name)
    if target and target:find("^socket:") then count = count + 1 end
  end
  return count
end

--- All processes: what they are by their number.
---@return table<integer, lattice.sandbox.Process>
function M.all()
  local list, scan = {}, uv.fs_scandir("/proc")
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    local pid = name:find("^%d+$") and math.tointeger(tonumber(name))
    if pid then list[pid] = M.stat(pid) end
  end
  return list
end

--- The processes that descend from one, itself not included.
---@param pid integer
---@return integer[]
function M.descendants(pid)
  local by_parent, found, at = {}, {}, 0
  for one, stat in pairs(M.all()) do
    local list = by_parent[stat.ppid] or {}
    list[#list + 1], by_parent[stat.ppid] = one, list
  end
  local parents = { pid }
  while at < #parents do
    at = at + 1
    for _, child in ipairs(by_parent[parents[at]] or {}) do
      found[#found + 1], parents[#parents + 1] = child, child
    end
  end
  return found
end

-- ---- the tree of groups ----

local function unescape(text)
  return (text:gsub("\\(%d%d%d)", function(octal) return string.char(tonumber(octal, 8)) end))
end

--- Where cgroup v2 is mounted whole; nil: nowhere.
---@return string?
function M.tree()
  for line in (M.read("/proc/self/mountinfo") or ""):gmatch("[^\n]+") do
    local root, at, kind = line:match("^%S+ %S+ %S+ (%S+) (%S+) .- %- (%S+)")
    if kind == "cgroup2" and root == "/" then return unescape(at) end
  end
  return nil
end

--- Its group below the tree: "/system.slice/x.service"; nil: there is no such process, or it is in none.
---@param pid integer
---@return string?
function M.group(pid)
  return ("\n" .. (M.read(("/proc/%d/cgroup"):format(pid)) or "")):match("\n0::([^\n]*)")
end

local SANDBOX = "/lattice/"          -- groups of runs are below it
--- Below it, too: where an agent puts bindings of processes in whose group it may make none (src/kernel/cgroup_impl.h).
M.BOUND = "/lattice/bindings"
local BINDING = "^lattice%-bind%-(%d+)%-(%d+)%-(.+)$"

--- Of the group of a binding (bindings.lua), by its name: which process, its start, on which device.
---@param name string
---@return integer? pid
---@return integer? start
---@return string? device
function M.binding(name)
  local pid, start, device = name:match(BINDING)
  return math.tointeger(tonumber(pid)), math.tointeger(tonumber(start)), device
end

--- Whether a group is one that Lattice made, or below it: "run"; "binding", and the name of that; or nil.
---@param group string
---@return "run"|"binding"|nil
---@return string? name
function M.ours(group)
  for part in group:gmatch("[^/]+") do
    if part:find(BINDING) then return "binding", part end
  end
  return (group .. "/"):find(SANDBOX, 1, true) == 1 and "run" or nil
end

--- The processes right in a group.
---@param folder string
---@return integer[]
function M.members(folder)
  local list = {}
  for word in (M.read(folder .. "/cgroup.procs") or ""):gmatch("%d+") do
    list[#list + 1] = math.tointeger(tonumber(word))
  end
  return list
end

--- Whether a process is in the group or below it.
---@param folder string
---@return boolean
function M.populated(folder)
  return (M.read(folder .. "/cgroup.events") or ""):find("populated 1", 1, true) ~= nil
end

--- Calls fn(folder, name) for every group below one, parents first.
---@param folder string
---@param fn fun(folder: string, name: string)
function M.each_group(folder, fn)
  local scan, names = uv.fs_scandir(folder), {}
  while scan do
    local name, kind = uv.fs_scandir_next(scan)
    if not name then break end
    if kind == "directory" then names[#names + 1] = name end
  end
  for _, name in ipairs(names) do
    fn(folder .. "/" .. name, name)
    M.each_group(folder .. "/" .. name, fn)
  end
end

return M
