-- lattice diff: what a new policy changes: rules, settings and, with an audit log, the verdicts of recorded flows.
local M = {
  name = "diff",
  summary = "Compare two policies: rules, settings, and recorded flows that change verdict.",
  examples = { "lattice diff old.lua new.lua", "lattice diff old.lua new.lua --audit agent.jsonl" },
}

function M.args(parser)
  parser:argument("old", "The policy that is in force."):argname("OLD")
  parser:argument("new", "The policy that is to be."):argname("NEW")
  parser:option("--audit", "An audit log: which of its flows change verdict?"):argname("LOG")
end

local option_names = { "reason", "log", "rate", "ttl", "private", "errno" }

--- The rule with its options: two rules with the same text do the same.
local function rule_key(rule)
  local parts = { rule.text }
  for _, key in ipairs(option_names) do
    local value = rule[key]
    if value ~= nil and value ~= false or key == "log" and value == false then
      parts[#parts + 1] = ("%s=%s"):format(key, tostring(value))
    end
  end
  for _, p in ipairs(rule.prefixes) do parts[#parts + 1] = p.addr .. "/" .. p.len end
  for _, name in ipairs(rule.names) do parts[#parts + 1] = name end
  return table.concat(parts, " ")
end

--- Which of these numbers are not in the longest rising row? Those rules changed their place.
local function out_of_order(numbers)
  local tails, before, ends = {}, {}, {}
  for i, value in ipairs(numbers) do
    local lo, hi = 1, #tails + 1
    while lo < hi do
      local mid = (lo + hi) // 2
      if tails[mid] < value then lo = mid + 1 else hi = mid end
    end
    tails[lo], ends[lo] = value, i
    before[i] = ends[lo - 1]
  end
  local keep, at = {}, ends[#tails]
  while at do
    keep[at] = true
    at = before[at]
  end
  local moved = {}
  for i in ipairs(numbers) do
    if not keep[i] then moved[#moved + 1] = i end
  end
  return moved
end

local function brief(rule) return { rule = rule.id, where = rule.where, text = rule.text } end

local function compare_rules(old, new)
  local places = {} -- key -> the old rules with it, in order
  for _, rule in ipairs(old.rules) do
    local key = rule_key(rule)
    places[key] = places[key] or { next = 1 }
    places[key][#places[key] + 1] = rule
  end
  local added, removed, moved, kept, numbers, used = {}, {}, {}, {}, {}, {}
  for _, rule in ipairs(new.rules) do
    local place = places[rule_key(rule)]
    local match = place and place[place.next]
    if match then
      place.next = place.next + 1
      used[match] = true
      kept[#kept + 1], numbers[#numbers + 1] = rule, match.id
    else
      added[#added + 1] = brief(rule)
    end
  end
  for _, rule in ipairs(old.rules) do
    if not used[rule] then removed[#removed + 1] = brief(rule) end
  end
  for _, i in ipairs(out_of_order(numbers)) do
    moved[#moved + 1] = brief(kept[i])
    moved[#moved].from = numbers[i]
  end
  return added, removed, moved
end

local function compare_settings(old, new)
  local print_ = require("lattice.policy.print")
  local function settings(policy)
    local lines = {}
    for line in print_.dump({
      name = "", default = policy.default, keep_established = policy.keep_established,
      names_open = policy.names_open, limits = policy.limits, audit = policy.audit,
      unix = policy.unix, handlers = policy.handlers, rules = {}, tests = {},
    }):gmatch("[^\n]+") do
      lines[#lines + 1] = line
      lines[line] = true
    end
    return lines
  end
  local before, after, changes = settings(old), settings(new), {}
  for _, line in ipairs(before) do
    if not after[line] then changes[#changes + 1] = { change = "removed", text = line } end
  end
  for _, line in ipairs(after) do
    if not before[line] then changes[#changes + 1] = { change = "added", text = line } end
  end
  return changes
end

local function compare_flows(old, new, path, out)
  local log = require("lattice.cli.support.flowlog")
  local policy = require("lattice.policy")
  local flows, trouble = log.read(path)
  if not flows then
    out:message(trouble)
    return nil
  end
  if trouble then out:message(trouble) end
  local changes = {}
  for _, one in ipairs(flows) do
    local before, after = policy.eval.judge(old, one.flow), policy.eval.judge(new, one.flow)
    if before.action ~= after.action then
      changes[#changes + 1] = {
        flow = one.text, count = one.count, old = before.action, old_where = before.where,
        new = after.action, new_where = after.where,
      }
    end
  end
  return changes
end

local function print_human(result, out)
  local support = require("lattice.cli.support.policies")
  for _, one in ipairs(result.settings) do
    local sign = one.change == "added" and out:paint("green", "+") or out:paint("red", "-")
    out:print(("%s %s"):format(sign, one.text))
  end
  for _, one in ipairs(result.removed) do
    out:print(("%s %s  # %s"):format(out:paint("red", "-"), one.text, one.where))
  end
  for _, one in ipairs(result.added) do
    out:print(("%s %s  # %s"):format(out:paint("green", "+"), one.text, one.where))
  end
  for _, one in ipairs(result.moved) do
    out:print(("%s %s  # %s, was rule %d"):format(out:paint("yellow", "~"), one.text, one.where, one.from))
  end
  for _, one in ipairs(result.flows or {}) do
    out:print(("%s -> %s  %s (%d)  # %s -> %s"):format(support.word(one.old, out),
      support.word(one.new, out), one.flow, one.count, one.old_where, one.new_where))
  end
  if not result.differs then out:print("no difference") end
end

function M.run(args, out)
  local support = require("lattice.cli.support.policies")
  local old = support.load({ args.old }, out)
  local new = support.load({ args.new }, out)
  if not old or not new then return 2 end
  local result = { old = args.old, new = args.new }
  result.added, result.removed, result.moved = compare_rules(old, new)
  result.settings = compare_settings(old, new)
  if args.audit then
    result.flows = compare_flows(old, new, args.audit, out)
    if not result.flows then return 2 end
  end
  result.differs = #result.added + #result.removed + #result.moved + #result.settings
    + #(result.flows or {}) > 0
  if out.as_json then
    for _, key in ipairs({ "added", "removed", "moved", "settings", "flows" }) do
      if result[key] then support.array(result[key]) end
    end
    out:json("diff", result)
  else
    print_human(result, out)
  end
  return result.differs and 1 or 0
end

return M
