-- From a checked config to a guarded node, and back. Each step's undoing is noted when the step is done; a start that
-- fails and a stop run them in reverse. Until the policy is in force, no device of ours is up; and none is any more when
-- it goes.
local config_ = require("lattice.agent.config")
local locks = require("lattice.agent.locks")
local select_ = require("lattice.enforcer.select")
local steps = require("lattice.agent.steps")

local M = {}

local await = steps.await

--- Loads the policy of a config as this generation.
---@param done fun(generation: lattice.policies.Generation?, err?: string, code?: any)
function M.load_policy(config, number, done)
  return require("lattice.policies").load({ number = number, files = config.policies, mesh = config_.mesh(config) }, done)
end

local function open_events(agent, generation)
  local node = require("luv").os_gethostname()
  local events, err, code = require("lattice.events").open({ routes = agent:routes(agent.config, generation),
    run_name = node, mode = "node", policy = generation:info().name })
  if not events then return nil, "audit: " .. tostring(err), code end
  agent.events = events
  return agent:set_handlers(agent.config.handlers.flow)
end

local function open_device(agent, device)
  local options = { adopt = true, log = function(level, text) agent:log(level, text) end,
    gone = function(name) agent:device_gone(name) end, back = function(name) agent:device_back(name) end }
  return await(function(done) require("lattice.agent.device").open(device, options, done) end)
end

local function open_devices(agent, undo)
  undo(function(keep)
    local good, problem = true, nil
    for i = #agent.config.devices, 1, -1 do
      local name = agent.config.devices[i].name
      local handle = agent.devices[name]
      agent.devices[name] = nil
      if handle then
        local ok, err = await(function(done) handle:close(keep, done) end)
        if not ok then good, problem = nil, err end
      end
    end
    return good, problem
  end)
  for _, device in ipairs(agent.config.devices) do
    local handle, err, code = open_device(agent, device)
    if not handle then return nil, ("%s: %s"):format(device.where, tostring(err)), code or "unavailable" end
    agent.devices[device.name] = handle
  end
  return true
end

--- What another enforcer, or pairs that are not configured any more, left of an earlier agent goes, now that ours is in
--- force.
local function remove_others(agent)
  local function check(what, ok, err, code)
    if not ok and code ~= 402 then agent:log("warn", ("what %s may have left: %s"):format(what, tostring(err))) end
  end
  -- Programs of devices that are not configured any more, too.
  local path = agent.bpffs and agent.bpffs:find()
  if path then
    local ok, err, code = await(function(done) select_.module("ebpf").clear({ pins = path }, done) end)
    if code ~= "EBUSY" then check("ebpf", ok, err, code) end
  end
  if agent.enforcing.name ~= "iptables" then
    check("iptables", await(function(done) select_.module("iptables").remove(agent:enforcer_options(false), done) end))
  end
  if #agent.config.pairs == 0 then
    check("nat and forward", await(function(done)
      require("lattice.enforcer.nat").remove({ log = function(level, text) agent:log(level, text) end }, done)
    end))
  end
end

-- A device that a dead agent left up, and nothing is in force: it goes down until the policy is.
local function lower_devices(agent)
  for _, device in ipairs(agent.config.devices) do
    local handle = agent.devices[device.name]
    if device.kind ~= "existing" and handle.adopted and handle.lower then
      local ok, err, code = await(function(done) handle:lower(done) end)
      if not ok then return nil, err, code end
    end
  end
  return true
end

local function open_bpffs(agent, undo)
  if require("lattice.sys").version().edition ~= "pro" then return true end
  local fs, err = require("lattice.bpffs").open(agent.config.pins)
  if not fs then
    agent:log("debug", "no bpffs for pins: " .. err)
    return true
  end
  agent.bpffs = fs
  undo(function(keep)
    agent.bpffs, agent.pins_path = nil, nil
    if keep then fs:close() else fs:remove() end
    return true
  end)
  return true
end

local function open_enforcer(agent, generation, undo)
  local enforcer, err, code = agent:open_enforcer(agent.choice.name, true)
  if not enforcer then return nil, err, code or "unavailable" end
  local before = enforcer:generation()
  agent.adopted = before ~= nil
  undo(function(keep)
    local now = agent.enforcing or enforcer
    agent.enforcing = nil
    return await(function(done) now:close(keep, done) end)
  end)
  if before then
    agent:log("info", ("adopted generation %d, which was in force"):format(before))
    generation:renumber(before + 1)
  end
  agent.live = generation
  agent.events:generation(generation)
  local ok
  if not before then
    ok, err, code = lower_devices(agent)
    if not ok then return nil, err, code end
  end
  ok, err, code = agent:enforce(enforcer, generation)
  if not ok then return nil, err, code or "unavailable" end
  agent.enforcing = enforcer
  remove_others(agent)
  return true
end

