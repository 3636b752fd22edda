-- From checked rules to the rules that every enforcer reads (the IR): plain data, numbered, in order.
local print_ = require("lattice.policy.print")
local terms = require("lattice.policy.terms")

local M = {}

local loopback = {
  { family = 4, addr = "127.0.0.0", len = 8 },
  { family = 6, addr = "::1", len = 128 },
}

local function add_item(rule, item, mesh)
  local kind = item.kind
  if kind == "any" then
    rule.any = true
  elseif kind == "prefix" or kind == "range" then
    for _, p in ipairs(item.prefixes) do rule.prefixes[#rule.prefixes + 1] = p end
  elseif kind == "name" then
    rule.names[#rule.names + 1] = item.name
  elseif kind == "set" then
    for _, inner in ipairs(item.items) do add_item(rule, inner, mesh) end
  elseif kind == "host" then
    -- Only a rule that lets pass takes the host's ports out of the sandbox's own loopback.
    rule.host = terms.opens[rule.action] or false
    for _, p in ipairs(loopback) do rule.prefixes[#rule.prefixes + 1] = p end
  elseif kind == "mesh" then
    for _, p in ipairs(mesh) do rule.prefixes[#rule.prefixes + 1] = p end
  end
end

--- One checked rule as a rule of the IR.
---@param checked table  from check.lua
---@param id integer
---@param mesh table[]  prefixes of the mesh
---@return table rule
function M.rule(checked, id, mesh)
  local rule = {
    id = id, action = checked.action, dir = checked.dir, protos = checked.protos,
    any = false, prefixes = {}, names = {}, host = false, ports = checked.ports,
    reason = checked.reason, log = checked.log, rate = checked.rate, ttl = checked.ttl,
    private = checked.private or false, errno = checked.errno, subject = checked.subject,
    file = checked.source.name, line = checked.line, col = checked.col,
    where = checked.source.name .. ":" .. checked.line,
  }
  -- A subject that the enforcer cannot tell: what it would open stays shut, what it refuses is refused for all.
  if not (rule.subject and terms.opens[rule.action]) then
    for _, item in ipairs(checked.dests) do add_item(rule, item, mesh) end
  end
  rule.text = print_.line(rule, checked.dests)
  return rule
end

--- May every name be resolved? (A rule or the default lets flows to any address pass.)
---@param default string
---@param rules table[]
---@return boolean
function M.names_open(default, rules)
  if default == "allow" or default == "audit" then return true end
  for _, rule in ipairs(rules) do
    if rule.any and rule.dir == "out" and (rule.action == "allow" or rule.action == "audit") then
      return true
    end
  end
  return false
end

return M
