-- From what the words recorded to checked rules: every word of a rule is resolved, every problem reported with its
-- place. A bad rule does not stop the others. Nothing here decides what a rule means; see lower.lua.
local dest = require("lattice.policy.dest")
local grammar = require("lattice.policy.grammar")
local options = require("lattice.policy.options")
local terms = require("lattice.policy.terms")

local M = {}

local find = string.find

---@class lattice.policy.Checker
---@field problems lattice.policy.Problems
---@field sets table<string, table>
local Checker = {}
Checker.__index = Checker

--- sets: name -> { elements = {string...}, source, line }
---@param problems lattice.policy.Problems
---@param sets table<string, table>
---@return lattice.policy.Checker
function M.new(problems, sets)
  local self = setmetatable({
    problems = problems, sets = sets, proto_cache = {}, port_cache = {}, raw = nil,
  }, Checker)
  -- reports a problem of the rule in hand
  function self.report(problem, text) problems:report(self.raw.source, self.raw.line, problem, text) end
  return self
end

-- Lists are resolved once for each text that occurs: `cache` keeps what had no problem.

local NONE = {} -- in a cache: the text is good and sets no bound ("any")

--- Protocols of a list of items: true and a list, or nil for any; false when there is a problem.
local function read_protos(items, report)
  local list, seen, any, good = {}, {}, false, true
  for _, item in ipairs(items) do
    local number, message, expected, suggestion = terms.proto(item.text)
    if not number then
      good = false
      report({ message = message, expected = expected, suggestion = suggestion, pos = item.pos },
        item.raw)
    elseif number == "any" then
      any = true
    elseif not seen[number] then
      seen[number], list[#list + 1] = true, number
    end
  end
  if any and #list > 0 then
    report({ message = "'any' already covers the other protocols", pos = items[1].pos }, items[1].raw)
    good = false
  end
  return good, not any and list or nil
end

--- The items of a set, checked once; problems point to the set.
function Checker:set_items(name, trail)
  local set = self.sets[name]
  if set.items then return set.items end
  set.items = {}
  trail = trail or {}
  trail[name] = true
  for _, element in ipairs(set.elements) do
    local item, problem = dest.classify(element:lower(), self.sets)
    if item and dest.words[item.kind] then
      item, problem = nil, { message = ("'%s' cannot stand in a set"):format(element),
        expected = "addresses, prefixes, ranges, names or other sets" }
    elseif item and item.kind == "set" and trail[item.set] then
      item, problem = nil, { message = ("set '%s' contains itself"):format(item.set) }
    end
    if not item then
      self.problems:report(set.source, set.line, problem, element)
    elseif item.kind == "set" then
      for _, inner in ipairs(self:set_items(item.set, trail)) do
        set.items[#set.items + 1] = inner
      end
    else
      set.items[#set.items + 1] = item
    end
  end
  trail[name] = nil
  return set.items
end

--- One destination; nil after its problem was reported.
function Checker:dest(text, pos, raw)
  local item, problem = dest.classify(text, self.sets)
  if not item then
    problem.pos = pos + (problem.at or 1) - 1
    self.report(problem, raw)
  elseif item.kind == "set" then
    item.items = self:set_items(item.set)
  end
  return item
end

function Checker:dests(items)
  local list, good = {}, true
  for _, given in ipairs(items) do
    local item = self:dest(given.text, given.pos, given.raw)
    list[#list + 1] = item
    good = good and item ~= nil
  end
  return good, list
end

local function read_ports(items, report)
  local list, good = {}, true
  for i, item in ipairs(items) do
    local lo, hi, message, expected, suggestion = terms.port(item.text)
    if lo then
      list[i] = { lo, hi }
    else
      good = false
      report({ message = message, expected = expected, suggestion = suggestion, pos = item.pos },
        item.raw)
    end
  end
  return good, list
end

--- Only some protocols have ports.
local function check_ported(protos, pos, raw, report)
  for _, proto in ipairs(protos or NONE) do
    if not terms.with_ports[proto] then
      report({ message = ("%s has no ports"):format(terms.proto_names[proto] or "protocol " .. proto),
        expected = "'port' only with tcp, udp or any", pos = pos }, raw)
      return false
    end
  end
  return true
end

local way_of = { out = "to", ["in"] = "from" }

--- `out` goes to, `in` comes from.
local function check_way(dir, way, pos, raw, report)
  if way_of[dir] == way then return true end
  if dir == "in" then
    report({ message = "an 'in' rule names where the flow comes from", expected = "'from'", pos = pos },
      raw)
  else
    report({ message = "'from' belongs to the direction 'in'", pos = pos,
      suggestion = raw and "in " .. raw:gsub("^%s*out%s+", "") or 'dir = "in"' }, raw)
  end
  return false
end

local function split(text, pos, raw)
  local items = grammar.split(text, pos)
  for _, item in ipairs(items) do item.raw = raw end
  return items
end

--- read(split(...)), once for each text.
local function cached(cache, read, text, pos, raw, report)
  local known = cache[text]
  if known then return true, known ~= NONE and known or nil end
  local good, value = read(split(text, pos, raw), report)
  if good then cache[text] = value or NONE end
  return good, value
end

function Checker:rule_text(text, raw)
  local report = self.report
  local tree, err = grammar.rule(text)
  if not tree then
    local action, rest = text:match("^%s*(%a+)%s+(.*)$")
    if action and terms.actions[action:lower()] then
      err = { message = ("the action '%s' stands before the string"):format(action),
        suggestion = ("%s \"%s\""):format(action:lower(), rest), pos = text:find("%S") }
    end
    report(err, text)
    return nil
  end
  local dir = tree.dir or "out"
  if not check_way(dir, tree.way, tree.way_pos, text, report) then return nil end
  local good_protos, protos = cached(self.proto_cache, read_protos, tree.protos, tree.protos_pos, text, report)
  local good_dests, dests
  if find(tree.dests, ",", 1, true) then
    good_dests, dests = self:dests(split(tree.dests, tree.dests_pos, text))
  else -- most rules
    local item = self:dest(tree.dests, tree.dests_pos, text)
    good_dests, dests = item ~= nil, { item }
  end
  local good_ports, ports = true, nil
  if tree.ports then
    good_ports, ports = cached(self.port_cache, read_ports, tree.ports, tree.ports_pos, text, report)
    if good_protos and not check_ported(protos, tree.ports_pos, text, report) then return nil end
  end
  if not (good_protos and good_dests and good_ports) then return nil end
  local rule = {
    action = raw.action, source = raw.source, line = raw.line, dir = dir, protos = protos, dests = dests,
    ports = ports,
  }
  if tree.subject then rule.subject = { name = tree.subject } end
  return rule
end

--- A field of the table form as items: a string with commas, a number, or a list of those.
local function field_items(key, value, report)
  local list = {}
  local values = type(value) == "table" and value or { value }
  for _, one in ipairs(values) do
    if math.type(one) == "integer" then
      list[#list + 1] = { text = tostring(one), pos = 1, raw = tostring(one) }
    elseif type(one) == "string" then
      local tree, err = grammar.list(one)
      if not tree then
        report(err, one)
        return nil
      end
      for _, item in ipairs(split(tree.items, tree.items_pos, one)) do list[#list + 1] = item end
    else
      report({ message = ("%s cannot be a %s"):format(key, type(one)), expected = "text or a list" }, key)
      return nil
    end
  end
  if #list == 0 then
    report({ message = key .. " is empty" }, key)
    return nil
  end
  return list
end

function Checker:rule_table(given, rule)
  local report = self.report
  local good = options.read(given, rule, options.match_keys, report)
  local way = given.to ~= nil and "to" or "from"
  if given.to == nil and given.from == nil or given.to ~= nil and given.from ~= nil then
    report({ message = given.to and "a rule has 'to' or 'from', not both" or "the rule names no place",
      expected = "to = \"...\" or, with dir = \"in\", from = \"...\"" })
    return false
  end
  if given.proto == nil then
    report({ message = "the rule names no protocol", expected = "proto = \"tcp\" or \"any\"" })
    return false
  end
  rule.dir = given.dir or (way == "from" and "in" or "out")
  if not way_of[rule.dir] then
    report({ message = ("dir cannot be '%s'"):format(tostring(given.dir)), expected = "\"in\" or \"out\"" })
    return false
  end
  if not check_way(rule.dir, way, 1, nil, report) then return false end
  local protos = field_items("proto", given.proto, report)
  local dests = field_items(way, given[way], report)
  local good_protos, good_dests, good_ports = protos ~= nil, dests ~= nil, true
  if protos then good_protos, rule.protos = read_protos(protos, report) end
  if dests then good_dests, rule.dests = self:dests(dests) end
  if given.port ~= nil then
    local ports = field_items("port", given.port, report)
    good_ports = ports ~= nil and check_ported(rule.protos, ports[1].pos, ports[1].raw, report)
    if good_ports then good_ports, rule.ports = read_ports(ports, report) end
  end
  return good and good_protos and good_dests and good_ports
end

local function quiet() end

--- For fast.lua: is this a rule whose single place begins at `place`, without a subject? Its direction and protocols.
---@param text string
---@param place integer
---@return boolean good
---@return string? dir
---@return integer[]? protos
function Checker:opening(text, place)
  local tree = grammar.rule(text)
  if not tree or tree.dests_pos ~= place or tree.subject or find(tree.dests, ",", 1, true) then return false end
  local dir = tree.dir or "out"
  if not check_way(dir, tree.way, tree.way_pos, text, quiet) then return false end
  local good, protos = cached(self.proto_cache, read_protos, tree.protos, tree.protos_pos, text, quiet)
  return good, dir, protos
end

local readers = { proto = read_protos, port = read_ports }

--- For fast.lua: the meaning of a field "proto" or "port", if it has no problem.
---@param key "proto"|"port"
---@param value string|integer
---@return boolean good
---@return table? list
function Checker:field(key, value)
  local items = field_items(key, value, quiet)
  if not items then return false end
  return readers[key](items, quiet)
end

--- One recorded rule { action, arg, options, source, line }, checked; nil when it has a problem.
---@param raw table
---@return table? rule
function Checker:rule(raw)
  self.raw = raw
  if type(raw.arg) == "string" then
    local rule = self:rule_text(raw.arg, raw)
    if not raw.options then return rule end
    local good = options.read(raw.options, rule or {}, NONE, self.report)
    return good and rule or nil
  end
  if raw.options then
    self.report({ message = "the table form takes its options in the table" })
    return nil
  end
  local rule = { action = raw.action, source = raw.source, line = raw.line }
  return self:rule_table(raw.arg, rule) and rule or nil
end

return M
