-- Names on the node: DNS over UDP on the guarded devices waits in a queue. A question is remembered, its answer is held
-- until the enforcer has the addresses for its name, so a client never has an address before the policy knows what it
-- stands for.
--
-- Only an answer to a question that left by such a device counts (same ends, same number, same name); others go on as
-- the policy says and pin nothing. A pin holds for the answer's time to live and a grace. Without this agent the queue
-- has no reader and the kernel drops what would wait: no answer, no pin. DNS over TCP, TLS or HTTPS is not seen: its
-- addresses stay unpinned, and name rules do not open them. Private addresses are the enforcers' to refuse, by the rule.
local address = require("lattice.addr")
local dns = require("lattice.dns")
local loop = require("lattice.loop")
local queue = require("lattice.queue")
local sys = require("lattice.sys")

local M = {}

local GRACE_S, MAX_TTL_S, QUESTION_S = 30, 3600, 10
local MAX_QUESTIONS, MAX_PINS, MAX_KNOWN = 4096, 4096, 4096
local QUEUES = { 21331, 21332, 21333, 21334 } -- the first that nobody has
local SWEEP_MS = 1000

---@class lattice.agent.Names
local Names = {}
Names.__index = Names

local function now(self) return self.clock() // 1000000000 end

-- ---- which names matter ----

local function matches(pattern, name)
  local suffix = pattern:match("^%*(%..+)$")
  if not suffix then return pattern == name end
  return #name > #suffix and name:sub(-#suffix) == suffix
end

-- Some rule speaks of the name: one that could open it, or one that denies it.
local function wanted(self, name)
  if not self.rules then return false end
  local known = self.known[name]
  if known == nil then
    known = (self.rules:resolvable(name))
    for _, rule in ipairs(self.patterns) do known = known or matches(rule.pattern, name) end
    if self.known_count >= MAX_KNOWN then self.known, self.known_count = {}, 0 end
    self.known[name], self.known_count = known, self.known_count + 1
  end
  return known
end

-- ---- pins ----

