-- Generation n+1: loaded and tested beside the live one, planned, applied, and only then is n closed. Any error before
-- the flip changes nothing. One reload at a time; of those that come meanwhile the last one counts for all.
local config_ = require("lattice.agent.config")
local start = require("lattice.agent.start")
local steps = require("lattice.agent.steps")

local M = {}

local FLOWS = 100000 -- open flows that a preview looks at
local await = steps.await

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  for key, value in pairs(a) do
    if key ~= "where" and not same(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil and key ~= "where" then return false end
  end
  return true
end

--- What of a new config cannot be taken while the agent runs: a text for each.
---@param old lattice.agent.Config
---@param new lattice.agent.Config
---@return string[]
function M.needs_restart(old, new)
  local problems, known = {}, {}
  local function add(where, what)
    problems[#problems + 1] = ("%s: %s: that needs a restart of latticed"):format(where, what)
  end
  for _, device in ipairs(old.devices) do known[device.name] = device end
  for _, device in ipairs(new.devices) do
    local before = known[device.name]
    known[device.name] = nil
    if not before then
      add(device.where, ("device '%s' is new"):format(device.name))
    elseif before.kind ~= device.kind then
      add(device.where, ("device '%s' was of kind %s"):format(device.name, before.kind))
    end
  end
  for name in pairs(known) do add(new.file, ("device '%s' is gone"):format(name)) end
  for _, key in ipairs({ "control", "group", "pins" }) do
    if old[key] ~= new[key] then add(new.file, ("%s was %s"):format(key, old[key])) end
  end
  if not same(old.writers, new.writers) then add(new.file, "writers has changed") end
  if not same(old.names, new.names) then add(new.file, "names has changed") end
  if #old.pairs == 0 and #new.pairs > 0 then add(new.file, "the first nat or forward") end
  if not old.runs.said and new.runs.said then add(new.file, "the first runs") end
  table.sort(problems)
  return problems
end

-- Open flows that the new generation denies.
local function doomed(agent, generation)
  local flows = await(function(done) agent.enforcing:flows(FLOWS, done) end)
  local count, examples = 0, {}
  for _, flow in ipairs(flows or {}) do
    local proto = math.tointeger(flow.proto) or require("lattice.policy.terms").protos[flow.proto]
    if generation:judge({ dir = flow.dir, proto = proto, addr = flow.addr, port = flow.port }).verdict ~= "allow" then
      count = count + 1
      if count <= 10 then
        examples[count] = ("cut: %s %s %s port %d"):format(flow.dir, flow.proto, flow.addr, flow.port or 0)
      end
    end
  end
  return count, examples
end

local function result_of(agent, generation, plan, began)
  return { generation = generation:number(), digest = generation:info().digest, rules_added = plan.rules_added,
    rules_removed = plan.rules_removed, flows_cut = 0, text = plan.text,
    ms = (require("lattice.sys").clock() - began) // 1000000, enforcer = agent.enforcing.name }
end

-- The parts of the config that can be taken live, after the policy is in force.
local function take_config(agent, config)
  local old, failures = agent.config, {}
  local function note(ok, err) if not ok then failures[#failures + 1] = tostring(err) end end
  agent.config = config
  local before = {}
  for _, device in ipairs(old.devices) do before[device.name] = device end
  for _, device in ipairs(config.devices) do
    if not same(before[device.name], device) then
      note(await(function(done) agent.devices[device.name]:change(device, done) end))
    end
  end
  if agent.nat and not same(old.pairs, config.pairs) then
    note(await(function(done) agent.nat:change(config.pairs, done) end))
  end
  note(agent.events:routes(agent:routes(config, agent.live)))
  note(agent:set_handlers(config.handlers.flow))
  agent.runs:reload()
  agent.control:everybody_may(#config.runs > 0)
  return failures
end

-- The config names another enforcer than the one that runs.
local function wanted_choice(agent, config)
  if config.enforcer == agent.config.enforcer and not config.select and not agent.config.select then return nil end
  local choice, err, code = agent:select(config)
  if not choice then return nil, err, code end
  if choice.name == agent.enforcing.name then
    agent.choice = choice
    return nil
  end
  return choice
end

local function after_flip(agent, config, generation, result)
  agent.events:generation(generation)
  if agent.names then agent.names:generation(generation) end
  if not generation:info().keep_established then
    local cut, why = await(function(done) agent.enforcing:cut(done) end)
    if not cut then agent:log("warn", "reload: open flows: " .. tostring(why)) end
    result.flows_cut = cut or 0
  end
  local failures = take_config(agent, config)
  if #failures > 0 then result.problems = failures end
end

local function flip(agent, config, generation, plan, began)
  local choice, err, code = wanted_choice(agent, config)
  if err then return nil, err, code end
  local ok
  if choice then
    ok, err, code = agent:switch(choice, generation)
  else
    ok, err, code = agent:apply(generation)
  end
  if not ok then return nil, err, code end
  local old = agent.live
  agent.live = generation
  local result = result_of(agent, generation, plan, began)
  -- From here on the new generation holds: what fails now is told, and takes nothing back.
  local good, why = pcall(after_flip, agent, config, generation, result)
  if not good then result.problems = { "internal error: " .. tostring(why) } end
  old:close()
  return result
end

-- Inside steps, within `change`.
local function reload(agent, opts)
  local began = require("lattice.sys").clock()
  if agent.stopping then return nil, "the agent is stopping", "stopped" end
  local config, err = config_.load(agent.config.file, { log = function(text) agent:log("info", text) end })
  if not config then return nil, err, "policy" end
  local needs = M.needs_restart(agent.config, config)
  if #needs > 0 then return nil, table.concat(needs, "\n"), "policy" end
  local generation, code
  generation, err, code = await(function(done) start.load_policy(config, agent.live:number() + 1, done) end)
  if not generation then return nil, err, code end
  local plan = agent.enforcing:plan(agent.live, generation)
  if opts.preview then
    local result = result_of(agent, generation, plan, began)
    local examples
    result.flows_cut, examples = doomed(agent, generation)
    if generation:info().keep_established then result.flows_cut, examples = 0, {} end
    result.preview = true
    result.text = table.concat({ plan.text or "", table.unpack(examples) }, "\n"):gsub("^\n", "")
    generation:close()
    return result
  end
  local result
  result, err, code = flip(agent, config, generation, plan, began)
  if not result then generation:close() end
  return result, err, code
end

local function report(agent, opts, result, err)
  local by = opts.by or "?"
  if result then
    agent.reloads.ok = agent.reloads.ok + 1
    local text = ("generation %d: %d rules added, %d removed, %d flows cut, %d ms (%s)"):format(result.generation,
      result.rules_added, result.rules_removed, result.flows_cut, result.ms, by)
    agent:log("info", "reload: " .. text)
    for _, problem in ipairs(result.problems or {}) do agent:log("error", "reload: " .. problem) end
    agent:record(true, text)
  else
    agent.reloads.refused, agent.reloads.last_error = agent.reloads.refused + 1, err
    agent:log("error", ("reload refused, generation %d stays in force (%s):\n%s"):format(agent.live
      and agent.live:number() or 0, by, tostring(err)))
    agent:record(false, tostring(err))
  end
  agent.notify.ready(M.status_line(agent, err))
end

function M.status_line(agent, refused)
  if refused then return "reload refused: " .. tostring(refused):match("^[^\n]*") end
  local info = agent.live:info()
  return ("%s, generation %d, policy %s, %d rules"):format(agent.enforcing.name, agent.live:number(),
    info.digest:sub(1, 12), info.rules)
end

local function begin(agent)
  local job = agent.next_reload
  agent.next_reload, agent.reloading = nil, true
  agent.notify.reloading()
  agent:exclusive(function() return reload(agent, job.opts) end, function(result, err, code)
    agent.reloading = false
    report(agent, job.opts, result, err)
    for _, done in ipairs(job.dones) do done(result, err, code) end
    if agent.next_reload then begin(agent) end
  end)
end

--- Asks for a reload. While one runs, those that ask wait together for one more.
---@param agent lattice.agent.Core
---@param opts { preview?: boolean, by?: string }
---@param done? fun(result: table?, err?: string, code?: any)
function M.request(agent, opts, done)
  if opts.preview then
    return agent:exclusive(function() return reload(agent, opts) end, done or function() end)
  end
  local job = agent.next_reload or { dones = {} }
  job.opts = opts
  job.dones[#job.dones + 1] = done
  agent.next_reload = job
  if not agent.reloading then begin(agent) end
end

return M
