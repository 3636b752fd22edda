-- Which verdict events a reader wants. Of one kind any may hold (OR), different kinds must all hold (AND). The same
-- filter works in the agent, and on events from a file.
local addr = require("lattice.policy.addr")
local terms = require("lattice.policy.terms")

local M = {}

---@class lattice.control.Filter
---@field denied? boolean     what was refused
---@field protos? string[]    "tcp", "6"
---@field to? string[]        remote address or prefix
---@field ports? string[]     "443", "8000-8999"
---@field dir? "out"|"in"
---@field rules? integer[]    0: the default
---@field devices? string[]

local function proto_test(words)
  local wanted = {}
  for _, word in ipairs(words) do
    local number = terms.proto(tostring(word))
    if type(number) ~= "number" then return nil, ("unknown protocol '%s'"):format(word) end
    wanted[number] = true
  end
  return function(event) return wanted[event.proto] or false end
end

local function prefix_test(words)
  local list = {}
  for i, word in ipairs(words) do
    local text, len = tostring(word):match("^([^/]+)/?(%d*)$")
    local family, hi, lo = addr.parse_flat(text or "")
    local bits = family == 4 and 32 or 128
    len = len ~= "" and math.tointeger(tonumber(len)) or bits
    if not family or not len or len > bits then
      return nil, ("'%s' is no address and no prefix"):format(word)
    end
    local mask_hi, mask_lo = addr.mask(family, len)
    list[i] = { family = family, hi = hi & mask_hi, lo = lo & mask_lo, mask_hi = mask_hi, mask_lo = mask_lo }
  end
  return function(event)
    local family, hi, lo = addr.parse_flat(event.addr or "")
    for _, one in ipairs(list) do
      if family == one.family and hi & one.mask_hi == one.hi and lo & one.mask_lo == one.lo then return true end
    end
    return false
  end
end

local function port_test(words)
  local list = {}
  for i, word in ipairs(words) do
    local low, high = tostring(word):match("^(%d+)%-?(%d*)$")
    low, high = math.tointeger(tonumber(low)), math.tointeger(tonumber(high)) or math.tointeger(tonumber(low))
    if not low or low > high or high > 65535 then return nil, ("'%s' is no port and no range"):format(word) end
    list[i] = { low, high }
  end
  return function(event)
    for _, range in ipairs(list) do
      if event.port and event.port >= range[1] and event.port <= range[2] then return true end
    end
    return false
  end
end

local function member_test(field, convert)
  return function(words)
    local wanted = {}
    for _, word in ipairs(words) do
      local value = convert(word)
      if value == nil then return nil, ("'%s' is no %s"):format(tostring(word), field) end
      wanted[value] = true
    end
    return function(event) return wanted[event[field]] or false end
  end
end

local makers = {
  protos = proto_test, to = prefix_test, ports = port_test,
  rules = member_test("rule", function(word) return math.tointeger(tonumber(word)) end),
  devices = member_test("device", function(word) return type(word) == "string" and word or nil end),
}

--- A function that tells whether an event is wanted; nil and what is wrong with the filter.
---@param spec lattice.control.Filter
---@return (fun(event: table): boolean)?
---@return string? why
function M.compile(spec)
  local tests = {}
  if spec.denied then
    tests[1] = function(event) return event.verdict == "deny" end
  end
  if spec.dir ~= nil then
    if spec.dir ~= "in" and spec.dir ~= "out" then return nil, "a direction is 'in' or 'out'" end
    tests[#tests + 1] = function(event) return event.dir == spec.dir end
  end
  for kind, make in pairs(makers) do
    local words = spec[kind]
    if words ~= nil and type(words) ~= "table" then return nil, kind .. ": a list is expected" end
    if words and #words > 0 then
      local test, why = make(words)
      if not test then return nil, why end
      tests[#tests + 1] = test
    end
  end
  return function(event)
    for _, test in ipairs(tests) do
      if not test(event) then return false end
    end
    return true
  end
end

--- What of it the event source can look at itself, before it makes a table of an event.
---@param spec lattice.control.Filter
---@return table
function M.narrow(spec)
  local function only(list) return list and #list == 1 and list[1] or nil end
  local proto, port = only(spec.protos), only(spec.ports)
  local number = proto and terms.proto(tostring(proto))
  return {
    verdict = spec.denied and "deny" or nil, dir = spec.dir, proto = type(number) == "number" and number or nil,
    port = math.tointeger(tonumber(port)), rule = math.tointeger(tonumber(only(spec.rules))),
  }
end

return M
