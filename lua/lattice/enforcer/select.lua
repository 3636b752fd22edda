-- Chooses the enforcer: probes those that come into question by doing (each module's probe), takes the strongest that
-- works, and says why each stronger one was passed over. What the config forces is taken or the choice fails.
local M = {}

-- The strongest first.
M.order = { "ebpf", "iptables" }

---@class lattice.enforcer.Candidate
---@field name string
---@field ok boolean
---@field detail? string  what the probe found
---@field reason? string  why not
---@field code? any       402: of the pro edition

---@class lattice.enforcer.Choice
---@field name string
---@field reason string
---@field passed_over { name: string, reason: string }[]
---@field candidates lattice.enforcer.Candidate[]

local function module_of(name)
  local found, module = pcall(require, "lattice.enforcer." .. name)
  if found then return module end
  return { name = name, probe = function(done) done(nil, "it is not in this build", "ENOENT") end }
end

--- Probes the enforcers of this list, in order.
---@param names string[]
---@param done fun(candidates: lattice.enforcer.Candidate[])
---@param modules? table<string, table>  for tests
function M.probe(names, done, modules)
  local candidates = {}
  local function next_one(i)
    local name = names[i]
    if not name then return done(candidates) end
    local module = modules and modules[name] or module_of(name)
    module.probe(function(ok, detail, code)
      candidates[i] = { name = name, ok = ok ~= nil and ok ~= false, code = not ok and code or nil,
        detail = ok and detail or nil, reason = not ok and (detail or "the probe failed") or nil }
      return next_one(i + 1)
    end)
  end
  next_one(1)
end

local function rank(name)
  for i, one in ipairs(M.order) do
    if one == name then return i end
  end
  return nil
end

local function by_name(candidates, name)
  for _, candidate in ipairs(candidates) do
    if candidate.name == name then return candidate end
  end
  return nil
end

local function refuse(candidate, how)
  local text = ("enforcer %s (%s) cannot be had: %s"):format(candidate.name, how, candidate.reason)
  return nil, text, candidate.code == 402 and 402 or "unavailable"
end

local function choice(candidates, chosen, how, unasked)
  local passed = {}
  for i = 1, (rank(chosen.name) or 1) - 1 do
    local other = by_name(candidates, M.order[i])
    passed[#passed + 1] = { name = M.order[i], reason = other and not other.ok and other.reason or unasked }
  end
  local reason = chosen.detail and ("%s; %s"):format(how, chosen.detail) or how
  return { name = chosen.name, reason = reason, passed_over = passed, candidates = candidates }
end

--- Pure: what the candidates and the config's words give.
---@param config { enforcer: string, select?: function }
---@param candidates lattice.enforcer.Candidate[]
---@return lattice.enforcer.Choice?
---@return string? error
---@return any code  402, "unavailable", or "policy": the config's function is wrong
function M.choose(config, candidates)
  if config.select then
    local view = {}
    for i, c in ipairs(candidates) do
      view[i] = { name = c.name, ok = c.ok, detail = c.detail, reason = c.reason }
    end
    local ok, name = pcall(config.select, view)
    if not ok then return nil, "the config's enforcer function failed: " .. tostring(name), "policy" end
    if name ~= nil and name ~= "auto" then
      local chosen = by_name(candidates, name)
      if not chosen then
        return nil, ("the config's enforcer function chose %s, which is none"):format(tostring(name)), "policy"
      end
      if not chosen.ok then return refuse(chosen, "chosen by the config's function") end
      return choice(candidates, chosen, "chosen by the config's function", "the config's function chose another")
    end
  elseif config.enforcer ~= "auto" then
    local chosen = by_name(candidates, config.enforcer)
    if not chosen then return nil, ("there is no enforcer %s"):format(config.enforcer), "unavailable" end
    if not chosen.ok then return refuse(chosen, "forced by the config") end
    return choice(candidates, chosen, "forced by the config", "not asked: the config forces " .. chosen.name)
  end
  local lines = {}
  for _, candidate in ipairs(candidates) do
    if candidate.ok then return choice(candidates, candidate, "the strongest that works here") end
    lines[#lines + 1] = candidate.name .. ": " .. candidate.reason
  end
  return nil, "no enforcer works here: " .. table.concat(lines, "; "), "unavailable"
end

--- Probes what the config lets come into question, and chooses.
---@param config lattice.agent.Config
---@param done fun(choice: lattice.enforcer.Choice?, err?: string, code?: any)
---@param modules? table<string, table>
function M.select(config, done, modules)
  local forced = not config.select and config.enforcer ~= "auto"
  M.probe(forced and { config.enforcer } or M.order, function(candidates)
    done(M.choose(config, candidates))
  end, modules)
end

--- The module of an enforcer, for open.
---@param name string
---@return table
function M.module(name) return module_of(name) end

return M
