-- The iptables enforcer (lua/lattice/agent/_meta/contract.lua): chains of our own in the filter tables of IPv4 and IPv6,
-- hooked first in INPUT, OUTPUT and FORWARD for exactly the guarded devices. What they hold is in iptables/text.lua.
--
-- A generation is one transaction a family. The two cannot be one: IPv4 goes first, and if IPv6 is refused IPv4 is put
-- back, so between the two each family is judged by the one generation or the other, and nothing is open that neither
-- allows. Before the first generation all is refused.
local addr = require("lattice.policy.addr")
local backend = require("lattice.enforcer.iptables.backend")
local flows = require("lattice.enforcer.iptables.flows")
local force = require("lattice.enforcer.iptables.force")
local guard = require("lattice.enforcer.iptables.guard")
local iptables = require("lattice.iptables")
local read = require("lattice.enforcer.iptables.read")
local task = require("lattice.enforcer.iptables.task")
local text = require("lattice.enforcer.iptables.text")
local walk = require("lattice.enforcer.iptables.walk")

local M = { name = "iptables" }

---@class lattice.enforcer.Iptables: lattice.enforcer.Enforcer
local Iptables = setmetatable({}, { __index = force.Methods })
Iptables.__index = Iptables

--- Tries both back ends in a namespace of their own.
function M.probe(done)
  task.run(function()
    local name, why, code = backend.choose()
    if not name then task.fail(why, code) end
    return true, ("%s back end: %s"):format(name, why)
  end, done)
end

local must = force.must

function Iptables:turn(fn, done) task.turn(self.queue, fn, done) end

-- ---- the contract ----

--- options as the contract has them, and backend?: "nft"|"legacy", netns?: of tests.
function M.open(options, done)
  task.run(function()
    for _, device in ipairs(options.devices) do
      if not device:find("^[%w_.:@-]+$") or #device > 15 then
        task.fail(("iptables cannot name the device %q (a trailing + means all that begin so)"):format(device), "EINVAL")
      end
    end
    local name, why
    if options.netns then
      name, why = options.backend, "asked for"
    else
      local code
      name, why, code = backend.choose(options.backend)
      if not name then task.fail(why, code) end
    end
    local self = setmetatable({ name = "iptables", backend = name, why = why, devices = options.devices,
      families = backend.families(), given = 0, log = options.log or function() end, queue = {}, temporary_rules = {},
      pins = {}, events = options.events }, Iptables)
    self.tables = assert(iptables.open(name, options.netns))
    local ok, err = pcall(self.begin, self, options.adopt)
    if not ok then
      self.tables:close()
      error(err, 0)
    end
    if self.events then
      local heard, problem = self.events:nflog(text.GROUP)
      if heard == nil and problem then self.log("error", "iptables: no events: " .. problem) end
    end
    self.guard = guard.new(name, function(checked) self:check(checked) end)
    return self
  end, done)
end

function Iptables:begin(adopt)
  -- An agent that was killed between the families' transactions leaves two generations: both were this node's policy, so
  -- they go on, too, until the next one replaces both. Its mark must be that of neither.
  local newest, all = nil, adopt
  for _, family in ipairs(self.families) do
    local number, mark = read.generation(self:save(family))
    if number then self.given = text.MARKS end -- its older marks are not known
    if number and number > (newest or -1) then newest, self.mark = number, mark end
    all = all and number
  end
  if all then
    self.number = newest
    for _, family in ipairs(self.families) do
      local lines = self:hooks(self:save(family))
      if #lines > 0 then must(self:restore(family, text.book(), {}, lines)) end
    end
    self.log("info", ("iptables: generation %d of a former agent goes on"):format(self.number))
    return
  end
  local books = {}
  for _, family in ipairs(self.families) do books[family] = text.closed(family) end
  local ok, err = pcall(self.swap, self, books)
  if ok then return end
  if not self.mark then pcall(self.clear, self) end -- nothing of ours was there: nothing stays
  error(err, 0)
end

function Iptables:plan(old, new) return new:changes(old) end -- luacheck: ignore 212

function Iptables:compile(policy, mark)
  return text.compile(policy, { mark = mark or self.mark, temporary = self.temporary_rules, pins = self.pins },
    task.ticker())
end

function Iptables:apply(new, done)
  self:turn(function()
    local mark = (self.mark or 0) % text.MARKS + 1
    self.given = self.given + 1
    if self.given >= text.MARKS then flows.free(mark, self.mark or 0, task.ticker()) end
    local saves = self:start_saves()
    local gen = self:compile(new, mark)
    self:swap(gen.books, saves)
    self.gen, self.mark, self.number, self.policy, self.keep = gen, mark, gen.number, new, gen.keep
    local rules = 0
    for _, family in ipairs(self.families) do
      for _, lines in pairs(gen.books[family].lines) do rules = rules + #lines end
      gen.books[family] = nil
    end
    self.size = rules
    return true
  end, done)
end

function Iptables:generation() return self.number end

function Iptables:counters(done)
  self:turn(function()
    local counts = { [0] = { packets = 0, bytes = 0 } }
    for _, family in ipairs(self.families) do
      read.counters(self:save(family), text.TEMPORARY, counts)
    end
    return counts
  end, done)