local function drop_privileges(agent)
  local sys, keep = require("lattice.sys"), { "net_admin", "bpf" }
  if agent.enforcing.name == "iptables" or #agent.config.pairs > 0 then keep[#keep + 1] = "net_raw" end
  -- The programs of a group are too much for the verifier without it.
  if agent.config.runs.said then keep[#keep + 1] = "perfmon" end
  agent.capabilities = keep
  return sys.keep_capabilities(keep)
end

local function open_nat(agent)
  local options = { adopt = true, log = function(level, text) agent:log(level, text) end }
  return await(function(done) require("lattice.enforcer.nat").open(agent.config.pairs, options, done) end)
end

local function open_names(agent)
  local options = { config = agent.config, devices = agent:device_names(),
    log = function(level, text) agent:log(level, text) end,
    pin = function(pins, pinned) agent:pin(pins, pinned) end }
  function options.allowed(server, done)
    local flow = { dir = "out", proto = 17, addr = server, port = 53 }
    local enforcer = agent.enforcing
    if enforcer.passes then return done(enforcer:passes(flow)) end
    return enforcer:explain(flow, function(verdict) done(verdict ~= nil and verdict.verdict == "allow") end)
  end
  return await(function(done) require("lattice.agent.names").open(options, done) end)
end

local function open_control(agent)
  local config = agent.config
  local options = { path = config.control, group = config.group, writers = config.writers,
    everybody = #config.runs > 0 }
  local control, err, code = await(function(done)
    require("lattice.control.server").open(agent, options, done)
  end)
  if not control then return nil, err, code end
  agent.control = control
  require("lattice.control.repl").register(control, agent)
  require("lattice.control.run_verbs").add(control, agent)
  return control
end

local function choose(agent)
  local choice, err, code = agent:select(agent.config)
  if not choice then return nil, err, code end
  agent.choice = choice
  for _, passed in ipairs(choice.passed_over) do
    agent:log(agent.config.enforcer == "auto" and "warn" or "info",
      ("enforcer %s, not %s: %s"):format(choice.name, passed.name, passed.reason))
  end
  return true
end

-- The start proper, inside steps. undo(fn): fn(keep) takes back what was done, newest first.
local function start(agent, undo)
  local config = agent.config
  local held, err, code = locks.take(config)
  if not held then return nil, err, code end
  undo(function()
    held:close()
    return true
  end)
  local ok
  local generation
  generation, err, code = await(function(done) M.load_policy(config, 1, done) end)
  if not generation then return nil, err, code end
  undo(function()
    generation:close()
    if agent.live then agent.live:close() end
    agent.live = nil
    return true
  end)
  open_bpffs(agent, undo)
  ok, err, code = choose(agent)
  if not ok then return nil, err, code end
  if agent.stopping then return nil, "stopped", "stopped" end
  if #config.pairs > 0 then
    agent.nat, err, code = open_nat(agent)
    if not agent.nat then return nil, err, code or "unavailable" end
    undo(function(keep) return await(function(done) agent.nat:close(keep, done) end) end)
  end
  undo(function()
    if agent.events and agent.begun then agent.events:record("exit", { text = "stopped", status = 0 }) end
    if agent.events then agent.events:close() end
    agent.events = nil
    return true
  end)
  ok, err, code = open_events(agent, generation)
  if not ok then return nil, err, code end
  local close_devices
  ok, err, code = open_devices(agent, function(fn)
    close_devices = fn
    undo(fn)
  end)
  if not ok then return nil, err, code end
  table.remove(agent.undo)
  ok, err, code = open_enforcer(agent, generation, undo)
  undo(close_devices) -- before the enforcer goes
  if not ok then return nil, err, code end
  if config.names then
    agent.names, err, code = open_names(agent)
    if not agent.names then return nil, err, code end
    agent.names:generation(agent.live)
    undo(function() return await(function(done) agent.names:close(done) end) end)
  else
    require("lattice.agent.names").clear() -- of an agent that was killed and had names
  end
  for _, device in ipairs(config.devices) do
    ok, err, code = await(function(done) agent.devices[device.name]:raise(done) end)
    if not ok then return nil, ("%s: %s"):format(device.where, tostring(err)), code or "unavailable" end
  end
  local pro = require("lattice.sys").version().edition == "pro"
  if #config.runs > 0 and not pro then
    return nil, config.runs[1].where .. ": runs: Pro feature: this is the community edition", 402
  elseif config.runs.said and pro then
    ok, err, code = agent.runs:hold()
    if not ok then return nil, err, code or "unavailable" end
    undo(function() return agent.runs:release() end)
  end
  ok, err, code = open_control(agent)
  if not ok then return nil, err, code end
  ok, err = drop_privileges(agent)
  if not ok then return nil, err, "unavailable" end
  agent:watch_hooks()
  undo(function()
    agent.hook_timer:close()
    return true
  end)
  agent.begun = true
  agent.events:record("start", { text = agent.enforcing.name .. ": " .. agent.choice.reason, status = 0 })
  return true
end

local function close_control(agent)
  local control = agent.control
  agent.control = nil
  if control then await(function(done) control:close(done) end) end
end

-- Inside steps: takes everything back, newest first; goes on after what fails.
local function unwind(agent, keep)
  local good = true
  while #agent.undo > 0 do
    local fn = table.remove(agent.undo)
    local whole, ok, err = pcall(fn, keep)
    if not whole then ok, err = nil, ok end
    if not ok then
      good = false
      agent:log("error", "stop: " .. tostring(err))
    end
  end
  return good
end

--- Starts; when that fails, everything is as it was: what a dead agent left stays in force.
---@param agent lattice.agent.Core
---@param done fun(ok: true?, err?: string, code?: any)
function M.start(agent, done)
  agent.undo = {}
  agent:exclusive(function()
    local whole, ok, err, code = pcall(start, agent, function(fn) agent.undo[#agent.undo + 1] = fn end)
    if not whole then ok, err, code = nil, "internal error: " .. tostring(ok), "internal" end
    if ok then return true end
    close_control(agent)
    unwind(agent, agent.adopted == true)
    return nil, err, code
  end, done)
end

--- keep: enforcement stays in force for the next agent. answer: who asked is told when all is done, by the control socket,
--- which closes last.
---@param agent lattice.agent.Core
---@param keep boolean
---@param answer fun(good: boolean)
---@param done fun(good: boolean)
function M.stop(agent, keep, answer, done)
  agent.stopping = true
  require("lattice.agent.temporary").close(agent)
  agent:exclusive(function()
    agent.runs:close() -- what they judge by stays to their end
    local good = unwind(agent, keep)
    answer(good)
    close_control(agent)
    return good
  end, done)
end

return M
