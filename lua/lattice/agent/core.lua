-- The agent itself, as its parts, the control socket and the REPL see it (lattice.agent.Agent in _meta/contract.lua): what
-- it holds, and the calls on it. start.lua fills it, reload.lua changes it.
local log = require("lattice.log")
local select_ = require("lattice.enforcer.select")
local steps = require("lattice.agent.steps")

local M = {}

local EINVAL = 22

---@class lattice.agent.Core: lattice.agent.Agent
local Agent = {}
Agent.__index = Agent

--- hooks: stop(keep) ends the program (init.lua).
---@param config lattice.agent.Config
---@param hooks { stop: fun(keep: boolean), notify: table }
function M.new(config, hooks)
  local self = setmetatable({
    config = config, hooks = hooks, notify = hooks.notify, started = os.time(), devices = {}, temporary = {},
    last_temporary = 0, pins = {}, reloads = { ok = 0, refused = 0 }, fallbacks = 0,
    -- One change of the enforcer's state at a time.
    change = steps.queue(),
  }, Agent)
  self.runs = require("lattice.agent.runs").new(self)
  return self
end

function Agent:log(level, text)
  log[level](text)
end

function Agent:generation() return self.live end

function Agent:enforcer() return self.enforcing end

function Agent:device_names()
  local names = {}
  for i, device in ipairs(self.config.devices) do names[i] = device.name end
  return names
end

--- Options for an enforcer's open or remove.
function Agent:enforcer_options(adopt)
  return { devices = self:device_names(), pins = self.pins_path or self.config.pins, adopt = adopt, events = self.events,
    pins_shown = self.config.pins,
    log = function(level, text) self:log(level, text) end }
end

--- Inside steps: the enforcer that the config lets be chosen. Where pins would end with this process, and enforcement with
--- them, eBPF does not come into question.
---@param config lattice.agent.Config
function Agent:select(config)
  local modules
  if self.bpffs and self.bpffs:private() then
    modules = { ebpf = { probe = function(done)
      select_.module("ebpf").probe(function(ok, detail, code)
        if not ok then return done(ok, detail, code) end
        done(nil, ("a bpffs on %s would be in a mount namespace of this process alone, and the outer one cannot be "
          .. "entered: mount one there first (mount -t bpf bpf %s)"):format(config.pins, config.pins))
      end)
    end } }
  end
  return steps.await(function(done) select_.select(config, done, modules) end)
end

--- Inside steps: opens the enforcer that was chosen. Nothing is in force by it yet, but what it adopted.
---@param name string
function Agent:open_enforcer(name, adopt)
  if name == "ebpf" and self.bpffs then
    local path, err, code = self.bpffs:prepare()
    if not path then return nil, err, code end
    self.pins_path = path
  end
  local module = select_.module(name)
  return steps.await(function(done) module.open(self:enforcer_options(adopt), done) end)
end

--- Inside steps: the generation and all that hangs on it, on an enforcer that is not yet ours.
function Agent:enforce(enforcer, generation)
  local ok, err, code = steps.await(function(done) enforcer:apply(generation, done) end)
  if not ok then return nil, err, code end
  local temporary = require("lattice.agent.temporary")
  ok, err, code = steps.await(function(done) enforcer:temporary(temporary.rules(self), done) end)
  if not ok then return nil, err, code end
  if #self.pins > 0 then
    ok, err, code = steps.await(function(done) enforcer:pin(self.pins, done) end)
    if not ok then return nil, err, code end
  end
  return true
end

--- Inside steps, within `change`: another enforcer takes over. Its rules are in force before the old one is let go; when it
--- fails, the old one stays as it is.
---@param choice lattice.choice.Choice
---@param generation lattice.policies.Generation
function Agent:switch(choice, generation)
  local old = self.enforcing
  local new, err, code = self:open_enforcer(choice.name, false)
  if not new then return nil, err, code end
  local ok
  ok, err, code = self:enforce(new, generation)
  if not ok then
    steps.await(function(done) new:close(false, done) end)
    return nil, err, code
  end
  self.enforcing, self.choice = new, choice
  local closed, why = steps.await(function(done) old:close(false, done) end)
  if not closed then self:log("error", ("%s was not removed whole: %s"):format(old.name, tostring(why))) end
  return true
