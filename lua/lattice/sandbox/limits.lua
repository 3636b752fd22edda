-- The limits of a policy on their way to the kernel: which a group of processes (cgroup) holds, which rlimits hold, and
-- which nothing holds here.
local M = {}

-- By a group: for the whole tree together. pids is held by an rlimit where there is no group, for the processes of the run.
local by_group = { "cpu", "memory", "swap", "io", "pids" }
-- By an rlimit: for each process.
local by_rlimit = { files = true, file_size = true, cpu_time = true, core = true, stack = true, pids = true }

local function pick(limits, names)
  local found
  for _, name in ipairs(names) do
    if limits[name] ~= nil then
      found = found or {}
      found[name] = limits[name]
    end
  end
  return found
end

-- What a group can hold when it is asked for each alone; swap is counted with memory.
local function one_by_one(limits, make)
  local held, missing = {}, {}
  for _, name in ipairs(by_group) do
    if limits[name] ~= nil then
      local alone = { [name] = limits[name], memory = name == "swap" and limits.memory or nil }
      if name == "memory" then alone.memory = limits.memory end
      local group, why = make(alone)
      if group then
        group:close()
        held[name] = limits[name]
      else
        missing[#missing + 1] = { name = name, reason = why }
      end
    end
  end
  return held, missing
end

---@class lattice.sandbox.Limits
---@field group? lattice.cgroup.Group  made, empty; the caller closes it
---@field rlimits table<string, integer>  for sandbox.run
---@field missing { name: string, reason: string }[]  what nothing holds here, and why
---@field missing_names? string  the names of these, for the audit
---@field held table<string, string>  name -> "group" or "rlimit"

--- Makes what holds the limits here.
---@param limits? table<string, number>  of a policy: lattice.policy's `limits`
---@param options { name: string, programs?: boolean, make?: fun(options: table): any, string? }
---  name: of the group; programs: a group is needed for eBPF programs whatever the limits say; make: for tests
---@return lattice.sandbox.Limits? taken
---@return string? error  no group for the programs
function M.take(limits, options)
  limits = limits or {}
  local make_group = options.make or function(o) return require("lattice.cgroup").make(o) end
  local function make(wanted)
    return make_group { name = options.name, unique = true, limits = wanted, programs = options.programs }
  end
  local taken = { rlimits = {}, missing = {}, held = {} }
  for name, value in pairs(limits) do
    if by_rlimit[name] and name ~= "pids" then
      taken.rlimits[name], taken.held[name] = value, "rlimit"
    end
  end
  local wanted = pick(limits, by_group)
  local why
  if wanted or options.programs then
    taken.group, why = make(wanted or {})
    if not taken.group and wanted then
      wanted, taken.missing = one_by_one(wanted, make)
      if next(wanted) or options.programs then taken.group, why = make(wanted) end
    end
    if not taken.group and options.programs then return nil, why end
    for name in pairs(taken.group and wanted or {}) do taken.held[name] = "group" end
  end
  for i = #taken.missing, 1, -1 do
    if taken.missing[i].name == "pids" then
      table.remove(taken.missing, i)
      taken.rlimits.pids, taken.held.pids = limits.pids, "rlimit"
    end
  end
  if #taken.missing > 0 then taken.missing_names = M.names_missing(taken) end
  return taken
end

--- Why not all of them hold, one a line.
---@param taken lattice.sandbox.Limits
---@return string? text  nil: they do
function M.why_missing(taken)
  if #taken.missing == 0 then return nil end
  local lines = {}
  for i, one in ipairs(taken.missing) do lines[i] = ("  %s: %s"):format(one.name, one.reason) end
  return table.concat(lines, "\n")
end

--- Their names: "memory, swap".
---@param taken lattice.sandbox.Limits
---@return string
function M.names_missing(taken)
  local names = {}
  for i, one in ipairs(taken.missing) do names[i] = one.name end
  table.sort(names)
  return table.concat(names, ", ")
end

--- What holds what, for people: "cpu, memory by /sys/fs/cgroup/lattice/agent; files by rlimits".
---@param taken lattice.sandbox.Limits
---@return string? text  nil: there are no limits
function M.describe(taken)
  local by = { group = {}, rlimit = {} }
  for name, how in pairs(taken.held) do table.insert(by[how], name) end
  local parts = {}
  for _, how in ipairs({ "group", "rlimit" }) do
    table.sort(by[how])
    if #by[how] > 0 then
      local where = how == "group" and table.concat(taken.group:paths(), ", ") or "rlimits"
      parts[#parts + 1] = table.concat(by[how], ", ") .. " by " .. where
    end
  end
  return #parts > 0 and table.concat(parts, "; ") or nil
end

return M
