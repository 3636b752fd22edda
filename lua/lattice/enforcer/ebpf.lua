-- The ebpf enforcer (pro): tc programs on ingress and egress of each device. A thin cover of lattice.tc, which does it all:
-- the contract is lattice.enforcer.Enforcer in lua/lattice/agent/_meta/contract.lua.
local tc = require("lattice.tc")

local M = { name = "ebpf" }

---@class lattice.enforcer.Ebpf: lattice.enforcer.Enforcer
local Ebpf = {}
Ebpf.__index = Ebpf
Ebpf.name = "ebpf"

--- Loads the programs and attaches them to nothing.
---@param done fun(ok: true?, reason: string?, code: any)
function M.probe(done)
  tc.probe(function(ok, err, code)
    if ok then return done(true, "the tc programs load") end
    done(nil, err, code)
  end)
end

--- Guards the devices: nothing passes before the first generation, but what an earlier agent left in force.
---@param options lattice.enforcer.Options
---@param done fun(enforcer: lattice.enforcer.Enforcer?, err: string?, code: any)
function M.open(options, done)
  local function open_filter(adopt, opened)
    tc.open({
      devices = options.devices, pins = options.pins, adopt = adopt, no_tcx = options.no_tcx, cgroup = options.cgroup,
      flows = options.flows, event_rate = options.event_rate,
    }, function(filter, say, code)
      if not filter then return opened(nil, say, code) end
      for line in say:gmatch("[^\n]+") do options.log("info", "ebpf: " .. line) end
      local rings, err = filter:rings()
      if not rings then
        return filter:finish(adopt, function() opened(nil, err) end)
      end
      for _, fd in ipairs(rings) do options.events:ring(fd) end
      opened(filter)
    end)
  end
  open_filter(options.adopt, function(filter, err, code)
    if not filter then return done(nil, err, code) end
    local self = setmetatable({ filter = filter, pins = {}, rules = {}, open_filter = open_filter,
      events = options.events, at = options.pins, shown = options.pins_shown or options.pins }, Ebpf)
    self.lost_before = self:lost()
    done(self)
  end)
end

--- Removes what dead agents left in this network namespace.
---@param options { pins: string }
---@param done fun(removed: integer?, err: string?)
function M.clear(options, done)
  tc.clear(options.pins, done)
end

function Ebpf:plan(old, new) return new:changes(old) end -- luacheck: ignore 212

-- A device went and has not come back yet.
local function away(done) done(nil, "no device is guarded now") end

function Ebpf:apply(new, done)
  if not self.filter then return away(done) end
  self.filter:apply(new, self.pins, function(ok, err, code)
    if ok then self.policy = new end
    done(ok, err, code)
  end)
end

--- A device came back with another ifindex: programs on what is there now, with the maps that the pins kept. The other
--- devices are guarded all along.
function Ebpf:device(name, done) -- luacheck: ignore 212
  local function again()
    self.open_filter(true, function(filter, err, code)
      if not filter then return done(nil, err, code) end
      self.filter = filter
      filter:apply(self.policy, self.pins, function(ok, why, which)
        if not ok then return done(nil, why, which) end
        done(filter:temporary(self.rules))
      end)
    end)
  end
  if not self.filter then return again() end
  local old = self.filter
  self.filter = nil
  old:finish(true, function()
    old:close()
    again()
  end)
end

--- Whether the programs are on their hooks: false when somebody took one off, or when putting one back failed.
---@return boolean? hooked  nil: it cannot be told, the device is gone
function Ebpf:hooked()
  if not self.filter then return false end
  return (self.filter:hooked())
end

function Ebpf:generation()
  if not self.filter then return nil end
  local status = self.filter:status()
  local n = status and status[1].generation
  return n ~= 0 and n or nil
end

-- Events that the programs could not tell, by their own count.
function Ebpf:lost()
  local sum = 0
  for _, device in ipairs(self.filter and self.filter:status() or {}) do
    sum = sum + device.packets.events_lost + device.packets.events_held
  end
  return sum
end

-- A program tells of a loss with its next event; when none comes any more, its count does.
function Ebpf:tell_lost()
  if self.events.account then self.events:account(math.max(0, self:lost() - self.lost_before)) end
end

function Ebpf:counters(done)
  if not self.filter then return away(done) end
  self:tell_lost()
  self.filter:counters(done)
end

function Ebpf:flows(limit, done)
  if not self.filter then return away(done) end
  self.filter:flows(limit, done)
end

function Ebpf:cut(done)
  if not self.filter then return away(done) end
  self.filter:cut(done)
end

-- Where the rule of an answer stands, by the generation that was applied last.
local function place(self, answer)
  if answer.temporary then
    answer.where = ("temporary:%d"):format(answer.rule)
    for _, rule in ipairs(self.rules) do
      if rule.id == answer.rule then answer.text, answer.reason = rule.text, rule.reason end
    end
    return
  end
  local policy = self.policy
  local rule = answer.rule > 0 and policy and policy:number() == answer.generation and policy:rule(answer.rule)
  answer.where = rule and rule.where or answer.rule == 0 and "default" or ("rule %d"):format(answer.rule)
  if rule then answer.text, answer.reason = rule.text, rule.reason end
end

function Ebpf:explain(flow, done)
  if not self.filter then return away(done) end
  local answer, err = self.filter:ask(flow)
  if not answer then return done(nil, err) end
  place(self, answer)
  done(answer)
end

function Ebpf:temporary(rules, done)
  if not self.filter then -- they come with the programs
    self.rules = rules
    return done(true)
  end
  local ok, err = self.filter:temporary(rules)
  if ok then self.rules = rules end
  done(ok, err)
end

function Ebpf:pin(pins, done)
  self.pins = pins
  if not self.policy or not self.filter then return done(true) end -- they come with the first generation
  self.filter:pin(pins, done)
end

function Ebpf:status()
  if not self.filter then return { name = self.name, devices = {} } end
  local devices = assert(self.filter:status())
  for _, device in ipairs(devices) do -- the agent works by a descriptor of its own, which says nothing to others
    if device.pins:sub(1, #self.at) == self.at then device.pins = self.shown .. device.pins:sub(#self.at + 1) end
  end
  return { name = self.name, hook = devices[1].hook, devices = devices, pinned_addresses = #self.pins,
    temporary_rules = #self.rules }
end

function Ebpf:close(keep, done)
  if not self.filter then return away(done) end
  self:tell_lost()
  self.filter:finish(keep, function(ok, err)
    self.filter:close()
    done(ok, err)
  end)
end

return M
