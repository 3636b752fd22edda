-- Text of rules and policies: the canonical line of a rule, and a stable dump of a whole policy for golden tests.
local suggest = require("lattice.policy.suggest")
local terms = require("lattice.policy.terms")

local M = {}

local concat = table.concat

local function protos_text(protos)
  if not protos then return "any" end
  if not protos[2] then return terms.proto_names[protos[1]] or tostring(protos[1]) end
  local parts = {}
  for i, proto in ipairs(protos) do parts[i] = terms.proto_names[proto] or tostring(proto) end
  return concat(parts, ", ")
end

local known_ports = setmetatable({}, { __mode = "k" }) -- rules share their port lists

local function ports_text(ports)
  local known = known_ports[ports]
  if known then return known end
  local parts = {}
  for i, range in ipairs(ports) do
    parts[i] = range[1] == range[2] and tostring(range[1]) or range[1] .. "-" .. range[2]
  end
  known = " port " .. concat(parts, ", ")
  known_ports[ports] = known
  return known
end

local function prefix_text(p)
  if p.len == (p.family == 4 and 32 or 128) then return p.addr end
  return p.addr .. "/" .. p.len
end

--- The places of a rule of the IR, for rules that were not written by hand.
local function places(rule)
  local parts = {}
  if rule.any then parts[1] = "any" end
  for _, p in ipairs(rule.prefixes or {}) do parts[#parts + 1] = prefix_text(p) end
  for _, name in ipairs(rule.names or {}) do
    parts[#parts + 1] = name:find(".", 1, true) and name or name .. "."
  end
  return concat(parts, ", ")
end

local function item_texts(items)
  if not items[2] then return items[1].text end
  local parts = {}
  for i, item in ipairs(items) do parts[i] = item.text end
  return concat(parts, ", ")
end

--- The ports of a rule as they stand in its line.
M.ports = ports_text

--- A line up to its places.
---@param action string
---@param dir string
---@param protos? integer[]
---@return string
function M.opening(action, dir, protos)
  local incoming = dir == "in"
  return action .. (incoming and ' "in ' or ' "') .. protos_text(protos) .. (incoming and " from " or " to ")
end

--- The rule as a line of a policy, without its options: allow "tcp to 10.0.0.0/8 port 22"
---@param rule table
---@param items? table[]  checked items; default: the rule's prefixes and names
---@return string
function M.line(rule, items)
  local subject = rule.subject and rule.subject.name
  return M.opening(rule.action, rule.dir, rule.protos) .. (items and item_texts(items) or places(rule))
    .. (rule.ports and ports_text(rule.ports) or "") .. (subject and " for '" .. subject .. "'" or "") .. '"'
end

--- A flow as text, as flow.lua reads it.
---@param flow table
---@return string
function M.flow(flow)
  local name = flow.names and flow.names[1]
  if name and not name:find(".", 1, true) then name = name .. "." end
  local text = (flow.dir == "in" and "in " or "") .. (terms.proto_names[flow.proto] or flow.proto)
    .. (flow.dir == "in" and " from " or " to ") .. (name or flow.addr)
  if name and flow.addr then text = text .. " at " .. flow.addr end
  if flow.port and terms.with_ports[flow.proto] then text = text .. " port " .. flow.port end
  return text
end

local function value_text(value)
  if type(value) == "string" then return ("%q"):format(value):gsub("\\\n", "\\n") end
  if type(value) ~= "table" then return tostring(value) end
  local parts = {}
  for _, one in ipairs(value) do parts[#parts + 1] = (value_text(one)) end
  for _, key in ipairs(suggest.keys(value)) do
    parts[#parts + 1] = key .. "=" .. value_text(value[key])
  end
  return "{" .. concat(parts, " ") .. "}"
end

local rule_options = { "reason", "log", "rate", "ttl", "private", "errno", "subject" }

local function rule_lines(rule, out)
  out[#out + 1] = ("rule %d %s  # %s"):format(rule.id, rule.text, rule.where)
  if rule.any then out[#out + 1] = "  any" end
  for _, p in ipairs(rule.prefixes) do
    out[#out + 1] = ("  prefix %d %s/%d"):format(p.family, p.addr, p.len)
  end
  for _, name in ipairs(rule.names) do out[#out + 1] = "  name " .. name end
  if rule.host then out[#out + 1] = "  host" end
  for _, proto in ipairs(rule.protos or {}) do out[#out + 1] = "  proto " .. proto end
  for _, range in ipairs(rule.ports or {}) do
    out[#out + 1] = ("  ports %d-%d"):format(range[1], range[2])
  end
  for _, key in ipairs(rule_options) do
    local value = rule[key]
    if value ~= nil and not (key == "private" and value == false) then
      out[#out + 1] = ("  %s %s"):format(key, value_text(value))
    end
  end
end

--- A policy as text, the same for the same policy on every machine.
---@param policy table
---@return string
function M.dump(policy)
  local out = { "policy " .. value_text(policy.name), "default " .. policy.default }
  if policy.keep_established then out[#out + 1] = "keep_established" end
  if policy.names_open then out[#out + 1] = "names_open" end
  for _, key in ipairs(suggest.keys(policy.limits)) do
    out[#out + 1] = ("limit %s %s"):format(key, policy.limits[key])
  end
  for _, route in ipairs(policy.audit) do out[#out + 1] = "audit " .. value_text(route) end
  for _, path in ipairs(policy.unix) do out[#out + 1] = "unix " .. value_text(path) end
  for _, name in ipairs(suggest.keys(policy.handlers)) do out[#out + 1] = "on " .. name end
  for _, rule in ipairs(policy.rules) do rule_lines(rule, out) end
  for _, test in ipairs(policy.tests) do
    out[#out + 1] = ("test %s \"%s\"  # %s"):format(test.expect, M.flow(test.flow), test.where)
  end
  return concat(out, "\n") .. "\n"
end

return M
