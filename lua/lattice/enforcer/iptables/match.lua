-- What a rule's box of match space is in the words of iptables, and a generation's boxes as ordered lists.
local addr = require("lattice.policy.addr")
local names = require("lattice.policy.names")

local M = {}

-- Which end of a packet is the remote one, and where the judged port is: O and I for packets in the flow's own
-- direction, OR and IR for its replies.
M.variants = {
  O = { dir = "out", addr = "-d", port = "dport", state = "ORIGINAL" },
  OR = { dir = "out", addr = "-s", port = "sport", state = "REPLY" },
  I = { dir = "in", addr = "-s", port = "dport", state = "ORIGINAL" },
  IR = { dir = "in", addr = "-d", port = "sport", state = "REPLY" },
}
M.order = { "O", "OR", "I", "IR" }
M.pairs = { out = { "O", "OR" }, ["in"] = { "I", "IR" } }

-- The address in the upper bits of 128.
local function pad(e, family)
  local _, hi, lo = addr.parse(e.addr)
  if family == 4 then return lo << 32, 0 end
  return hi, lo
end

local function address(variant, box)
  if box.len == 0 then return "" end
  return ("%s %s/%d "):format(variant.addr, box.addr, box.len)
end

function M.ports(variant, proto, ranges)
  local name = proto == 6 and "tcp" or "udp"
  if #ranges == 1 and proto == 6 then -- the udp match asks the resolver for each number, a fifth of the whole time
    local from, to = ranges[1][1], ranges[1][2]
    return ("-p %s -m %s --%s %s "):format(name, name, variant.port, from == to and from or from .. ":" .. to)
  end
  local list = {}
  for i, range in ipairs(ranges) do
    list[i] = range[1] == range[2] and tostring(range[1]) or range[1] .. ":" .. range[2]
  end
  return ("-p %s -m multiport --%ss %s "):format(name, variant.port, table.concat(list, ","))
end

-- Without ports; nil: no packet of this family can be meant.
function M.protocol(proto, family)
  if proto == 255 then return "" end
  if proto == 0 then return family == 4 and '-m u32 --u32 "0x6&0xff=0x0" ' or nil end -- -p 0 would be any
  local name = ({ [1] = "icmp", [6] = "tcp", [17] = "udp", [58] = "ipv6-icmp" })[proto]
  return ("-p %s "):format(name or proto)
end

-- Boxes of one list as match texts with their rule; neighbours that differ only in ports share a line.
function M.matches(variant, family, boxes)
  local out, i = {}, 1
  while i <= #boxes do
    local e = boxes[i]
    if e.run then
      out[#out + 1] = { run = e.run }
    elseif e.from > 0 or e.to < 65535 then
      local ranges = { { e.from, e.to } }
      local used = e.from == e.to and 1 or 2
      while boxes[i + 1] do
        local n = boxes[i + 1]
        local width = not n.run and (n.from == n.to and 1 or 2) or 99
        if n.run or n.rule ~= e.rule or n.proto ~= e.proto or n.len ~= e.len or n.addr ~= e.addr
          or used + width > 15 then break end
        ranges[#ranges + 1], used, i = { n.from, n.to }, used + width, i + 1
      end
      out[#out + 1] = { rule = e.rule, text = address(variant, e) .. M.ports(variant, e.proto, ranges) }
    else
      local text = M.protocol(e.proto, family)
      if text then out[#out + 1] = { rule = e.rule, text = address(variant, e) .. text } end
    end
    i = i + 1
  end
  return out
end

-- ---- from the generation's entries to lists ----

--- Boxes of one family and direction in rule order; ports with any protocol mean tcp and udp.
function M.boxes(entries, family, dir)
  local list = {}
  local function take(e, proto)
    local hi, low = pad(e, family)
    list[#list + 1] = { rule = e.rule, proto = proto, addr = e.addr, len = e.len, hi = hi, low = low,
      from = e.lo, to = e.hi, seq = #list + 1 }
  end
  for _, e in ipairs(entries) do
    if e.family == family and e.dir == dir then
      if e.proto == 255 and (e.lo > 0 or e.hi < 65535) then
        take(e, 6)
        take(e, 17)
      elseif e.proto == 6 or e.proto == 17 or e.lo == 0 and e.hi == 65535 then
        take(e, e.proto)
      end -- ports of a protocol that has none match nothing
    end
  end
  return list
end

-- Name rules that no address rule stands between, in order: { id, first, names = {...} }.
local function runs_of(entries, list)
  local at, runs, run = 1, {}, nil
  for _, n in ipairs(list) do
    local between = not run
    while entries[at] and entries[at].rule < n.rule do
      between, at = between or entries[at].rule > run.first, at + 1
    end
    if between then
      run = { id = #runs + 1, first = n.rule, names = {} }
      runs[#runs + 1] = run
    end
    run.names[#run.names + 1] = n
  end
  return runs
end

-- Puts the runs into a list of boxes, each before the first box of a later rule.
function M.weave(boxes, runs)
  if #runs == 0 then return boxes end
  local out, at = {}, 1
  for _, run in ipairs(runs) do
    while boxes[at] and boxes[at].rule <= run.first do
      out[#out + 1], at = boxes[at], at + 1
    end
    out[#out + 1] = { run = run }
  end
  table.move(boxes, at, #boxes, #out + 1, out)
  for i, e in ipairs(out) do e.seq = i end
  return out
end

--- All entries and names of a generation, by direction, in order.
---@param generation lattice.policies.Generation
---@param tick fun()
function M.source(generation, tick)
  local source = { out = { entries = {}, names = {} }, ["in"] = { entries = {}, names = {} }, dirs = {} }
  local from = 1
  while true do
    local page = generation:entries(from, 2000)
    for _, e in ipairs(page) do
      local side = source[e.dir]
      side.entries[#side.entries + 1] = e
      source.dirs[e.rule] = e.dir
    end
    tick()
    if #page < 2000 then break end
    from = from + 2000
  end
  for _, n in ipairs(generation:names()) do
    local side = source[n.dir]
    side.names[#side.names + 1] = n
    source.dirs[n.rule] = n.dir
  end
  for _, dir in ipairs({ "out", "in" }) do
    local side = source[dir]
    for _, list in ipairs({ side.entries, side.names }) do
      for i, e in ipairs(list) do e.nth = i end
      table.sort(list, function(a, b)
        if a.rule ~= b.rule then return a.rule < b.rule end
        return a.nth < b.nth
      end)
    end
    side.runs = runs_of(side.entries, side.names)
  end
  return source
end

--- The boxes of the addresses that stand for the names of a run now.
function M.pinned(run, pins, family, dir)
  local list = {}
  for _, n in ipairs(run.names) do
    for _, pin in ipairs(pins) do
      local of, hi, lo = addr.parse_flat(pin.addr)
      local hit = false
      if of == family and (n.private or not n.allows or not addr.is_private(of, hi, lo)) then
        for _, one in ipairs(pin.names) do hit = hit or names.matches(n.pattern, one) end
      end
      if hit then
        list[#list + 1] = { family = family, dir = n.dir, rule = n.rule, proto = n.proto, lo = n.lo, hi = n.hi,
          addr = addr.format(of, hi, lo), len = family == 4 and 32 or 128 }
      end
    end
  end
  return M.boxes(list, family, dir)
end

return M
