-- The oracle: what a policy says about one flow, by a linear scan over the rules. Every enforcer must agree with it.
local addr = require("lattice.policy.addr")
local names = require("lattice.policy.names")
local terms = require("lattice.policy.terms")

local M = {}


-- Numbers of prefixes, by the prefix table itself: the IR stays plain data.
local numbers = setmetatable({}, { __mode = "k" })

local function prefix_numbers(p)
  local n = numbers[p]
  if not n then
    local family, hi, lo = addr.parse(p.addr)
    assert(family == p.family, "prefix of another family")
    local mask_hi, mask_lo = addr.mask(family, p.len)
    n = { family, hi, lo, mask_hi, mask_lo }
    numbers[p] = n
  end
  return n
end

local function has_port(rule, port)
  for _, range in ipairs(rule.ports) do
    if port >= range[1] and port <= range[2] then return true end
  end
  return false
end

local function has(list, value)
  for _, one in ipairs(list) do
    if one == value then return true end
  end
  return false
end

local function covers(prefixes, family, hi, lo)
  for _, p in ipairs(prefixes) do
    local n = prefix_numbers(p)
    if n[1] == family and hi & n[4] == n[2] and lo & n[5] == n[3] then return true end
  end
  return false
end

local function name_matches(patterns, flow_names)
  for _, pattern in ipairs(patterns) do
    for _, name in ipairs(flow_names) do
      if names.matches(pattern, name) then return true end
    end
  end
  return false
end

--- The numbers that a scan needs of a flow; the flow itself is not changed.
local function prepare(flow)
  local f = { dir = flow.dir, proto = flow.proto, port = flow.port or 0, names = flow.names or {} }
  if flow.addr then
    f.family, f.hi, f.lo = addr.parse_flat(flow.addr)
    assert(f.family, "the flow's address is not an address")
    f.private = addr.is_private(f.family, f.hi, f.lo)
  end
  return f
end

--- nil when the rule matches, else why not.
local function mismatch(rule, f)
  if rule.dir ~= f.dir then
    return rule.dir == "in" and "it is for flows that come in" or "it is for flows that go out"
  end
  if rule.protos and not has(rule.protos, f.proto) then return "another protocol" end
  if rule.ports then
    if not terms.with_ports[f.proto] then return "it names ports, this protocol has none" end
    if not has_port(rule, f.port) then return "another port" end
  end
  if rule.any then return nil end
  if rule.subject and terms.opens[rule.action] then return "its subject cannot be judged here" end
  if f.family and covers(rule.prefixes, f.family, f.hi, f.lo) then return nil end
  if rule.names[1] and f.names[1] and name_matches(rule.names, f.names) then
    if not f.private or rule.private then return nil end
    if rule.action == "deny" or rule.action == "drop" then return nil end
    return "the name leads to a private address, and the rule does not say private = true"
  end
  if not rule.names[1] then
    return f.family and "another address" or "no address is known for the name yet"
  end
  if f.names[1] then return "another name" end
  return rule.prefixes[1] and "another address, and no name of the rule is pinned to it"
    or "no name of the rule is pinned to this address"
end

local passes = { allow = "allow", audit = "allow", deny = "deny", drop = "deny", ask = "deny" }

local function verdict(policy, rule)
  if rule then
    return {
      verdict = passes[rule.action], action = rule.action, rule = rule.id, where = rule.where,
      reason = rule.reason,
    }
  end
  return { verdict = passes[policy.default], action = policy.default, rule = 0, where = "default" }
end

--- First match, else the default. `ask` without an answer is a denial.
---@param policy table
---@param flow table  { dir, proto, addr?, port?, names? }
---@return table verdict  { verdict, action, rule, where, reason? }
function M.judge(policy, flow)
  local f = prepare(flow)
  for _, rule in ipairs(policy.rules) do
    if not mismatch(rule, f) then return verdict(policy, rule) end
  end
  return verdict(policy, nil)
end

--- Like judge, and tells of each rule before the deciding one why it did not match.
---@param policy table
---@param flow table
---@return table verdict
---@return table[] passed_over  { rule, why }
function M.explain(policy, flow)
  local f, passed = prepare(flow), {}
  for _, rule in ipairs(policy.rules) do
    local why = mismatch(rule, f)
    if not why then return verdict(policy, rule), passed end
    passed[#passed + 1] = { rule = rule, why = why }
  end
  return verdict(policy, nil), passed
end

return M
