-- Runs policy code under limits: instructions, memory, and the string methods of the restricted environment.
--
-- Plain Lua can only look every few instructions, so the memory limit is approximate. The program's own states have
-- exact limits in C (src/lua/limits.c) and no debug.sethook: there, and wherever the host has a C hook already (it could
-- not be put back), none is set here. C functions that may run long without an instruction (patterns, sorts, moves)
-- say what they cost: see spend.
--
-- Once over the limit, a run stays over it: every further instruction of policy code raises again.
local M = {}

local sethook, getinfo = debug.sethook, debug.getinfo
--- The function that runs at a level and its line: the program's own states have it in C.
local where = debug.where or function(level) -- luacheck: ignore 143
  local info = getinfo(level + 1, "lf")
  if info then return info.func, info.currentline end
end
local gethook = debug.gethook or function() return "the host's" end
local count_memory = collectgarbage
-- The wall's time where there is one: on a busy machine ten seconds of the processor are half a minute.
local has_sys, sys = pcall(require, "lattice.sys")
local clock = has_sys and function() return sys.clock() / 1e9 end or os.clock
local plain_methods = string

local STEP = 4 -- a string that doubles itself grows at most this often between two looks
local DEFAULTS = { instructions = 20000000, memory = 64 * 1024, work = 200000000, seconds = 10 }
local CLOCK_EVERY = 16 -- looks: one instruction can copy many arguments

---@class lattice.policy.Guard
---@field sources table<string, table>  chunk name -> source
local Guard = {}
Guard.__index = Guard

--- limits: { instructions, memory (KiB), work (bytes or steps done inside C functions), seconds }
---@param limits? table
---@return lattice.policy.Guard
function M.new(limits)
  limits = limits or {}
  return setmetatable({
    sources = {}, by_function = setmetatable({}, { __mode = "k" }), methods = nil, depth = 0, spent = 0,
    instructions = limits.instructions or DEFAULTS.instructions,
    memory = limits.memory or DEFAULTS.memory, work = limits.work or DEFAULTS.work,
    seconds = limits.seconds or DEFAULTS.seconds,
  }, Guard)
end

--- The source that a running function belongs to; asked for each rule, so it is kept by function.
function Guard:source_of(fn)
  local source = self.by_function[fn]
  if source == nil then
    source = self.sources[getinfo(fn, "S").source] or false
    self.by_function[fn] = source
  end
  return source
end

--- The innermost running function of a policy: its source and line.
---@param level? integer
---@return table? source
---@return integer? line
function Guard:place(level)
  level = (level or 1) + 1
  while true do
    local fn, line = where(level)
    if not fn then return nil end
    local source = self:source_of(fn)
    if source and line > 0 then return source, line end
    level = level + 1
  end
end

--- Where the program's own states ran out of memory; they give no chance to look at the stack.
---@return table? source
---@return integer? line
function Guard:where_stopped()
  local found, api = pcall(require, "lattice.api")
  local short, line = (found and api.where and api.where() or ""):match("^(.*):(%d+)$")
  for _, source in pairs(self.sources) do
    if source.short == short then return source, tonumber(line) end
  end
  return self:definition(self.running)
end

--- Where a function of a policy begins; for the text of a whole source, where it ends.
---@param fn function
---@return table? source
---@return integer? line
function Guard:definition(fn)
  local info = getinfo(fn, "S")
  local source = self.sources[info.source]
  if not source or info.linedefined > 0 then return source, info.linedefined end
  local _, line = source.text:match("^(.-)%s*$"):gsub("\n", "\n")
  return source, line + 1
end

--- Work that a C function does on behalf of a policy.
---@param amount integer|number
---@param what string  named in the error
function Guard:spend(amount, what)
  self.spent = self.spent + amount
  if self.spent > self.work then
    error(("%s would take too long here"):format(what), 0)
  end
end