end

--- Inside steps, within `change`: puts a generation in force, by the fallback if the enforcer fails and the config lets it.
---@param generation lattice.policies.Generation
function Agent:apply(generation)
  local enforcer = self.enforcing
  local ok, err, code = steps.await(function(done) enforcer:apply(generation, done) end)
  if ok then return true end
  local weaker = self:fallback_of(enforcer.name)
  if not weaker or code == "policy" then return nil, err, code end
  local why = ("%s failed at run time: %s"):format(enforcer.name, tostring(err))
  local choice = { name = weaker, reason = "fallback: " .. why,
    passed_over = { { name = enforcer.name, reason = why } }, candidates = self.choice.candidates }
  local switched, problem = self:switch(choice, generation)
  if not switched then
    return nil, ("%s; and %s: %s; the old generation stays in force"):format(why, weaker, tostring(problem)), code
  end
  self.fallbacks = self.fallbacks + 1
  self:log("warn", ("%s; %s took over, its rules were in force before"):format(why, weaker))
  self:record(true, "fallback: " .. why)
  return true
end

--- The addresses that names stand for now, from lattice.agent.names. Of lists that wait, only the last is told.
function Agent:pin(pins, done)
  self.pins = pins
  if self.events then self.events:names(pins) end
  self:exclusive(function()
    if self.pins ~= pins then return true end -- a newer list is on its way
    if not self.enforcing then return nil, "no enforcer" end
    return steps.await(function(pinned) self.enforcing:pin(pins, pinned) end)
  end, done)
end

function Agent:device_gone(name)
  self:log("warn", ("device '%s' is gone; its policy comes back with it"):format(name))
  self:record(false, ("device %s is gone"):format(name))
end

--- A device is there again: policy first, then up. Tried again while that fails.
function Agent:device_back(name)
  self:exclusive(function()
    local enforcer, handle = self.enforcing, self.devices[name]
    if self.stopping or not enforcer or not handle then return true end
    local ok, err = steps.await(function(done)
      if enforcer.device then return enforcer:device(name, done) end
      return enforcer:apply(self.live, done)
    end)
    if ok then ok, err = steps.await(function(done) handle:raise(done) end) end
    return ok, err
  end, function(ok, err)
    if ok then
      self:log("info", ("device '%s' is back and guarded"):format(name))
      return self:record(true, ("device %s is back and guarded"):format(name))
    end
    self:log("error", ("device '%s' is back, but: %s; trying again"):format(name, tostring(err)))
    require("lattice.loop").timer(1000, function() self:device_back(name) end)
  end)
end

--- Looks once a second whether the enforcer's hooks are where it put them, and puts them back. Enforcers with a watch of
--- their own (iptables) have no `hooked`.
function Agent:watch_hooks()
  local busy
  local function look()
    local enforcer = self.enforcing
    if busy or self.stopping or not enforcer or not enforcer.hooked or enforcer:hooked() ~= false then return end
    busy = true
    self:log("error", ("somebody took a program of %s off its hook; it is put back"):format(enforcer.name))
    self:exclusive(function()
      if self.stopping or self.enforcing ~= enforcer then return true end
      return steps.await(function(done) enforcer:device(nil, done) end)
    end, function(ok, err)
      busy = false
      local text = ok and "all hooks are guarded again" or ("not guarded: %s; trying again"):format(tostring(err))
      self:log(ok and "info" or "error", text)
      self:record(ok == true, text)
    end)
  end
  self.hook_timer = require("lattice.loop").timer(1000, look, 1000)
end

--- The enforcer that may take over from this one.
function Agent:fallback_of(name)
  if self.config.enforcer ~= "auto" then return nil end
  for i, one in ipairs(select_.order) do
    if one == name then return select_.order[i + 1] end
  end
  return nil
end

--- Writes to the audit: a reload, a fallback, a device that went or came.
---@param ok boolean
---@param text string
function Agent:record(ok, text)
  if not self.events then return end
  self.events:record("reload", { text = text, errno = not ok and EINVAL or nil,
    generation = self.live and self.live:number() or 0 })
end

function Agent:note(uid, text)
  self:log("info", ("operator (uid %d): %s"):format(uid, text))
  if self.events then self.events:record("operator", { uid = uid, text = text }) end
