-- Random policies and flows for the agreement tests: nested and overlapping prefixes, ranges, lists, any-protocol rules,
-- names, both families, both directions; and flows that sit on the edges of what the rules name. The same seed gives
-- the same output on every machine (an own generator: math.random differs between versions).
--
--   local gen = require("tests.support.gen")
--   local g = gen.new(42)
--   local text = g:policy(30)             -- text of a policy with 30 rules
--   local loaded = assert(policy.load({ sources = { { name = "g.lua", text = text } } }))
--   for _, flow in ipairs(g:flows(loaded, 1000)) do ... end
local addr = require("lattice.policy.addr")

local M = {}

---@class lattice.test.Generator
local Generator = {}
Generator.__index = Generator

--- A generator; seed: any integer.
---@param seed integer
---@return lattice.test.Generator
function M.new(seed)
  return setmetatable({ state = seed ~ 0x5deece66d }, Generator)
end

--- The next 64 bits (splitmix64).
function Generator:bits()
  self.state = self.state + 0x9e3779b97f4a7c15
  local z = self.state
  z = (z ~ z >> 30) * 0xbf58476d1ce4e5b9
  z = (z ~ z >> 27) * 0x94d049bb133111eb
  return z ~ z >> 31
end

--- An integer in low..high.
function Generator:pick(low, high)
  return low + (self:bits() >> 1) % (high - low + 1)
end

