-- Random policies (as text) and flows that aim at their edges. Same seed, same output, in every Lua 5.4.
local M = {}

---@class lattice.test.Gen
local Gen = {}
Gen.__index = Gen

--- A generator; below(n) gives 1..n.
---@param seed integer
function M.new(seed)
  return setmetatable({ state = seed * 0x9e3779b97f4a7c15 }, Gen)
end

function Gen:next()
  self.state = self.state + 0x9e3779b97f4a7c15
  local z = self.state
  z = (z ~ z >> 30) * 0xbf58476d1ce4e5b9
  z = (z ~ z >> 27) * 0x94d049bb133111eb
  return z ~ z >> 31
end

function Gen:below(n) return (self:next() >> 1) % n + 1 end

function Gen:pick(list) return list[self:below(#list)] end

function Gen:chance(one_in) return self:below(one_in) == 1 end

-- Few distinct bytes and words, so that prefixes nest, touch and repeat.
local bytes = { 0, 1, 10, 42, 127, 128, 169, 192, 203, 254, 255 }
local words = { 0, 0, 0, 1, 0xdb8, 0x2001, 0xfd00, 0xfe80, 0x8000, 0xffff, 0x64, 0xff9b }
local names = { "a.example", "b.example", "example", "x.a.example", "cdn.site.org", "site.org", "www.site.org",
  "deep.x.a.example", "localhost", "db.lan" }
local patterns = { "a.example", "*.example", "*.a.example", "site.org", "*.site.org", "*.org", "db.lan", "*.lan",
  "x.a.example", "www.site.org" }
local lens = { [4] = { 0, 8, 16, 24, 32, 32, 31, 9, 1 }, [6] = { 0, 8, 32, 48, 64, 65, 96, 127, 128, 128 } }
local protos = { "tcp", "udp", "tcp", "udp", "icmp", "icmpv6", "47", "132" }
local numbers = { tcp = 6, udp = 17, icmp = 1, icmpv6 = 58, ["47"] = 47, ["132"] = 132 }
local proto_numbers = { 6, 17, 6, 17, 6, 17, 1, 58, 47, 132, 2 }
local ports = { 1, 22, 53, 80, 443, 444, 1023, 1024, 8080, 65534, 65535 }

-- An address as a list of bits' carriers: 4 bytes or 8 words.
local function address(g, family)
  local parts = {}
  for i = 1, family == 4 and 4 or 8 do parts[i] = g:pick(family == 4 and bytes or words) end
  if family == 6 then parts[1] = g:pick({ 0x2001, 0xfd00, 0xfe80, 0x64, 0x2002 }) end
  return parts
end

local function text(family, parts)
  if family == 4 then return table.concat(parts, ".") end
  local hex = {}
  for i, word in ipairs(parts) do hex[i] = ("%x"):format(word) end
  return table.concat(hex, ":")
end

-- The same address with its bits beyond len: "zero", "one", or changed at random.
local function beyond(g, family, parts, len, how)
  local width, out = family == 4 and 8 or 16, {}
  for i, part in ipairs(parts) do
    local keep = math.max(0, math.min(width, len - (i - 1) * width))
    local mask = (1 << (width - keep)) - 1
    local low = how == "zero" and 0 or how == "one" and mask or g:next() & mask
    out[i] = part & ~mask & ((1 << width) - 1) | low
  end
  return out
end

local function prefix(g)
  local family = g:chance(2) and 4 or 6
  local len = g:pick(lens[family])
  if g:chance(4) then len = g:below(family == 4 and 33 or 129) - 1 end
  local parts = beyond(g, family, address(g, family), len, "zero")
  return { family = family, len = len, parts = parts, text = text(family, parts) .. "/" .. len }
end

local function range(g)
  local p = prefix(g)
  if p.len == 0 then p.len = 1 end
  local last = beyond(g, p.family, p.parts, p.len, g:chance(2) and "one" or "random")
  p.text = text(p.family, p.parts) .. "-" .. text(p.family, last)
  return p
end

local function destinations(g, made)
  if g:chance(8) then return "any" end
  local list = {}
  for _ = 1, g:chance(3) and g:below(5) or 1 do
    local kind, p = g:below(10), nil
    if kind <= 5 then p = prefix(g) elseif kind <= 7 then p = range(g) end
    if p then made[#made + 1] = p end
    p = p or { text = g:pick(patterns) }
    p.name = not p.parts and p.text or nil
    if p.name then made[#made + 1] = p end
    list[#list + 1] = p.text
  end
  return table.concat(list, ", ")
end

local function port_list(g)
  local list, first = {}, nil
  for i = 1, g:chance(3) and g:below(4) or 1 do
    local lo, hi = g:pick(ports), g:chance(3) and g:below(65535) or g:pick(ports)
    list[i] = g:chance(2) and tostring(lo) or math.min(lo, hi) .. "-" .. math.max(lo, hi)
    first = first or lo
  end
  return table.concat(list, ", "), first
end

local function rule(g, made)
  local incoming = g:chance(4)
  local proto = g:pick({ "any", "tcp", "udp", "tcp", "tcp, udp", g:pick(protos) })
  local before = #made
  local fields = { ('%s = "%s"'):format(incoming and "from" or "to", destinations(g, made)) }
  local number, port = numbers[proto:match("^%w+")], nil
  if incoming then fields[#fields + 1] = 'dir = "in"' end
  fields[#fields + 1] = ('proto = "%s"'):format(proto)
  if (proto == "any" or proto:match("tcp") or proto:match("udp")) and not g:chance(4) then
    local list
    list, port = port_list(g)
    fields[#fields + 1] = ('port = "%s"'):format(list)
  end
  for i = before + 1, #made do
    made[i].dir, made[i].proto, made[i].port = incoming and "in" or "out", number, port
  end
  if g:chance(5) then fields[#fields + 1] = "private = true" end
  if g:chance(5) then fields[#fields + 1] = ('reason = "r%d"'):format(g:below(9)) end
  local action = g:pick({ "allow", "allow", "deny", "deny", "drop", "audit", "ask" })
  return ("%s { %s }"):format(action, table.concat(fields, ", "))
end

--- The text of a policy with `count` rules, and what it aims at.
---@param g lattice.test.Gen
---@param count integer
---@return string text
---@return table[] made
function M.policy(g, count)
  local lines = { 'policy "generated"', ('default "%s"'):format(g:pick({ "deny", "deny", "allow", "drop" })) }
  local made = {}
  for _ = 1, count do lines[#lines + 1] = rule(g, made) end
  return table.concat(lines, "\n") .. "\n", made
end

-- Inside the prefix, or now and then just beside it.
local function near(g, p)
  local parts = beyond(g, p.family, p.parts, p.len, g:pick({ "zero", "one", "random" }))
  if p.len > 0 and g:chance(4) then
    local width = p.family == 4 and 8 or 16
    local at = (p.len - 1) // width + 1
    parts[at] = parts[at] ~ 1 << (width - 1 - (p.len - 1) % width)
  end
  return parts
end

-- The protocol and port of what it aims at, or one beside it.
local function aim(g, flow, target)
  flow.dir, flow.proto = target.dir, target.proto or flow.proto
  flow.port = target.port or flow.port
  if g:chance(4) then flow.port = math.max(0, math.min(65535, flow.port + g:below(3) - 2)) end
  if target.name then flow.names = { (target.name:gsub("^%*", g:pick({ "www", "x.y" }))) } end
end

--- A flow; most aim into, or just beside, something that the policy names.
---@param g lattice.test.Gen
---@param made table[]
---@return table flow
function M.flow(g, made)
  local flow = { dir = g:chance(4) and "in" or "out", proto = g:pick(proto_numbers), port = g:pick(ports) }
  local target = made[1] and not g:chance(4) and g:pick(made) or nil
  local family = target and target.family or g:chance(2) and 4 or 6
  local parts = target and target.parts and near(g, target) or address(g, family)
  if g:chance(4) then flow.port = g:below(65536) - 1 end
  if target and not g:chance(4) then aim(g, flow, target) end
  flow.addr = text(family, parts)
  if family == 4 and g:chance(6) then flow.addr = "::ffff:" .. flow.addr end
  if g:chance(4) then
    flow.names = flow.names or {}
    for _ = 1, g:below(3) do flow.names[#flow.names + 1] = g:pick(names) end
  end
  return flow
end

return M
