-- Chooses the enforcer: probes those that come into question by doing (each module's probe), takes the strongest that
-- works, and says why each stronger one was passed over. What the config forces is taken or the choice fails.
local choice = require("lattice.choice")

local M = {}

-- The strongest first.
M.order = { "ebpf", "iptables" }

local words = { noun = "enforcer", by = "the config", script = "the config's enforcer function" }

local function module_of(name)
  local found, module = pcall(require, "lattice.enforcer." .. name)
  if found then return module end
  return { name = name, probe = function(done) done(nil, "it is not in this build", "ENOENT") end }
end

--- Probes the enforcers of this list, in order.
---@param names string[]
---@param done fun(candidates: lattice.choice.Candidate[])
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

--- Pure: what the candidates and the config's words give.
---@param config { enforcer: string, select?: function }
---@param candidates lattice.choice.Candidate[]
---@return lattice.choice.Choice?
---@return string? error
---@return any code  402, "unavailable", or "policy": the config's function is wrong
function M.choose(config, candidates)
  return choice.choose(words, M.order, { name = config.enforcer, script = config.select }, candidates)
end

--- Probes what the config lets come into question, and chooses.
---@param config lattice.agent.Config
---@param done fun(choice: lattice.choice.Choice?, err?: string, code?: any)
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