local function make_hook(guard)
  local used, base, looks = 0, count_memory("count"), 0
  local deadline = clock() + guard.seconds
  local tripped
  local function trip(why)
    tripped = why
    error(why, 0)
  end
  return function()
    if tripped then
      local info = getinfo(2, "S")
      if info and guard.sources[info.source] then error(tripped, 0) end
      return
    end
    used = used + STEP
    if used > guard.instructions then
      return trip("the policy runs too long: its instruction budget is used up")
    end
    looks = looks + 1
    if looks % CLOCK_EVERY == 0 and clock() > deadline then
      return trip("the policy runs too long: its time is used up")
    end
    if count_memory("count") - base > guard.memory then
      count_memory("collect")
      if count_memory("count") - base > guard.memory then
        return trip("the policy needs too much memory")
      end
    end
  end
end

local function plain_message(guard, problem)
  if type(problem) ~= "string" then
    if type(problem) == "number" then return tostring(problem) end
    return ("the policy raised a %s instead of a message"):format(type(problem))
  end
  local place, rest = problem:match("^(.-:%d+): (.*)$")
  if place then
    for _, source in pairs(guard.sources) do
      if source.short and place:sub(1, #source.short + 1) == source.short .. ":" then
        problem = rest
        break
      end
    end
    problem = problem:gsub("^[^:]*lattice/policy/%w+%.lua:%d+: ", "")
  end
  if problem:find("^[^\n]*stack overflow") then return "the policy recurses too deeply" end
  if problem == "not enough memory" then return "the policy needs too much memory" end
  return problem:match("^[^\n]*")
end

-- The table of string methods; nil where the host has locked it and bounds the methods itself.
local function string_meta()
  local meta = getmetatable("")
  return type(meta) == "table" and meta or nil
end

--- Calls fn under the limits. On failure false and { message, source?, line? }.
---@param fn function
---@return boolean ok
---@return any result_or_problem
function Guard:run(fn, ...)
  local outer_hook, outer_mask, outer_count = gethook()
  local own_hook = type(outer_hook) ~= "string" and self.depth == 0
  local strings = string_meta()
  local outer_methods = strings and strings.__index
  local function finish(problem)
    if strings then strings.__index = plain_methods end
    if type(problem) == "table" and problem.lattice_problem then return problem end
    local source, line = self:place(2)
    if not source then source, line = self:definition(fn) end -- a tail call left no frame
    return { lattice_problem = true, message = plain_message(self, problem), source = source, line = line }
  end
  if self.depth == 0 then self.spent = 0 end
  local outer_fn = self.running
  self.running = fn
  self.depth = self.depth + 1
  if strings then strings.__index = self.methods or plain_methods end
  if own_hook then sethook(make_hook(self), "", STEP) end
  local result = table.pack(xpcall(fn, finish, ...))
  if own_hook then sethook(outer_hook, outer_mask, outer_count) end
  if strings then strings.__index = outer_methods end
  if not result[1] and type(result[2]) ~= "table" then -- the handler was not called: out of memory
    local source, line = self:where_stopped()
    result[2] = { lattice_problem = true, message = plain_message(self, result[2]), source = source, line = line }
  end
  self.depth, self.running = self.depth - 1, outer_fn
  return table.unpack(result, 1, result.n)
end

local function back_inside(strings, methods, ...)
  strings.__index = methods
  return ...
end

--- A function of ours that policies call: inside it strings have their own methods, without bounds. (An error leaves the
--- run altogether, so nothing has to be put back then.)
---@param fn function
---@return function
function Guard:outside(fn) -- luacheck: ignore 212
  if not string_meta() then return fn end
  return function(...)
    local strings = string_meta()
    local methods = strings.__index
    strings.__index = plain_methods
    return back_inside(strings, methods, fn(...))
  end
end

--- A function of the policy, to be called later (a handler), under the same limits each time.
---@param fn function
---@return function
function Guard:wrap(fn)
  return function(...)
    local result = table.pack(self:run(fn, ...))
    if result[1] then return table.unpack(result, 2, result.n) end
    local problem = result[2]
    local place = problem.source and ("%s:%d: "):format(problem.source.name, problem.line) or ""
    error(place .. problem.message, 0)
  end
end

return M
