-- From checked rules to the rules that every enforcer reads (the IR): plain data, numbered, in order.
local print_ = require("lattice.policy.print")
local terms = require("lattice.policy.terms")

local M = {}

local loopback = {
  { family = 4, addr = "127.0.0.0", len = 8 },
  { family = 6, addr = "::1", len = 128 },
}

local EMPTY = {} -- shared by all rules without names or prefixes: nobody writes to a lowered rule
M.EMPTY = EMPTY

local function append(rule, field, value)
  if rule[field] == EMPTY then rule[field] = {} end
  local list = rule[field]
  list[#list + 1] = value
end

local function append_all(rule, prefixes)
  for _, p in ipairs(prefixes) do append(rule, "prefixes", p) end
end

local function add_item(rule, item, mesh)
  local kind = item.kind
  if kind == "any" then
    rule.any = true
  elseif kind == "prefix" or kind == "range" then
    append_all(rule, item.prefixes)
  elseif kind == "name" then
    append(rule, "names", item.name)
  elseif kind == "set" then
    for _, inner in ipairs(item.items) do add_item(rule, inner, mesh) end
  elseif kind == "host" then
    -- Only a rule that lets pass takes the host's ports out of the sandbox's own loopback.
    rule.host = terms.opens[rule.action] or false
    append_all(rule, loopback)
  elseif kind == "mesh" then
    append_all(rule, mesh)
  end
end

local options = { "reason", "log", "rate", "ttl", "errno", "subject" }

--- One checked rule as a rule of the IR. It and what it holds may be shared: it is never changed again.
---@param checked table  from check.lua
---@param id integer
---@param mesh table[]  prefixes of the mesh
---@return table rule
function M.rule(checked, id, mesh)
  local dests = checked.dests
  local rule = {
    id = id, action = checked.action, dir = checked.dir, protos = checked.protos, any = false,
    prefixes = EMPTY, names = EMPTY, host = false, ports = checked.ports,
    private = checked.private or false, file = checked.source.name, line = checked.line,
    where = checked.source.name .. ":" .. checked.line, text = nil,
  }
  for _, key in ipairs(options) do
    if checked[key] ~= nil then rule[key] = checked[key] end
  end
  -- A subject that the enforcer cannot tell: what it would open stays shut, what it refuses is refused for all.
  if rule.subject and terms.opens[rule.action] then
    rule.private = false
  elseif not dests[2] and dests[1].prefixes then
    rule.prefixes = dests[1].prefixes
  else
    for _, item in ipairs(dests) do add_item(rule, item, mesh) end
  end
  rule.text = print_.line(rule, dests)
  return rule
end

--- May every name be resolved? (A rule or the default lets flows to any address pass.)
---@param default string
---@param rules (table|false)[]  false: a common rule, which is to one prefix
---@return boolean
function M.names_open(default, rules)
  if default == "allow" or default == "audit" then return true end
  for _, rule in ipairs(rules) do
    if rule and rule.any and rule.dir == "out" and (rule.action == "allow" or rule.action == "audit") then
      return true
    end
  end
  return false
end

return M
