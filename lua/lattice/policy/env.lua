-- What a policy may use of the standard library: functions without effect outside, and none that can run or grow
-- without bound. C functions are not interrupted by the instruction hook, so each that can take long is measured
-- before it is called, and refused when it would.
local M = {}

local MAX_STRING = 1 << 20
local MAX_PATTERN = 256
local MAX_MATCH = 10000000 -- steps of one pattern match, at worst
local MAX_MOVE = 1 << 16
local MAX_UNPACK = 1 << 12

local concat, insert, remove, sort = table.concat, table.insert, table.remove, table.sort
local move, unpack = table.move, table.unpack
local rep, find, match, gmatch, gsub = string.rep, string.find, string.match, string.gmatch, string.gsub
local format, sub, byte = string.format, string.sub, string.byte

local function need(value, kind, position, name)
  if type(value) == "number" and kind == "string" then return tostring(value) end
  if type(value) ~= kind then
    error(format("%s: argument %d must be a %s, it is a %s", name, position, kind, type(value)), 0)
  end
  return value
end

--- How often a backtracking match may try, at worst: every repetition may end anywhere behind the one before.
local function match_cost(length, pattern, every_start)
  local free, cost, at = every_start and 1 or 0, 1.0, 1
  while at <= #pattern do
    local c = sub(pattern, at, at)
    if c == "%" then
      if sub(pattern, at + 1, at + 1) == "b" then free = free + 1 end
      at = at + 1
    elseif c == "*" or c == "+" or c == "-" then
      free = free + 1
    elseif c == "?" then
      cost = cost * 2
    end
    at = at + 1
  end
  for k = 1, free do cost = cost * (length + k) / k end
  return cost * (#pattern + 1)
end

local function check_match(guard, name, s, pattern)
  need(s, "string", 1, name)
  need(pattern, "string", 2, name)
  if #pattern > MAX_PATTERN then
    error(format("%s: the pattern is longer than %d bytes", name, MAX_PATTERN), 0)
  end
  local cost = match_cost(#s, pattern, byte(pattern) ~= 94)
  if cost > MAX_MATCH then
    error(format("%s: this pattern could take too long on %d bytes: use fewer repetitions", name, #s), 0)
  end
  guard:spend(cost, name)
end

local function check_size(name, size)
  if size > MAX_STRING then
    error(format("%s: the result would be longer than %d bytes", name, MAX_STRING), 0)
  end
end

local function string_library(guard)
  local lib = {
    byte = byte, char = string.char, len = string.len, lower = string.lower,
    reverse = string.reverse, sub = sub, upper = string.upper,
  }
  function lib.rep(s, n, separator)
    s, n = need(s, "string", 1, "string.rep"), need(n, "number", 2, "string.rep")
    separator = separator == nil and "" or need(separator, "string", 3, "string.rep")
    if n > 0 then check_size("string.rep", (#s + #separator) * n) end
    return (rep(s, n, separator))
  end
  function lib.format(text, ...)
    local size = #need(text, "string", 1, "string.format")
    for i = 1, select("#", ...) do
      local value = select(i, ...)
      size = size + (type(value) == "string" and 4 * #value or 128)
    end
    check_size("string.format", size)
    local result = format(text, ...)
    return result
  end
  function lib.find(s, pattern, init, plain)
    if plain then
      need(s, "string", 1, "string.find")
      guard:spend(#s * 0.1 + #need(pattern, "string", 2, "string.find"), "string.find")
    else
      check_match(guard, "string.find", s, pattern)
    end
    return find(s, pattern, init, plain)
  end
  function lib.match(s, pattern, init)
    check_match(guard, "string.match", s, pattern)
    return match(s, pattern, init)
  end
  function lib.gmatch(s, pattern)
    check_match(guard, "string.gmatch", s, pattern)
    return gmatch(s, pattern)
  end
  function lib.gsub(s, pattern, replacement, max)
    check_match(guard, "string.gsub", s, pattern)
    local kind, size = type(replacement), #s
    if kind == "number" then replacement, kind = tostring(replacement), "string" end
    if kind == "string" then
      local _, refs = gsub(replacement, "%%%d", "")
      local _, times = gsub(s, pattern, "", max)
      check_size("string.gsub", size + times * #replacement + refs * size)
      return gsub(s, pattern, replacement, max)
    elseif kind ~= "table" and kind ~= "function" then
      error("string.gsub: argument 3 must be a string, a table or a function", 0)
    end
    return gsub(s, pattern, function(...)
      local value
      if kind == "table" then value = replacement[(...)] else value = replacement(...) end
      size = size + #tostring(value or "")
      check_size("string.gsub", size)
      return value
    end, max)
  end
  return lib
end

local function table_library(guard)
  local lib = { pack = table.pack }
  function lib.concat(list, separator, from, to)
    need(list, "table", 1, "table.concat")
    separator = separator == nil and "" or need(separator, "string", 2, "table.concat")
    local size = 0
    for i = from or 1, to or #list do
      size = size + #tostring(list[i]) + #separator
      check_size("table.concat", size)
    end
    return (concat(list, separator, from or 1, to or #list))
  end
  function lib.insert(list, ...)
    need(list, "table", 1, "table.insert")
    if select("#", ...) > 1 then guard:spend(#list, "table.insert") end
    insert(list, ...)
  end
  function lib.remove(list, at)
    need(list, "table", 1, "table.remove")
    if at then guard:spend(#list, "table.remove") end
    if at then return (remove(list, at)) end
    return (remove(list))
  end
  function lib.sort(list, less)
    guard:spend(#need(list, "table", 1, "table.sort") * 64, "table.sort")
    sort(list, less)
  end
  function lib.move(from, first, last, at, to)
    need(from, "table", 1, "table.move")
    if need(last, "number", 3, "table.move") - need(first, "number", 2, "table.move") > MAX_MOVE then
      error("table.move: too many elements", 0)
    end
    guard:spend(last - first, "table.move")
    return (move(from, first, last, need(at, "number", 4, "table.move"), to or from))
  end
  function lib.unpack(list, first, last)
    need(list, "table", 1, "table.unpack")
    first, last = first or 1, last or #list
    if last - first > MAX_UNPACK then error("table.unpack: too many elements", 0) end
    return unpack(list, first, last)
  end
  return lib
end

local math_names = {
  "abs", "ceil", "floor", "fmod", "huge", "max", "maxinteger", "min", "mininteger", "modf", "pi",
  "tointeger", "type", "ult",
}

-- Without unpack: a tail call would hide the line; error and assert must not carry tables or hide their place.
local function basics()
  return {
    assert = function(value, message, ...)
      if value then return value, message, ... end
      error(message == nil and "assertion failed" or tostring(message), 0)
    end,
    error = function(message) error(tostring(message), 0) end,
    ipairs = ipairs, next = next, pairs = pairs, select = select, tonumber = tonumber,
    tostring = tostring, type = type, _VERSION = _VERSION,
  }
end

-- Names that people may look for, and why they are not there.
M.refused = {
  load = "policies do not load code", loadstring = "policies do not load code",
  loadfile = "policies do not load code: see include", dofile = "see include", require = "see include",
  io = "policies do not open files", os = "policies do not call the system",
  debug = "policies do not inspect the program", package = "see include",
  coroutine = "policies have no coroutines", collectgarbage = "policies do not steer the collector",
  setmetatable = "policies have no metatables", getmetatable = "policies have no metatables",
  rawget = "policies have no metatables", rawset = "policies have no metatables",
  rawequal = "policies have no metatables", rawlen = "policies have no metatables",
  pcall = "an error in a policy is an error of the policy",
  xpcall = "an error in a policy is an error of the policy",
  print = "a policy has no output", utf8 = "names are ASCII", _G = "a policy has no table of globals",
}

--- The standard part of a policy's environment, fresh; and the methods that strings have while a policy runs.
---@param guard lattice.policy.Guard
---@return table<string, any> names
---@return table<string, function> methods
function M.new(guard)
  local names = basics()
  names.string, names.table, names.math = string_library(guard), table_library(guard), {}
  for _, name in ipairs(math_names) do names.math[name] = math[name] end
  return names, string_library(guard)
end

return M