end

--- Where audit records go: the config's sinks, and those of the policy.
---@param generation lattice.policies.Generation
function Agent:routes(config, generation)
  local list = require("lattice.generation").routes(config.audit)
  local folder = config.file:match("^(.*/)[^/]*$") or "./"
  for _, route in ipairs(generation:info().audit or {}) do
    if route.sink == "file" and route.target:sub(1, 1) ~= "/" then route.target = folder .. route.target end
    list[#list + 1] = route
  end
  return list
end

--- Gives the handlers of a config to the events, in place of those of the config before.
function Agent:set_handlers(list)
  for _, name in ipairs(self.handler_names or {}) do self.events:off(name) end
  self.handler_names = {}
  for _, handler in ipairs(list) do
    local ok, err = self.events:on(handler)
    if not ok then return nil, ("%s: %s"):format(handler.where, tostring(err)) end
    table.insert(self.handler_names, handler.name)
  end
  return true
end

--- The verdict of the enforcer's loaded state, with the rule's text and place.
function Agent:explain(flow, done)
  self.enforcing:explain(flow, function(verdict, err)
    if not verdict then return done(nil, err) end
    local rule
    if verdict.temporary then
      rule = require("lattice.agent.temporary").rule(self, verdict.rule)
    elseif verdict.rule and verdict.rule > 0 then
      rule = self.live:rule(verdict.rule)
    end
    if rule then
      if verdict.temporary then verdict.where = rule.where end
      verdict.where, verdict.text = verdict.where or rule.where, verdict.text or rule.text
      verdict.reason, verdict.action = verdict.reason or rule.reason, verdict.action or rule.action
    end
    if verdict.rule == 0 then verdict.where = verdict.where or "default" end
    return done(verdict)
  end)
end

--- Runs fn inside steps, as soon as no other change is going on.
---@param fn fun(): ...
---@param done fun(...)
function Agent:exclusive(fn, done) return self.change(fn, done) end

function Agent:reload(opts, done) return require("lattice.agent.reload").request(self, opts, done) end

function Agent:down(done)
  self:log("info", "asked to go down: everything is removed")
  self.hooks.stop(false, done)
end

function Agent:temporary_add(action, text, opts, done)
  return require("lattice.agent.temporary").add(self, action, text, opts, done)
end

function Agent:temporary_remove(id, done) return require("lattice.agent.temporary").remove(self, id, done) end

function Agent:temporary_list() return require("lattice.agent.temporary").list(self) end

--- Whether a user may have commands of its own walled, and so connect to the control socket.
---@param uid integer
---@return boolean
function Agent:may_run(uid) return self.runs:entry(uid) ~= nil end

--- The bindings of the host: lattice.sandbox.list_bindings.
function Agent:bindings() return require("lattice.sandbox.bindings").list() end

local function part_status(part)
  return part and part.status and part:status() or nil
end

function Agent:status()
  local choice, live = self.choice or {}, self.live
  local devices = {}
  for i, device in ipairs(self.config.devices) do
    local handle = self.devices[device.name]
    local status = handle and handle:status() or {}
    status.name, status.kind = device.name, device.kind
    devices[i] = status
  end
  local counters = self.events and self.events.counters and self.events:counters() or {}
  local enforcer = part_status(self.enforcing) or {}
  enforcer.name, enforcer.reason, enforcer.passed_over = choice.name, choice.reason, choice.passed_over or {}
  return {
    config = self.config.file, started = self.started, enforcer = enforcer, fallbacks = self.fallbacks,
    generation = live and live:number() or nil, policy = live and live:info() or nil,
    in_force = self.enforcing and self.enforcing:generation() or nil, devices = devices,
    reloads = { ok = self.reloads.ok, refused = self.reloads.refused, last_error = self.reloads.last_error },
    temporary = self:temporary_list(), nat = part_status(self.nat), names = part_status(self.names),
    events = { seen = counters.seen or 0, lost = counters.lost or 0, lost_in_kernel = counters.lost_in_kernel or 0 },
    audit = { lost = counters.audit_lost or 0 }, runs = self.runs:status(), bindings = self:bindings(),
  }
end

return M