function Generator:one(list) return list[self:pick(1, #list)] end

--- True with a probability of n in 100.
function Generator:chance(n) return self:pick(1, 100) <= n end

-- A few trunks, so that prefixes nest and overlap instead of missing each other.
local trunks4 = { 0x0a000000, 0x0a2a0000, 0xc0000200, 0xcb007100, 0x7f000000, 0 }
local trunks6 = { 0x20010db800000000, 0x20010db8000a0000, 0xfd00000000000000, 0 }

function Generator:address()
  if self:chance(60) then
    local trunk, spread = self:one(trunks4), self:one({ 4, 8, 16, 24, 32 })
    return 4, 0, (trunk ~ (self:bits() & ((1 << spread) - 1))) & 0xffffffff
  end
  local trunk, spread = self:one(trunks6), self:one({ 0, 4, 16, 32 })
  local hi = trunk ~ (spread > 0 and self:bits() & ((1 << spread) - 1) or 0)
  local lo = self:chance(50) and self:pick(0, 15) or self:bits()
  if hi == 0 and lo >> 32 == 0xffff then lo = 1 end -- not a v4-mapped one
  return 6, hi, lo
end

function Generator:prefix()
  local family, hi, lo = self:address()
  local bits = family == 4 and 32 or 128
  local len = self:chance(25) and bits or self:pick(0, bits)
  if self:chance(60) then len = self:one(family == 4 and { 8, 16, 24, 28, 32 } or { 32, 48, 64, 127, 128 }) end
  local mask_hi, mask_lo = addr.mask(family, len)
  hi, lo = hi & mask_hi, lo & mask_lo
  if family == 6 and addr.is_mapped(hi, lo) then hi, lo, len = 0, 0, 0 end
  return addr.format(family, hi, lo) .. (len == bits and self:chance(50) and "" or "/" .. len)
end

function Generator:range()
  local family, hi, lo = self:address()
  local last = lo + self:pick(0, 300)
  if family == 4 and last > 0xffffffff or family == 6 and math.ult(last, lo) then last = lo end
  return addr.format(family, hi, lo) .. "-" .. addr.format(family, hi, last)
end

local names = { "a.example", "b.example", "x.a.example", "y.x.a.example", "db.test", "api.db.test" }

function Generator:name()
  local name = self:one(names)
  return self:chance(40) and "*." .. name or name
end

function Generator:destination()
  local n = self:pick(1, 100)
  if n <= 12 then return "any" end
  if n <= 16 then return "host" end
  if n <= 65 then return self:prefix() end
  if n <= 80 then return self:range() end
  return self:name()
end

local edges = { 1, 2, 22, 79, 80, 81, 443, 1023, 1024, 5432, 8000, 8999, 9000, 32767, 32768, 65534, 65535 }

function Generator:port_item()
  local low = self:chance(70) and self:one(edges) or self:pick(1, 65535)
  if self:chance(50) then return tostring(low) end
  local high = self:chance(50) and math.min(65535, low + self:pick(0, 200)) or self:pick(low, 65535)
  return low .. "-" .. high
end

--- A list of `make` results, 1 to `most`.
function Generator:list(make, most)
  local parts = {}
  for i = 1, self:chance(60) and 1 or self:pick(1, most) do parts[i] = make(self) end
  return table.concat(parts, ", ")
end

--- The text of one rule, without its action.
---@return string
function Generator:rule()
  local coming = self:chance(25)
  local ported = self:chance(60)
  local protos
  if ported then
    protos = self:one({ "tcp", "tcp", "udp", "any", "tcp, udp", "udp, 6" })
  else
    protos = self:one({ "tcp", "udp", "any", "icmp", "icmpv6", "icmp, tcp", "47", "132, udp" })
  end
  local text = ("%s%s %s %s"):format(coming and "in " or "", protos, coming and "from" or "to",
    self:list(Generator.destination, 4))
  if ported then text = text .. " port " .. self:list(Generator.port_item, 4) end
  return text
end

--- The text of a policy with `count` rules.
---@param count integer
---@return string
function Generator:policy(count)
  local lines = { ('default "%s"'):format(self:one({ "deny", "deny", "allow", "drop", "audit", "ask" })) }
  for _ = 1, count do
    local action = self:one({ "allow", "allow", "deny", "drop", "ask", "audit" })
    local private = self:chance(10) and ", { private = true }" or ""
    lines[#lines + 1] = ('%s("%s"%s)'):format(action, self:rule(), private)
  end
  return table.concat(lines, "\n") .. "\n"
end

--- First, last and neighbours of a prefix, as address texts.
local function border(p, out)
  local family, hi, lo = addr.parse(p.addr)
  local mask_hi, mask_lo = addr.mask(family, p.len)
  local last_hi, last_lo = hi | ~mask_hi, lo | ~mask_lo
  if family == 4 then last_hi, last_lo = 0, last_lo & 0xffffffff end
  out[#out + 1] = addr.format(family, hi, lo)
  out[#out + 1] = addr.format(family, last_hi, last_lo)
  local top = family == 4 and 0xffffffff or -1
  if lo ~= 0 then out[#out + 1] = addr.format(family, hi, lo - 1) end
  if last_lo ~= top then out[#out + 1] = addr.format(family, last_hi, last_lo + 1) end
end

local function edge_lists(policy)
  local addresses = { "203.0.113.9", "2001:db8:ffff::1", "::", "0.0.0.0" }
  local ports, protos = { 0, 1, 65535 }, { 6, 17, 1, 58, 47 }
  for _, rule in ipairs(policy.rules) do
    for _, p in ipairs(rule.prefixes) do border(p, addresses) end
    for _, range in ipairs(rule.ports or {}) do
      for _, port in ipairs({ range[1], range[2], range[1] - 1, range[2] + 1 }) do
        if port >= 0 and port <= 65535 then ports[#ports + 1] = port end
      end
    end
    for _, proto in ipairs(rule.protos or {}) do protos[#protos + 1] = proto end
  end
  return addresses, ports, protos
end

--- Flows for a loaded policy, most of them on the edges of its rules. `with_names`: some carry pinned names.
---@param policy table
---@param count integer
---@param with_names? boolean
---@return table[] flows  { dir, proto, addr, port, names? }
function Generator:flows(policy, count, with_names)
  local addresses, ports, protos = edge_lists(policy)
  local flows = {}
  for i = 1, count do
    local proto = self:chance(75) and self:one({ 6, 17 }) or self:one(protos)
    local address = self:one(addresses)
    if self:chance(15) then address = addr.format(self:address()) end
    local flow = {
      dir = self:chance(25) and "in" or "out", proto = proto, addr = address,
      port = (proto == 6 or proto == 17) and (self:chance(85) and self:one(ports) or self:pick(0, 65535)) or 0,
    }
    if with_names and self:chance(40) then
      flow.names = { self:one(names) }
      if self:chance(20) then flow.names[2] = "z." .. self:one(names) end
    end
    flows[i] = flow
  end
  return flows
end

return M
