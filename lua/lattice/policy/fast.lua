-- The common rules, straight to the IR: one IPv4 prefix, one port list, no options but a reason. What such a rule means is
-- put together from parts that check.lua and the grammar have read once (what stands before the place, the ports), so a
-- hundred thousand of them cost no parse each. Whatever is not exactly of that form, or not right, is left to check.lua
-- and lower.lua: they report problems, and they give the same rule.
local addr = require("lattice.policy.addr")
local lower = require("lattice.policy.lower")
local print_ = require("lattice.policy.print")
local terms = require("lattice.policy.terms")

local M = {}

local match, tointeger, next, type = string.match, math.tointeger, next, type

local MAX_HEADS = 64 -- texts before the place that are learned: an odd policy has many, once each

local PLACE = "((%d+)%.(%d+)%.(%d+)%.(%d+))(/?%d*)"
local RULE = "^([%l, ]+)" .. PLACE .. "(.*)$"
local ALONE = "^" .. PLACE .. "$"

local octets, lengths, masks = {}, { [""] = 32 }, {}
for i = 0, 255 do octets[tostring(i)] = i end
for i = 0, 32 do
  lengths["/" .. i] = i
  local _, mask = addr.mask(4, i)
  masks[i] = mask
end

---@class lattice.policy.Fast
local Fast = {}
Fast.__index = Fast

---@param checker lattice.policy.Checker
---@return lattice.policy.Fast
function M.new(checker)
  return setmetatable({ checker = checker, heads = {}, head_count = 0, tails = {}, protos = {}, ports = {} }, Fast)
end

local function ported(protos)
  for _, proto in ipairs(protos or {}) do
    if not terms.with_ports[proto] then return false end
  end
  return true
end

local function shape(dir, protos)
  local out = { dir = dir, protos = protos, ported = ported(protos) }
  for _, action in ipairs(terms.action_words) do out[action] = print_.opening(action, dir, protos) end
  return out
end

local function port_list(good, ports)
  return good and { ports = ports, text = print_.ports(ports) .. '"' }
end

--- A field "port": the list and how it is printed, or false.
function Fast:port(value)
  local known = self.ports[value]
  if known ~= nil then return known end
  local number = type(value) == "string" and match(value, "^%d%d?%d?%d?%d?$") and tointeger(value)
    or math.type(value) == "integer" and value
  if number and number >= 1 and number <= 65535 then
    known = { ports = { { number, number } }, text = " port " .. number .. '"' }
  else
    known = port_list(self.checker:field("port", value))
  end
  self.ports[value] = known
  return known
end

--- What stands before the place in `text`: false when it is not for here.
function Fast:head(text, head)
  local known = false
  if self.head_count < MAX_HEADS then
    self.head_count = self.head_count + 1
    local good, dir, protos = self.checker:opening(text, #head + 1)
    if good then known = shape(dir, protos) end
    self.heads[head] = known
  end
  return known
end

--- What stands behind the place.
function Fast:tail(tail)
  local text = match(tail, "^ port ([%l%d, -]+)$")
  local known = text ~= nil and self:port(text)
  self.tails[tail] = known
  return known
end

local NO_PORTS = { ports = nil, text = '"' }

local function build(raw, id, form, ports, reason, plain, a, b, c, d, slash)
  local len = lengths[slash]
  a, b, c, d = octets[a], octets[b], octets[c], octets[d]
  if not (len and a and b and c and d) then return nil end
  local value = a << 24 | b << 16 | c << 8 | d
  if value & masks[len] ~= value then return nil end
  local name, line = raw.source.name, raw.line
  return {
    id = id, action = raw.action, dir = form.dir, protos = form.protos, any = false,
    prefixes = { { family = 4, addr = plain, len = len } }, names = lower.EMPTY, host = false, ports = ports.ports,
    private = false, file = name, line = line, where = name .. ":" .. line,
    text = form[raw.action] .. plain .. (len == 32 and "" or slash) .. ports.text, reason = reason,
  }
end

function Fast:text(raw, id)
  local text = raw.arg
  local head, plain, a, b, c, d, slash, tail = match(text, RULE)
  if not head then return nil end
  local form, ports = self.heads[head], NO_PORTS
  if form == nil then form = self:head(text, head) end
  if tail ~= "" then
    ports = self.tails[tail]
    if ports == nil then ports = self:tail(tail) end
  end
  if not form or not ports or ports ~= NO_PORTS and not form.ported then return nil end
  return build(raw, id, form, ports, nil, plain, a, b, c, d, slash)
end

local fields = { proto = "string", to = "string", port = true, reason = "string" }

function Fast:fields(raw, id)
  local given = raw.arg
  for key, value in next, given do
    local kind = fields[key]
    if not kind or kind ~= true and type(value) ~= kind then return nil end
  end
  local proto, to, port, reason = given.proto, given.to, given.port, given.reason
  if not proto or not to then return nil end
  if reason and (reason == "" or #reason > 200 or match(reason, "%c")) then return nil end
  local form, ports = self.protos[proto], NO_PORTS
  if form == nil then
    local good, protos = self.checker:field("proto", proto)
    form = good and shape("out", protos)
    self.protos[proto] = form
  end
  if port ~= nil then
    ports = (type(port) == "string" or math.type(port) == "integer") and self:port(port)
  end
  if not form or not ports or ports ~= NO_PORTS and not form.ported then return nil end
  local plain, a, b, c, d, slash = match(to, ALONE)
  if not plain then return nil end
  return build(raw, id, form, ports, reason, plain, a, b, c, d, slash)
end

--- The rule of the IR for a recorded rule { action, arg, options, source, line }; nil: it takes the long way.
---@param raw table
---@param id integer
---@return table? rule
function Fast:rule(raw, id)
  if raw.options then return nil end
  if type(raw.arg) == "string" then return self:text(raw, id) end
  return self:fields(raw, id)
end

return M