-- The whole list, for the enforcer: addresses in order, so that equal lists look equal.
local function list_of(self)
  local list = {}
  for addr, names in pairs(self.pins) do
    local of = {}
    for name in pairs(names) do of[#of + 1] = name end
    table.sort(of)
    list[#list + 1] = { addr = addr, names = of }
  end
  table.sort(list, function(a, b) return a.addr < b.addr end)
  return list
end

-- Gives the enforcer the list; `done` runs when it has one that was made after this call. One list at a time.
local function tell(self, done)
  self.waiting[#self.waiting + 1] = done
  if self.telling then return end
  local waiting = self.waiting
  self.waiting, self.telling = {}, true
  self.pin(list_of(self), function(ok, err)
    self.telling = false
    if not ok then self.log("error", "names: the enforcer did not take an address: " .. tostring(err)) end
    for _, one in ipairs(waiting) do one(ok) end
    if #self.waiting > 0 and not self.telling then tell(self, function() end) end
  end)
end

-- Makes room: the pin that ends first goes.
local function drop_first(self)
  local first_addr, first_name, first
  for addr, names in pairs(self.pins) do
    for name, until_s in pairs(names) do
      if not first or until_s < first then first_addr, first_name, first = addr, name, until_s end
    end
  end
  if first then self:remove(first_addr, first_name) end
end

function Names:remove(addr, name)
  self.pins[addr][name] = nil
  if next(self.pins[addr]) == nil then self.pins[addr] = nil end
  self.count = self.count - 1
end

-- Whether something is new: an address that is pinned to the name already only lasts longer.
local function add(self, name, addresses)
  local new = false
  for _, one in ipairs(addresses) do
    local names = self.pins[one.addr]
    local until_s = now(self) + math.min(one.ttl, MAX_TTL_S) + GRACE_S
    if names and names[name] then
      names[name] = math.max(names[name], until_s)
    else
      if self.count >= MAX_PINS then
        drop_first(self)
        self.full = self.full + 1
      end
      self.pins[one.addr] = self.pins[one.addr] or {}
      self.pins[one.addr][name] = until_s
      self.count, new = self.count + 1, true
    end
  end
  return new
end

local function sweep(self)
  local time, gone = now(self), false
  for addr, names in pairs(self.pins) do
    for name, until_s in pairs(names) do
      if until_s <= time or not wanted(self, name) then
        self:remove(addr, name)
        gone = true
      end
    end
  end
  if gone then tell(self, function() end) end
  for key, question in pairs(self.questions) do
    if question.until_s <= time then
      self.questions[key] = nil
      self.asked = self.asked - 1
    end
  end
end

-- ---- packets ----

local function remember(self, key, name, family)
  if self.questions[key] == nil then
    if self.asked >= MAX_QUESTIONS then
      self.full = self.full + 1
      return
    end
    self.asked = self.asked + 1
  end
  self.questions[key] = { name = name, family = family, until_s = now(self) + QUESTION_S }
end

-- Pins the addresses of an answer. "later": its verdict comes when the enforcer has them.
local function pin(self, id, name, addresses)
  if not add(self, name, addresses) then return "accept" end
  self.answers = self.answers + 1
  tell(self, function(ok)
    if self.queue then self.queue:verdict(id, ok and "accept" or "drop") end
  end)
  return "later"
end

-- An answer that was waited for; "later" until the enforcer has its addresses.
local function answered(self, packet, id, key)
  local question = self.questions[key]
  self.questions[key], self.asked = nil, self.asked - 1
  if not wanted(self, question.name) then return "accept" end
  local addresses = dns.addresses(packet, question.name, question.family)
  if not addresses then
    self.odd = self.odd + 1
    return "drop"
  end
  if not self.allowed then return pin(self, id, question.name, addresses) end
  local what, returned = nil, false
  self.allowed(address.format(key:sub(17, 32)), function(allowed)
    what = allowed and pin(self, id, question.name, addresses) or "accept"
    if returned and what ~= "later" and self.queue then self.queue:verdict(id, what) end
  end)
  returned = true
  return what or "later"
end

local function on_packet(self, packet, id)
  local key, name, family = dns.question(packet)
  if key then
    remember(self, key, name, family)
    return "accept"
  end
  key = dns.answer(packet)
  if key and self.questions[key] then return answered(self, packet, id, key) end
  return "accept"
end

-- ---- the object ----

--- Takes away what a killed agent left: without a reader its queue drops all DNS on the devices.
---@return boolean? ok, string? error
function M.clear()
  return dns.release()
end

--- options: config, log, pin = fun(pins, done), devices = names; clock (tests). allowed = fun(server, done): whether
--- a question to this server may leave. One that was seen need not: some enforcers judge behind the queue, and a packet from
--- the server that was allowed in makes the question an answer.
---@param options table
---@param done fun(names: lattice.agent.Names?, err?: string, code?: any)
function M.open(options, done)
  local self = setmetatable({
    log = options.log, pin = options.pin, allowed = options.allowed, clock = options.clock or sys.clock,
    observe = options.config.names.observe ~= false,
    pins = {}, count = 0,          -- address -> name -> until when
    questions = {}, asked = 0,     -- key -> name, family, until when
    patterns = {}, known = {}, known_count = 0,
    waiting = {}, telling = false, -- for the enforcer
    answers = 0, odd = 0, full = 0,
  }, Names)
  if options.config.names.listen then
    return done(nil, "names: listen is not there yet: observe is", "unavailable")
  end
  if not self.observe then return done(self) end
  local err, code
  for _, number in ipairs(QUEUES) do
    self.queue, err, code = queue.open(nil, number, function(packet, id) return on_packet(self, packet, id) end)
    if self.queue then
      self.number = number
      break
    elseif code ~= "EPERM" then
      break
    end
  end
  if not self.queue then return done(nil, "names: " .. tostring(err), code) end
  local ok
  ok, err, code = dns.hold(options.devices, self.number)
  if not ok then
    self.queue:close()
    return done(nil, "names: " .. tostring(err), code)
  end
  self.timer = loop.timer(SWEEP_MS, function() sweep(self) end, SWEEP_MS)
  return done(self)
end

--- The rules of names are those of this generation from now on; pins that it does not speak of go.
---@param generation lattice.policies.Generation
function Names:generation(generation)
  self.rules, self.patterns, self.known, self.known_count = generation, generation:names(), {}, 0
  sweep(self)
end

---@return table
function Names:status()
  local packets, odd = 0, 0
  if self.queue then packets, odd = self.queue:packets() end
  return { observe = self.observe, queue = self.number, pins = self.count, addresses = #list_of(self),
    answers = self.answers, packets = packets, odd = odd + self.odd, full = self.full }
end

---@param done fun(ok: true?, err: string?)
function Names:close(done)
  local ok, err, code = true, nil, nil
  if self.timer then self.timer:close() end
  if self.queue then
    ok, err, code = dns.release()
    self.queue:close()
  end
  self.timer, self.queue = nil, nil
  return done(ok, err, code)
end

return M
