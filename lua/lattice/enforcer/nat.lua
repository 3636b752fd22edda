-- NAT and FORWARD for configured pairs: no policy, and the same under every enforcer. iptables rules of our own:
--
--   nat     LATTICE-NAT      nat { source, out }: MASQUERADE for exactly that source out of that device
--   filter  LATTICE-FORWARD  forward { from, to }: flows that `from` opens to `to`, and their replies; exactly these
--
-- LATTICE-FORWARD stands behind the hooks of the iptables enforcer, so the policy of a guarded device still decides, and
-- before everybody else's rules. Forwarding is switched on where a pair needs it; where it was off, nothing but the pairs is
-- forwarded (the chain ends in DROP), and close puts it back. What it was stands in a comment in the chain, so that the
-- next agent finds it after a crash.
local addr = require("lattice.policy.addr")
local backend = require("lattice.enforcer.iptables.backend")
local iptables = require("lattice.iptables")
local read = require("lattice.enforcer.iptables.read")
local task = require("lattice.enforcer.iptables.task")
local text = require("lattice.enforcer.iptables.text")

local M = {}

---@class lattice.enforcer.Nat
local Nat = {}
Nat.__index = Nat

local HOOK = "-m comment --comment lattice -j "
local POLICY = { ["LATTICE-IN"] = true, ["LATTICE-OUT"] = true }
local chain_of = { filter = "LATTICE-FORWARD", nat = "LATTICE-NAT" }
local hook_of = { filter = "FORWARD", nat = "POSTROUTING" }
local switch = { [4] = "/proc/sys/net/ipv4/ip_forward", [6] = "/proc/sys/net/ipv6/conf/all/forwarding" }

-- ---- forwarding in the kernel ----

local function forwarding(family)
  local f = io.open(switch[family])
  if not f then return nil end
  local value = f:read("l")
  f:close()
  return value
end

local function set_forwarding(family, value)
  local f, err = io.open(switch[family], "w")
  if not f then return nil, err end
  local ok, why = f:write(value)
  local closed, late = f:close()
  if not ok or not closed then return nil, ("%s: %s"):format(switch[family], why or late) end
  return true
end

-- ---- the rules ----

local function source_family(pair) return pair.kind == "nat" and (pair.source:find(":", 1, true) and 6 or 4) or nil end

-- As iptables-save writes it.
local function prefix(source)
  local where, len = source:match("^([^/]+)/(%d+)$")
  local family, hi, lo = addr.parse(where or source)
  if not family then return nil end
  return ("%s/%s"):format(addr.format(family, hi, lo), len or (family == 4 and 32 or 128))
end

local function check(pairs_)
  for _, pair in ipairs(pairs_) do
    for _, key in ipairs(pair.kind == "nat" and { "out" } or { "from", "to" }) do
      local device = pair[key]
      if type(device) ~= "string" or not device:find("^[%w_.:@-]+$") or #device > 15 then
        task.fail(("%s: %s %s: %q cannot be a device in iptables"):format(pair.where or "nat", pair.kind, key,
          tostring(device)), "EINVAL")
      end
    end
    if pair.kind == "nat" and not prefix(pair.source) then
      task.fail(("%s: nat source: %q is no prefix"):format(pair.where or "nat", tostring(pair.source)), "EINVAL")
    end
  end
end

local function nat_book(pairs_, family)
  local book, any = text.book(), false
  book:chain("LATTICE-NAT")
  for _, pair in ipairs(pairs_) do
    if source_family(pair) == family then
      book:add("LATTICE-NAT", ("-s %s -o %s -j MASQUERADE"):format(prefix(pair.source), pair.out))
      any = true
    end
  end
  return any and book or nil
end

-- was: what forwarding was before us; "0": only the pairs are forwarded.
local function forward_book(pairs_, family, was)
  local book, chain, any = text.book(), "LATTICE-FORWARD", false
  local icmp = family == 4 and "icmp" or "ipv6-icmp"
  if was then book:add(chain, ('-m comment --comment "lattice forwarding was %s"'):format(was)) end
  for _, pair in ipairs(pairs_) do
    if pair.kind == "forward" then
      any = true
      local there, back = ("-i %s -o %s"):format(pair.from, pair.to), ("-i %s -o %s"):format(pair.to, pair.from)
      book:add(chain, there .. " -m conntrack --ctstate NEW,ESTABLISHED --ctdir ORIGINAL -j ACCEPT")
      book:add(chain, back .. " -m conntrack --ctstate ESTABLISHED --ctdir REPLY -j ACCEPT")
      for _, way in ipairs({ there, back }) do
        book:add(chain, ("%s -p %s -m conntrack --ctstate RELATED -j ACCEPT"):format(way, icmp))
      end
    elseif source_family(pair) == family then
      any = true
    end
  end
  if was == "0" then
    for _, pair in ipairs(pairs_) do
      if source_family(pair) == family then
        book:add(chain, ("-s %s -o %s -j RETURN"):format(prefix(pair.source), pair.out))
        book:add(chain, ("-d %s -i %s -m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY -j RETURN")
          :format(prefix(pair.source), pair.out))
      end
    end
    book:add(chain, "-j DROP")
  end
  return any and book or nil
end

-- ---- steps of tasks ----

local function legacy_has(family, name)
  local f = io.open(family == 4 and "/proc/net/ip_tables_names" or "/proc/net/ip6_tables_names")
  if not f then return false end
  local all = "\n" .. (f:read("a") or "") .. "\n"
  f:close()
  return all:find("\n" .. name .. "\n", 1, true) ~= nil
