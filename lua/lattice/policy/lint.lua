-- Finds rules that can never decide: one rule before them matches all that they match.
local addr = require("lattice.policy.addr")
local names = require("lattice.policy.names")
local terms = require("lattice.policy.terms")

local M = {}

local MAX_RULES = 2000 -- each is compared with all before it

local function has(list, value)
  for _, one in ipairs(list) do
    if one == value then return true end
  end
  return false
end

local function protos_cover(a, b)
  if not a.protos then return true end
  if not b.protos then -- any protocol: with ports that means tcp and udp
    return b.ports ~= nil and has(a.protos, 6) and has(a.protos, 17)
  end
  for _, proto in ipairs(b.protos) do
    if not has(a.protos, proto) then return false end
  end
  return true
end

local function ports_cover(a, b)
  if not a.ports then return true end
  if not b.ports then return false end
  for _, wanted in ipairs(b.ports) do
    local covered = false
    for _, range in ipairs(a.ports) do
      covered = covered or range[1] <= wanted[1] and wanted[2] <= range[2]
    end
    if not covered then return false end
  end
  return true
end

local function prefix_covers(a, b)
  if a.family ~= b.family or a.len > b.len then return false end
  local _, a_hi, a_lo = addr.parse(a.addr)
  local _, b_hi, b_lo = addr.parse(b.addr)
  local mask_hi, mask_lo = addr.mask(a.family, a.len)
  return b_hi & mask_hi == a_hi and b_lo & mask_lo == a_lo
end

local function name_covers(a, b)
  if a == b then return true end
  if a:sub(1, 2) ~= "*." then return false end
  return names.matches(a, b:sub(1, 2) == "*." and b:sub(3) or b)
    or b:sub(1, 2) == "*." and a:sub(3) == b:sub(3)
end

local function all_covered(a, b, field, covers)
  for _, wanted in ipairs(b[field]) do
    local covered = false
    for _, one in ipairs(a[field]) do covered = covered or covers(one, wanted) end
    if not covered then return false end
  end
  return true
end

local function covers(a, b)
  if a.dir ~= b.dir or a.subject or not protos_cover(a, b) or not ports_cover(a, b) then return false end
  if a.any then return true end
  if b.any or not all_covered(a, b, "prefixes", prefix_covers) then return false end
  -- a rule that opens leaves the private addresses of its names to later rules
  if b.names[1] and terms.opens[a.action] and not a.private and (b.private or not terms.opens[b.action]) then
    return false
  end
  return all_covered(a, b, "names", name_covers)
end

--- Warnings for rules that a single earlier rule makes unreachable.
---@param policy table
---@return table[] warnings  { file, line, message, text }
function M.unreachable(policy)
  local found = {}
  if #policy.rules > MAX_RULES then return found end
  for i, rule in ipairs(policy.rules) do
    local empty = not rule.any and not rule.prefixes[1] and not rule.names[1]
    for j = 1, empty and 0 or i - 1 do
      if covers(policy.rules[j], rule) then
        found[#found + 1] = {
          file = rule.file, line = rule.line, text = rule.text,
          message = ("this rule never decides: %s, %s, matches all of it first"):format(
            policy.rules[j].where, policy.rules[j].text),
        }
        break
      end
    end
  end
  return found
end

return M
