-- What is left of runs of lattice: processes that carry a word in their environment, whoever is in their namespaces, and the
-- groups, programs and maps that were theirs. For specs that prove that nothing is.
local uv = require("luv")
local json = require("dkjson")

local M = {}

local function read(path)
  local file = io.open(path, "rb")
  if not file then return "" end
  local text = file:read("a") or ""
  file:close()
  return text
end

local function output(command)
  local pipe = assert(io.popen(command .. " 2>/dev/null"))
  local text = pipe:read("a")
  pipe:close()
  return text
end

local function entries(dir)
  local found = {}
  local scan = uv.fs_scandir(dir)
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    found[#found + 1] = name
  end
  return found
end

--- Processes with this word in their environment: the number of each, with its command.
---@param word string
---@return table<integer, string>
function M.processes(word)
  local found = {}
  for _, name in ipairs(entries("/proc")) do
    local pid = math.tointeger(tonumber(name))
    if pid and pid ~= uv.os_getpid() and read("/proc/" .. name .. "/environ"):find(word, 1, true) then
      found[pid] = read("/proc/" .. name .. "/comm"):match("%C*")
    end
  end
  return found
end

--- Directories of runs, in every hierarchy. Those of other tests that run meanwhile are among them.
---@return table<string, boolean>
function M.groups()
  local found = {}
  local paths = output("find /sys/fs/cgroup -mindepth 2 -type d -path '*/lattice/*'")
  for path in paths:gmatch("[^\n]+") do found[path] = true end
  return found
end

--- The groups of processes.
---@param processes table<integer, string>
---@return table<string, boolean>
function M.groups_of(processes)
  local found, all = {}, M.groups()
  for pid in pairs(processes) do
    for line in read("/proc/" .. pid .. "/cgroup"):gmatch("[^\n]+") do
      local path = line:match("^%d+:[^:]*:(.*/lattice/.*)$")
      for group in pairs(path and all or {}) do
        if group:sub(-#path) == path then found[group] = true end
      end
    end
  end
  return found
end

local function namespaces(pid)
  local found = {}
  for _, kind in ipairs(entries(("/proc/%s/ns"):format(pid))) do
    found[#found + 1] = uv.fs_readlink(("/proc/%s/ns/%s"):format(pid, kind))
  end
  return found
end

local function born(pid) return read(("/proc/%s/stat"):format(pid)):match("^.*%)" .. (" %S+"):rep(19) .. " (%d+)") end

--- Everybody in the namespaces of these processes that none of `outside` is in, whatever its environment says:
--- "pid born". The number of a namespace is given again, so it is the processes that must go.
---@param processes table<integer, string>
---@param outside integer[]
---@return table<string, string>
function M.inhabitants(processes, outside)
  local known, theirs, found = {}, {}, {}
  for _, pid in ipairs({ "self", table.unpack(outside) }) do
    for _, link in ipairs(namespaces(pid)) do known[link] = true end
  end
  for pid in pairs(processes) do
    for _, link in ipairs(namespaces(pid)) do theirs[link] = not known[link] or nil end
  end
  for _, name in ipairs(entries("/proc")) do
    for _, link in ipairs(name:match("^%d+$") and namespaces(name) or {}) do
      if theirs[link] then found[name .. " " .. (born(name) or "")] = read(("/proc/%s/comm"):format(name)):match("%C*") end
    end
  end
  return found
end

--- Which of them live.
---@return string[]
function M.alive(inhabitants)
  local left = {}
  for key, command in pairs(inhabitants) do
    local pid, start = key:match("^(%d+) (.*)$")
    if start ~= "" and born(pid) == start then left[#left + 1] = key .. " " .. command end
  end
  return left
end

local kinds = { prog = "prog", map = "map", link = "link" }

--- Ids of what BPF holds on this host: { prog = { [id] = name }, map = ..., link = ... }.
function M.bpf()
  local found = {}
  for kind in pairs(kinds) do
    found[kind] = {}
    for _, one in ipairs(json.decode(output("bpftool -j " .. kind .. " show")) or {}) do
      found[kind][one.id] = one.name or tostring(one.type)
    end
  end
  return found
end

local function inner_maps(id, found)
  for inner in output("bpftool -j map dump id " .. id):gmatch('"inner_map_id":%s*%[?"?(%w+)') do
    local number = math.tointeger(tonumber(inner))
    if number then found.map[number] = true end
  end
end

--- What processes hold by descriptors, and what hangs on groups, with the maps that it uses.
---@param processes table<integer, string>
---@param groups table<string, boolean>
function M.bpf_of(processes, groups)
  local found = { prog = {}, map = {}, link = {} }
  for pid in pairs(processes) do
    local dir = "/proc/" .. pid .. "/fdinfo"
    for _, fd in ipairs(entries(dir)) do
      for kind, id in read(dir .. "/" .. fd):gmatch("(%l+)_id:%s*(%d+)") do
        if found[kind] then found[kind][math.tointeger(tonumber(id))] = true end
      end
    end
  end
  for group in pairs(groups) do
    for id in output("bpftool -j cgroup show " .. group):gmatch('"id":%s*(%d+)') do
      found.prog[math.tointeger(tonumber(id))] = true
    end
  end
  for _, one in ipairs(json.decode(output("bpftool -j prog show")) or {}) do
    for _, map in ipairs(found.prog[one.id] and one.map_ids or {}) do found.map[map] = true end
  end
  for _, one in ipairs(json.decode(output("bpftool -j map show")) or {}) do
    if found.map[one.id] and one.type:find("of_maps", 1, true) then inner_maps(one.id, found) end
  end
  return found
end

--- Which of them are still there, as "map 12".
function M.bpf_left(those)
  local now, left = M.bpf(), {}
  for kind, ids in pairs(those) do
    for id in pairs(ids) do
      if now[kind][id] then left[#left + 1] = ("%s %d %s"):format(kind, id, now[kind][id]) end
    end
  end
  table.sort(left)
  return left
end

--- Looks again until `what` gives an empty list; fails with what is left after `ms`.
---@param name string
---@param what fun(): any[]
---@param ms? integer
function M.gone(name, what, ms)
  local patience = tonumber(os.getenv("LATTICE_PATIENCE")) or 1
  local late = uv.hrtime() + (ms or 15000) * 1e6 * patience
  while true do
    local left = what()
    if #left == 0 then return end
    if uv.hrtime() > late then error(("left of %s: %s"):format(name, table.concat(left, ", ")), 2) end
    local timer, rung = uv.new_timer(), false
    timer:start(20, 0, function() rung = true end)
    while not rung do uv.run("once") end
    timer:close()
  end
end

--- The keys of a table, as texts.
function M.keys(set)
  local list = {}
  for key, value in pairs(set) do list[#list + 1] = type(value) == "string" and key .. " " .. value or tostring(key) end
  return list
end

return M
