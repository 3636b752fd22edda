-- The choice between ways to do one thing: the strongest that a probe found to work, why each stronger one was passed
-- over, and what a caller forced. Pure: enforcer/select.lua and sandbox/select.lua bring the candidates.
local M = {}

---@class lattice.choice.Candidate
---@field name string
---@field ok boolean
---@field detail? string  what the probe found
---@field reason? string  why not
---@field code? any       402: of the pro edition
---@field only_forced? string  works, but is never chosen by itself: why

---@class lattice.choice.Choice
---@field name string
---@field reason string
---@field passed_over { name: string, reason: string }[]
---@field candidates lattice.choice.Candidate[]

---@class lattice.choice.Words
---@field noun string       "enforcer"
---@field by string         who forces: "the config"
---@field script string     the caller's function: "the config's function"

---@class lattice.choice.Wish
---@field name string       "auto", or what is forced
---@field script? fun(candidates: table[]): string?  decides first; nil or "auto": the strongest

local function by_name(candidates, name)
  for _, candidate in ipairs(candidates) do
    if candidate.name == name then return candidate end
  end
  return nil
end

local function refuse(words, candidate, how)
  local text = ("%s %s (%s) cannot be had: %s"):format(words.noun, candidate.name, how, candidate.reason)
  return nil, text, candidate.code == 402 and 402 or "unavailable"
end

-- unasked: the reason of those that no probe was asked for.
local function choice(order, candidates, chosen, how, unasked)
  local passed = {}
  for _, name in ipairs(order) do
    if name == chosen.name then break end
    local other = by_name(candidates, name)
    passed[#passed + 1] = { name = name, reason = other and (other.reason or other.only_forced) or unasked }
  end
  local reason = chosen.detail and ("%s; %s"):format(how, chosen.detail) or how
  return { name = chosen.name, reason = reason, passed_over = passed, candidates = candidates }
end

local function by_script(words, order, script, candidates)
  local view = {}
  for i, c in ipairs(candidates) do
    view[i] = { name = c.name, ok = c.ok, detail = c.detail, reason = c.reason or c.only_forced }
  end
  local ok, name = pcall(script, view)
  if not ok then return nil, ("%s failed: %s"):format(words.script, tostring(name)), "policy" end
  if name == nil or name == "auto" then return nil end
  local chosen = by_name(candidates, name)
  if not chosen then return nil, ("%s chose %s, which is none"):format(words.script, tostring(name)), "policy" end
  local how = "chosen by " .. words.script
  if not chosen.ok then return refuse(words, chosen, how) end
  return choice(order, candidates, chosen, how, words.script .. " chose another")
end

--- What the candidates and the caller's wish give.
---@param words lattice.choice.Words
---@param order string[]  the strongest first
---@param wish lattice.choice.Wish
---@param candidates lattice.choice.Candidate[]  in that order
---@return lattice.choice.Choice?
---@return string? error
---@return any code  402, "unavailable", or "policy": the caller's function is wrong
function M.choose(words, order, wish, candidates)
  if wish.script then
    local chosen, why, code = by_script(words, order, wish.script, candidates)
    if chosen or why then return chosen, why, code end
  elseif wish.name ~= "auto" then
    local chosen = by_name(candidates, wish.name)
    if not chosen then return nil, ("there is no %s %s"):format(words.noun, wish.name), "unavailable" end
    if not chosen.ok then return refuse(words, chosen, "forced by " .. words.by) end
    return choice(order, candidates, chosen, "forced by " .. words.by,
      ("not asked: %s forces %s"):format(words.by, chosen.name))
  end
  local lines = {}
  for _, candidate in ipairs(candidates) do
    if candidate.ok and not candidate.only_forced then
      return choice(order, candidates, candidate, "the strongest that works here")
    end
    lines[#lines + 1] = ("%s: %s"):format(candidate.name, candidate.reason or candidate.only_forced)
  end
  return nil, ("no %s works here: %s"):format(words.noun, table.concat(lines, "; ")), "unavailable"
end

return M