end

-- nil: nothing is there, and nothing was made by looking.
function Nat:save(family, name, wanted)
  if not wanted and self.backend == "legacy" and not legacy_has(family, name) then return nil end
  local saved, err, code = task.wait(function(done) return self.tables:save(family, name, done) end)
  if not saved then task.fail(err, code) end
  local now = read.parse(saved)
  if not now.chains[hook_of[name]] then
    now.names[#now.names + 1], now.chains[hook_of[name]] = hook_of[name], {}
  end
  return now
end

-- Puts one table of a family right; book nil: nothing of ours stays. What was there, for putting back.
function Nat:set(family, name, book)
  local chain, hook = chain_of[name], hook_of[name]
  local now = self:save(family, name, book)
  if not now or not book and not now.chains[chain] then return nil end
  local lines = read.hooks(now, { [hook] = book and { HOOK .. chain } or {} }, { [chain] = true }, POLICY)
  local made = text.transaction(book or text.book(), book and {} or { chain }, lines, name)
  local ok, err, code = task.wait(function(done) return self.tables:apply(family, made, done) end)
  if not ok then task.fail(err, code) end
  local old
  if now.chains[chain] then
    old = text.book()
    old:chain(chain)
    for _, rule in ipairs(now.chains[chain]) do old:add(chain, rule.text) end
  end
  return { family = family, name = name, old = old }
end

-- What forwarding was before us, by the comment in the chain.
function Nat:was(family)
  local now = self:save(family, "filter", true)
  local head = now.chains["LATTICE-FORWARD"] and now.chains["LATTICE-FORWARD"][1]
  return head and head.text:match("lattice forwarding was (%d+)")
end

function Nat:forward(family, pairs_)
  local needed, was = false, self:was(family)
  for _, pair in ipairs(pairs_) do
    if pair.kind == "forward" and family == 4 or source_family(pair) == family then needed = true end
  end
  return needed, was
end

-- All of it: rules first, and the kernel forwards only when they are in force.
function Nat:put(pairs_)
  check(pairs_)
  local undo = {}
  local ok, err = pcall(function()
    for _, family in ipairs(self.families) do
      local needed, was = self:forward(family, pairs_)
      local now = forwarding(family)
      if needed and not was then was = now end
      if not needed and was then -- back to what it was, before the rules go
        if was == "0" then assert(set_forwarding(family, "0")) end
        was = nil
      end
      undo[#undo + 1] = self:set(family, "nat", nat_book(pairs_, family))
      undo[#undo + 1] = self:set(family, "filter", forward_book(pairs_, family, needed and was or nil))
      if needed and now ~= "1" then
        local switched, why = set_forwarding(family, "1")
        if not switched then task.fail("switch forwarding on: " .. why, "EPERM") end
        self.log("info", ("IPv%d forwarding is on for %d pairs, and only for them"):format(family, #pairs_))
      end
    end
  end)
  if ok then return true end
  for i = #undo, 1, -1 do
    local step = undo[i]
    pcall(self.set, self, step.family, step.name, step.old)
  end
  error(err, 0)
end

-- ---- the contract ----

function Nat:turn(fn, done) task.turn(self.queue, fn, done) end

--- Puts the rules of the pairs in force, whatever a former agent left. options: { log, backend?, netns? (of tests) }.
---@param pairs_ lattice.agent.Pair[]
---@param options { log: fun(level: string, text: string), backend?: string }
---@param done fun(nat: lattice.enforcer.Nat?, err: string?, code: string?)
function M.open(pairs_, options, done)
  task.run(function()
    local name, why, code = backend.choose(options.backend)
    if not name then
      -- without iptables and without pairs there is nothing to do
      if #pairs_ == 0 then return setmetatable({ pairs = {}, queue = {}, families = {} }, Nat) end
      task.fail("NAT and forwarding need iptables: " .. why, code)
    end
    local self = setmetatable({ backend = name, why = why, families = backend.families(), queue = {}, pairs = pairs_,
      log = options.log or function() end }, Nat)
    self.tables = assert(iptables.open(name))
    local ok, err = pcall(self.put, self, pairs_)
    if not ok then
      self.tables:close()
      error(err, 0)
    end
    return self
  end, done)
end

--- Removes what a dead agent left.
function M.remove(options, done)
  M.open({}, options, function(nat, err, code)
    if not nat then return done(nil, err, code) end
    return nat:close(false, done)
  end)
end

function Nat:change(pairs_, done)
  self:turn(function()
    if not self.tables then
      if #pairs_ > 0 then task.fail("NAT and forwarding need iptables, which does not work here", "ENOENT") end
      return true
    end
    self:put(pairs_)
    self.pairs = pairs_
    return true
  end, done)
end

function Nat:status()
  local list = {}
  for i, pair in ipairs(self.pairs) do
    list[i] = pair.kind == "nat" and ("nat %s out %s"):format(pair.source, pair.out)
      or ("forward %s to %s"):format(pair.from, pair.to)
  end
  return { backend = self.backend, backend_reason = self.why, pairs = list }
end

function Nat:close(keep, done)
  self:turn(function()
    if not self.tables then return true end
    if not keep then self:put({}) end
    self.tables:close()
    self.tables = nil
    return true
  end, done)
end

return M