end

-- Chains that change within a generation, in all families or none: those of temporary rules or pins, to hold `list`.
-- Nothing is read back: if others have changed our chains this is refused, and the guard makes all anew.
-- after: what to do then, in the same turn, before the guard looks at what has changed.
function Iptables:change(kind, list, done, after)
  self:turn(function()
    local gen = self.gen
    if not gen then return true end -- the next generation brings them
    local function replace(family, new, old)
      local gone = {}
      for _, name in ipairs(old.names) do
        if not new.lines[name] then gone[#gone + 1] = name end
      end
      return self:restore(family, new, gone)
    end
    local finished = {}
    for _, family in ipairs(self.families) do
      local new, old = text[kind](gen, family, list), text[kind](gen, family, gen[kind])
      local ok, err, code = replace(family, new, old)
      if not ok then
        for _, done_before in ipairs(finished) do
          local back, why = replace(done_before.family, done_before.old, done_before.new)
          if not back then
            self.log("error", ("IPv%d: the rules from before cannot be put back: %s; all is refused"):format(
              done_before.family, why))
            self:restore(done_before.family, text.closed(done_before.family), {})
          end
        end
        task.fail(err, code)
      end
      finished[#finished + 1] = { family = family, new = new, old = old }
    end
    gen[kind] = list
    if after then after() end
    return true
  end, done)
end

--- Open flows are judged again: one that lived by a rule that is gone, or that a new one refuses, is cut.
function Iptables:temporary(rules, done)
  local old, there = self.temporary_rules, false
  self.temporary_rules = rules
  self:change("temporary", rules, function(ok, err, code)
    if not ok and not there then self.temporary_rules = old end
    done(ok, err, code)
  end, function()
    there = true
    if self.policy then flows.cut(self, task.ticker()) end
  end)
end

function Iptables:cut(done)
  self:turn(function()
    if not self.policy then return 0 end
    return flows.cut(self, task.ticker())
  end, done)
end

function Iptables:flows(limit, done)
  self:turn(function()
    if not self.policy then return {} end
    return flows.open(self, limit, task.ticker())
  end, done)
end

--- The rules name the device, so they hold for it as soon as it is there; the hooks are looked after once more.
function Iptables:device(_, done)
  self:turn(function()
    for _, family in ipairs(self.families) do
      local lines = self:hooks(self:save(family))
      if #lines > 0 then must(self:restore(family, text.book(), {}, lines)) end
    end
    return true
  end, done)
end

function Iptables:pin(pins, done)
  local old = self.pins
  self.pins = pins
  self:change("pins", pins, function(ok, err, code)
    if not ok then self.pins = old end
    done(ok, err, code)
  end)
end

--- By the rules as they read back. names of the flow do not count: the pinned addresses do.
function Iptables:explain(flow, done)
  self:turn(function()
    local family = addr.parse_flat(flow.addr or "")
    if not family then task.fail("the flow has no address", "EINVAL") end
    local outcome, err = walk.flow(self:save(family), flow)
    if not outcome then task.fail("cannot tell: " .. err, "EPROTO") end
    local verdict = { verdict = outcome.passed and "allow" or "deny", action = outcome.action,
      rule = outcome.rule or 0, where = "default" }
    if outcome.temporary then
      verdict.temporary, verdict.rule = true, outcome.temporary
      verdict.where = ("temporary:%d"):format(outcome.temporary)
    elseif verdict.rule > 0 then
      local rule = self.policy and self.policy:rule(verdict.rule)
      verdict.where = rule and rule.where or ("rule %d of generation %d"):format(verdict.rule, self.number)
      if rule then verdict.action, verdict.reason, verdict.text = rule.action, rule.reason, rule.text end
    elseif not outcome.rule then
      verdict.where = "no generation is in force"
    end
    return verdict
  end, done)
end

--- What explain tells of a flow, at once and without asking the kernel.
function Iptables:passes(flow) return self.policy ~= nil and flows.passes(self, flow) end

function Iptables:status()
  return { hook = "filter INPUT, FORWARD, OUTPUT", backend = self.backend, backend_reason = self.why,
    devices = self.devices, rules = self.size, generation = self.number, events_group = text.GROUP }
end

function Iptables:clear()
  for _, family in ipairs(self.families) do
    local now = self:save(family)
    local lines = read.hooks(now, { INPUT = {}, FORWARD = {}, OUTPUT = {} }, force.TARGETS)
    local names = read.ours(now)
    if #names > 0 or #lines > 0 then must(self:restore(family, text.book(), names, lines)) end
  end
end

function Iptables:close(keep, done)
  self.closing = true
  self.guard:close()
  self:turn(function()
    if not keep then self:clear() end
    self.tables:close()
    return true
  end, done)
end

--- Removes what a dead agent left, in either back end.
function M.remove(options, done)
  task.run(function()
    for _, name in ipairs(backend.names) do
      if backend.has_ours(name) then
        local self = setmetatable({ families = backend.families(), devices = {}, log = options.log or function() end,
          tables = assert(iptables.open(name)) }, Iptables)
        local ok, err = pcall(self.clear, self)
        self.tables:close()
        if not ok then error(err, 0) end
      end
    end
    return true
  end, done)
end

return M
