-- The decision tree of the iptables enforcer: many rules, walked as the kernel walks them, give the C tables' verdict and
-- rule, and few rules are walked. (Real packets: tests/agree/iptables_spec.lua.)
local gen = dofile("tests/support/gen.lua")
local loop = require("lattice.loop")
local policies = require("lattice.policies")
local read = require("lattice.enforcer.iptables.read")
local text = require("lattice.enforcer.iptables.text")
local walk = require("lattice.enforcer.iptables.walk")

local function load(source)
  local path = os.tmpname()
  local f <close> = assert(io.open(path, "w"))
  f:write(source)
  f:close()
  local generation, why
  policies.load({ number = 7, files = { path } }, function(g, err) generation, why = g, err end)
  loop.run()
  os.remove(path)
  return assert(generation, why)
end

-- The rules as iptables-save would write them.
local function saved(book)
  local out = {}
  for _, name in ipairs(book.names) do out[#out + 1] = ":" .. name .. " - [0:0]" end
  for _, name in ipairs(book.names) do
    for _, line in ipairs(book.lines[name]) do out[#out + 1] = "[0:0] " .. line end
  end
  return read.parse(table.concat(out, "\n"))
end

-- Judges flows by the rules and by the tables; the most rules that one of them met.
local function agree(source, flows, most)
  local generation <close> = load(source)
  local compiled = text.compile(generation, { mark = 1, temporary = {}, pins = {} }, function() end)
  local rules = { [4] = saved(compiled.books[4]), [6] = saved(compiled.books[6]) }
  local worst = 0
  for _, flow in ipairs(flows) do
    local want = generation:judge(flow)
    local got = assert(walk.flow(rules[flow.addr:find(":") and 6 or 4], flow))
    local told = ("%s rule %d"):format(got.passed and "allow" or "deny", got.rule)
    if told ~= ("%s rule %d"):format(want.verdict, want.rule) then
      error(("flow %s %d %s %d: the tables say %s rule %d, the chains %s"):format(flow.dir, flow.proto, flow.addr, flow.port,
        want.verdict, want.rule, told))
    end
    worst = math.max(worst, got.steps)
  end
  assert.is_true(worst <= most, worst .. " rules walked")
end

local function aimed(g, targets, count)
  local flows = {}
  for i = 1, count do
    flows[i] = { dir = g:chance(25) and "in" or "out", proto = g:one({ 6, 6, 17, 1, 47 }), addr = g:one(targets),
      port = g:pick(1, 320) }
  end
  return flows
end

describe("the iptables enforcer's tree", function()
  it("is exact for 4000 rules of many shapes, and a packet meets some dozens", function()
    local g, lines, targets = gen.new(7), { 'default "deny"' }, {}
    for i = 1, 4000 do
      local a = ("10.%d.%d.%d"):format(g:pick(0, 30), g:pick(0, 255), g:pick(0, 255))
      local b = ("fd00:%x:%x::%x"):format(g:pick(0, 20), g:pick(0, 65535), g:pick(0, 65535))
      local action, kind = g:one({ "allow", "deny", "drop", "audit" }), g:pick(1, 10)
      targets[#targets + 1], targets[#targets + 2] = a, b
      if kind <= 5 then
        lines[#lines + 1] = ('%s "tcp to %s port %d, %d"'):format(action, a, g:pick(1, 100), g:pick(200, 300))
      elseif kind == 6 then
        lines[#lines + 1] = ('%s "udp to %s"'):format(action, a:gsub("%d+%.%d+$", "0.0/16"))
      elseif kind == 7 then
        lines[#lines + 1] = ('%s "tcp to %s port %d-%d"'):format(action, b, g:pick(1, 100), g:pick(200, 300))
      elseif kind == 8 and i % 40 == 0 then
        lines[#lines + 1] = ('%s { proto = "any", to = "any", port = %d }'):format(action, g:pick(1, 300))
      else
        lines[#lines + 1] = ('%s "in any from %s"'):format(action, a:gsub("%d+$", "0/24"))
      end
    end
    agree(table.concat(lines, "\n"), aimed(g, targets, 3000), 130)
  end)

  it("is exact where only ports tell the rules apart", function()
    local g, lines = gen.new(8), { 'default "allow"' }
    for _ = 1, 1000 do
      local from = g:pick(1, 300)
      lines[#lines + 1] = ('%s "%s to any port %d-%d"'):format(g:one({ "allow", "deny" }), g:one({ "tcp", "udp" }), from,
        from + g:pick(0, 5))
    end
    agree(table.concat(lines, "\n"), aimed(g, { "192.0.2.1", "2001:db8::1" }, 1000), 60)
  end)

  it("is exact for generated policies", function()
    for seed = 1, 30 do
      local g = gen.new(seed)
      local source = g:policy(200)
      local loaded = assert(require("lattice.policy").load({ sources = { { name = "g.lua", text = source } } }))
      local flows = {}
      for _, flow in ipairs(g:flows(loaded, 200)) do
        local family, hi, lo = require("lattice.policy.addr").parse_flat(flow.addr)
        flow.addr = require("lattice.policy.addr").format(family, hi, lo)
        -- an IPv6 packet has no such protocol: the number is that of an extension header
        if not (family == 6 and flow.proto == 0) and flow.proto < 255 then flows[#flows + 1] = flow end
      end
      agree(source, flows, 1000)
    end
  end)
end)
