-- Open flows: the tracked connections that carry the mark of a generation, and what the policy says of them now.
--
-- One that is denied loses its mark, so that its next packet, in either direction, is judged by the rules and refused. It is
-- not forgotten: a packet of its replies would then open a new flow, by other rules.
local addr = require("lattice.policy.addr")
local conntrack = require("lattice.conntrack")
local task = require("lattice.enforcer.iptables.task")
local text = require("lattice.enforcer.iptables.text")

local M = {}

local MOST = 1 << 20
local shift = { out = 24, ["in"] = 28 }

local function must(value, err, code)
  if value == nil then task.fail(err, code) end
  return value
end

local function list(limit)
  return must(task.wait(function(done) return conntrack.list(text.MASK, limit, done) end))
end

local function remark(keys, value, mask)
  if #keys == 0 then return 0 end
  return must(task.wait(function(done) return conntrack.remark(keys, value, mask, done) end))
end

local function mark_of(ct, dir) return ct.mark >> shift[dir] & 15 end

-- A connection as the flow of one direction: the remote end and port as the rules saw them, behind NAT.
local function flow_of(ct, dir)
  if dir == "out" then
    return { dir = "out", proto = ct.proto, addr = ct.reply_src, port = ct.reply_sport, local_addr = ct.src,
      sport = ct.sport }
  end
  return { dir = "in", proto = ct.proto, addr = ct.src, port = ct.reply_sport, local_addr = ct.reply_src,
    sport = ct.sport }
end

local function in_prefix(e, family, hi, lo)
  if e.family ~= family then return false end
  local mask_hi, mask_lo = addr.mask(family, e.len)
  local _, base_hi, base_lo = addr.parse(e.addr)
  return hi & mask_hi == base_hi & mask_hi and lo & mask_lo == base_lo & mask_lo
end

-- The first temporary rule that matches.
local function temporary(rules, flow)
  if #rules == 0 then return nil end
  local family, hi, lo = addr.parse_flat(flow.addr)
  for _, rule in ipairs(rules) do
    for _, e in ipairs(rule.entries) do
      local any_port = e.lo == 0 and e.hi == 65535
      if e.dir == flow.dir and (e.proto == 255 or e.proto == flow.proto)
        and (any_port or (flow.proto == 6 or flow.proto == 17) and flow.port >= e.lo and flow.port <= e.hi)
        and in_prefix(e, family, hi, lo) then return rule end
    end
  end
  return nil
end

local function names_by_address(pins)
  local map = {}
  for _, pin in ipairs(pins) do map[pin.addr] = pin.names end
  return map
end

-- What holds for a flow now: passes, rule number. kept: an open flow may stay unless a temporary rule refuses it.
local function judge(state, names, flow, kept)
  local rule = temporary(state.temporary_rules, flow)
  if rule then return rule.action == "allow" or rule.action == "audit", text.TEMPORARY | rule.id end
  flow.names = names[flow.addr]
  local verdict = state.policy:judge(flow)
  return kept or verdict.verdict == "allow", verdict.rule
end

--- Whether the policy and the temporary rules let a flow pass that begins now.
function M.passes(state, flow)
  local names = {}
  for _, pin in ipairs(state.pins) do
    if pin.addr == flow.addr then names[flow.addr] = pin.names end
  end
  return (judge(state, names, flow))
end

--- In a task: the open flows, at most `limit`. state: { policy, pins, temporary_rules, mark, number }.
function M.open(state, limit, tick)
  local names, out = names_by_address(state.pins), {}
  for _, ct in ipairs(list(limit)) do
    for _, dir in ipairs({ "out", "in" }) do
      if mark_of(ct, dir) > 0 and #out < limit then
        local flow = flow_of(ct, dir)
        local _, rule = judge(state, names, flow)
        flow.rule, flow.names = rule, nil
        flow.generation = mark_of(ct, dir) == state.mark and state.number or 0
        flow.packets, flow.bytes = ct.packets, ct.bytes
        out[#out + 1] = flow
      end
    end
    tick()
  end
  return out
end

--- In a task: judges every open flow; the denied lose their mark, the others get the live one. How many were cut.
---@return integer cut
function M.cut(state, tick)
  local names, cut = names_by_address(state.pins), 0
  local all = list(MOST)
  for _, dir in ipairs({ "out", "in" }) do
    local mask, denied, renewed = 15 << shift[dir], {}, {}
    for _, ct in ipairs(all) do
      local mark = mark_of(ct, dir)
      if mark > 0 then
        local passes = judge(state, names, flow_of(ct, dir), state.keep)
        if not passes then denied[#denied + 1] = ct.key
        elseif mark ~= state.mark then renewed[#renewed + 1] = ct.key end
      end
      tick()
    end
    cut = cut + remark(denied, 0, text.MASK)
    remark(renewed, state.mark << shift[dir], mask)
  end
  return cut
end

--- In a task: no flow carries this mark any more, those that did carry `other`: before it is given to a new generation.
function M.free(mark, other, tick)
  local keys = { out = {}, ["in"] = {} }
  for _, ct in ipairs(list(MOST)) do
    for dir, list_of in pairs(keys) do
      if mark_of(ct, dir) == mark then list_of[#list_of + 1] = ct.key end
    end
    tick()
  end
  for dir, list_of in pairs(keys) do remark(list_of, other << shift[dir], 15 << shift[dir]) end
end

return M
