-- An ordered list of match boxes (protocol, prefix, ports) as a decision tree of chains: a packet walks some dozens of
-- rules, whatever their number, and meets the same first match as in the list.
--
-- A node sends a packet to exactly one child (goto) by protocol, by address bits or by port; a leaf holds, in order, all
-- boxes that touch its region, up to the first that covers it. So a box is copied where a split cuts through it, the
-- order is kept everywhere, and equal leaves are one chain. Depth is bounded: nf_tables allows 16 gotos in a row.
local M = {}

local LEAF = 64       -- a list this short is walked
local FAN = 32        -- children of a node, at most
local DEPTH = 8
local GROWTH = 4      -- copies that one split may make, as a multiple of its list

local function mask(len)
  return len >= 64 and -1 or -1 << (64 - len), len <= 64 and 0 or -1 << (128 - len)
end

local function same_bits(a_hi, a_lo, b_hi, b_lo, len)
  local hi, lo = mask(len)
  return (a_hi ~ b_hi) & hi == 0 and (a_lo ~ b_lo) & lo == 0
end

-- Length of the common prefix of two numbers, at most `len`.
local function common(a_hi, a_lo, b_hi, b_lo, len)
  local low, high = 0, len
  while low < high do
    local middle = (low + high + 1) // 2
    if same_bits(a_hi, a_lo, b_hi, b_lo, middle) then low = middle else high = middle - 1 end
  end
  return low
end

-- Does the box cover the whole region? A run of name rules (e.run) covers nothing for sure.
local function covers(e, r)
  if e.run or e.proto ~= 255 and e.proto ~= r.proto then return false end
  if e.len > r.len or not same_bits(e.hi, e.low, r.hi, r.low, e.len) then return false end
  return e.from <= r.from and e.to >= r.to
end

-- The list for a region: what touches it, up to the first that covers it.
local function cut(list, region, touches)
  local out, n = {}, 0
  for i = 1, #list do
    local e = list[i]
    if e.run or not touches or touches(e) then
      n = n + 1
      out[n] = e
      if covers(e, region) then break end
    end
  end
  return out
end

local function with(region, fields)
  for _, key in ipairs({ "proto", "hi", "low", "len", "from", "to" }) do
    if fields[key] == nil then fields[key] = region[key] end
  end
  return fields
end

-- ---- the three splits: lists of { region, list, key fields of the dispatching line } ----

local function by_proto(list, region, tick)
  if region.proto then return nil end
  local seen, protos = {}, {}
  for _, e in ipairs(list) do
    if not e.run and e.proto ~= 255 and not seen[e.proto] then
      seen[e.proto], protos[#protos + 1] = true, e.proto
    end
  end
  if #protos == 0 or #protos > FAN then return nil end
  local kids = {}
  for i, proto in ipairs(protos) do
    local r = with(region, { proto = proto })
    tick()
    kids[i] = { region = r, proto = proto,
      list = cut(list, r, function(e) return e.proto == proto or e.proto == 255 end) }
  end
  local rest = with(region, { proto = -1 }) -- one that no box names
  kids[#kids + 1] = { region = rest, list = cut(list, rest, function(e) return e.proto == 255 end) }
  return kids
end

-- What a part of the address space holds more exactly than as a whole.
local function inside(part)
  local count, hi, low, len = 0, nil, nil, nil
  for _, e in ipairs(part.list) do
    if not e.run and e.len > part.region.len then
      count = count + 1
      if not hi then hi, low, len = e.hi, e.low, e.len else
        len = common(hi, low, e.hi, e.low, math.min(len, e.len))
      end
    end
  end
  part.inside, part.hi, part.low, part.common = count, hi, low, len
  return part
end

local function part_of(list, region, hi, low, len)
  local hi_mask, low_mask = mask(len)
  local r = with(region, { hi = hi & hi_mask, low = low & low_mask, len = len })
  return inside({ region = r, address = true, list = cut(list, r, function(e)
    return same_bits(e.hi, e.low, r.hi, r.low, math.min(e.len, len))
  end) })
end

local function split_part(part)
  local r = part.region
  if part.common > r.len then -- all of it is in one corner: that corner, and what is around it
    local rest = cut(part.list, r, function(e) return e.len <= r.len end)
    return part_of(part.list, r, part.hi, part.low, part.common),
      { region = r, address = true, list = rest, inside = 0 }
  end
  local len = r.len + 1
  local hi, low = r.hi, r.low
  if len <= 64 then hi = hi | 1 << (64 - len) else low = low | 1 << (128 - len) end
  return part_of(part.list, r, r.hi, r.low, len), part_of(part.list, r, hi, low, len)
end

local function by_address(list, region, tick)
  local parts = { inside({ region = region, address = true, list = list }) }
  if parts[1].inside == 0 then return nil end
  while #parts < FAN do
    local worst
    for i, part in ipairs(parts) do
      if part.inside > 1 and #part.list > LEAF and part.region.len < 128
        and (not worst or part.inside > parts[worst].inside) then worst = i end
    end
    if not worst then break end
    local a, b = split_part(parts[worst])
    tick()
    parts[worst] = a
    parts[#parts + 1] = b
  end
  if #parts == 1 then return nil end
  for i, part in ipairs(parts) do part.order = i end
  table.sort(parts, function(a, b)
    if a.region.len ~= b.region.len then return a.region.len > b.region.len end
    return a.order < b.order
  end)
  return parts
end

local function by_port(list, region, tick)
  if region.proto ~= 6 and region.proto ~= 17 then return nil end
  local seen, edges = {}, {}
  local function edge(port)
    if port > region.from and port <= region.to and not seen[port] then
      seen[port], edges[#edges + 1] = true, port
    end
  end
  for _, e in ipairs(list) do
    if not e.run then
      edge(e.from)
      edge(e.to + 1)
    end
  end
  if #edges == 0 then return nil end
  table.sort(edges)
  local step = math.max(1, #edges / (FAN - 1))
  local kids, from, at = {}, region.from, step
  while true do
    local next_edge = edges[math.floor(at)]
    local r = with(region, { from = from, to = next_edge and next_edge - 1 or region.to })
    tick()
    kids[#kids + 1] = { region = r, ports = true,
      list = cut(list, r, function(e) return e.from <= r.to and e.to >= r.from end) }
    if not next_edge then return kids end
    from, at = next_edge, at + step
  end
end

-- What a split costs: rules walked in its worst child and on the way, and copies. nil: it is no gain.
local function cost(kids, list)
  if not kids then return nil end
  local worst, total = 0, 0
  for _, kid in ipairs(kids) do
    worst, total = math.max(worst, #kid.list), total + #kid.list
  end
  if total > GROWTH * #list + 64 or worst + #kids // 4 > 0.8 * #list then return nil end
  return worst + #kids // 2 + total // 8
end

local function best_split(list, region, tick)
  local best, least
  for _, split in ipairs({ by_proto, by_address, by_port }) do
    local kids = split(list, region, tick)
    local price = cost(kids, list)
    if price and (not least or price < least) then best, least = kids, price end
  end
  if not best and not region.proto then return by_proto(list, region, tick) end -- its ports can be split then
  return best
end

-- ---- building ----

--- The tree of a list of boxes of one family: { rule, proto (255: any), hi, low (the address in the upper bits of 128),
--- len, from, to (ports) }; or { run } for a run of name rules. Boxes are told apart by `seq`.
--- emit.leaf(list) and emit.node(kids) make a chain and say which; a kid has target and one of proto, address, ports
--- with its region; the last one is unconditional. tick is called often, and may yield.
---@param list table[]
---@param emit { leaf: fun(list: table[]): integer; node: fun(kids: table[]): integer }
---@param tick fun()
---@return integer root
function M.build(list, emit, tick)
  local leaves, nodes = {}, {}

  local function leaf(boxes, key)
    if not leaves[key] then leaves[key] = emit.leaf(boxes) end
    return leaves[key]
  end

  local function grow(boxes, region, depth)
    tick()
    local seqs = {}
    for i, e in ipairs(boxes) do seqs[i] = e.seq end
    local key = table.concat(seqs, ",")
    if #boxes <= LEAF or depth >= DEPTH then return leaf(boxes, key) end
    local kids = best_split(boxes, region, tick)
    if not kids then return leaf(boxes, key) end
    key = {}
    for i, kid in ipairs(kids) do
      kid.target = grow(kid.list, kid.region, depth + 1)
      local r = kid.region
      key[i] = ("%s %x %x %d %d %s"):format(kid.proto or kid.address and "a" or "p", r.hi, r.low, r.len, r.from,
        kid.target)
      kid.list = nil
    end
    key = table.concat(key, ",")
    if not nodes[key] then nodes[key] = emit.node(kids) end
    return nodes[key]
  end

  local all = { hi = 0, low = 0, len = 0, from = 0, to = 65535 }
  return grow(cut(list, all), all, 1)
end

return M
