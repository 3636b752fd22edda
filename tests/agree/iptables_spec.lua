-- The iptables enforcer gives the oracle's verdict and rule: generated policies, and the first packets of real flows over a
-- guarded device, in and out, IPv4 and IPv6, on both back ends. Which packets passed is what the other end saw; which
-- rule decided is in the rules' counters, in the rules as they read back, and in the C tables.
package.path = "tests/support/?.lua;lua/?.lua;lua/?/init.lua;" .. package.path
local Nodes = require("nodes")
local Steps = require("iptables_steps")
local policy = require("lattice.policy")
local own, common = dofile("tests/agree/gen.lua"), dofile("tests/support/gen.lua")

local SETS, FLOWS = 24, 100
local first = math.tointeger(tonumber(os.getenv("LATTICE_SEED") or 1))

local missing = Nodes.missing()
if not missing and not Nodes.has("python3") then missing = "python3 is not installed (apt-get install python3)" end

-- Flows that a network can carry between two others; each its own connection to conntrack.
local function usable(flow, seen, all)
  if not flow.addr or flow.proto > 254 or flow.proto == 0 then return false end
  local family, hi, lo = policy.addr.parse_flat(flow.addr)
  if family == 4 then
    local a = lo >> 24
    if a == 0 or a == 127 or a >= 224 or lo >> 8 == 0xc00002 or flow.proto == 58 then return false end
  elseif hi == 0 or hi >> 54 == 0x3fa or hi >> 56 == 0xff or hi == 0x20010db8ffff0000 or flow.proto == 1 then
    return false
  end
  flow.addr = policy.addr.format(family, hi, lo)
  if flow.proto ~= 6 and flow.proto ~= 17 then flow.port = 0 end
  if flow.proto == 6 or flow.proto == 17 then
    if not flow.port or flow.port < 1 then return false end
    flow.key = ("%s %d %s %d"):format(flow.dir, flow.proto, flow.addr, flow.port)
  else
    seen, flow.key = all, ("%d %s"):format(flow.proto, flow.addr)
  end
  if seen[flow.key] then return false end
  seen[flow.key] = true
  return true
end

local makers = {
  function(seed, count)
    local g = own.new(seed)
    local text, made = own.policy(g, count)
    return text, function() return { own.flow(g, made) } end
  end,
  function(seed, count)
    local g = common.new(seed)
    local text = g:policy(count)
    return text, function(loaded) return g:flows(loaded, 50, true) end
  end,
}

local function make(seed, all)
  local text, more = makers[seed % 2 + 1](seed, 4 + seed % 5 * 12)
  local loaded, problems = policy.load({ sources = { { name = "gen.lua", text = text } } })
  if not loaded then error(("seed %d: %s\n%s"):format(seed, policy.format_error(problems[1]), text)) end
  local seen, flows, pins = {}, {}, {}
  for _ = 1, 20 * FLOWS do
    if #flows == FLOWS then break end
    for _, flow in ipairs(more(loaded)) do
      if #flows < FLOWS and usable(flow, seen, all) then flows[#flows + 1] = flow end
    end
  end
  -- names belong to an address, whoever asks; a connection that conntrack cannot follow has none
  for _, flow in ipairs(flows) do
    if flow.names and #flow.names > 0 and flow.proto ~= 132 then pins[flow.addr] = pins[flow.addr] or flow.names end
  end
  for i, flow in ipairs(flows) do
    flow.index = (seed - first) * 128 + i -- its own end's port: another connection than those of other sets
    if flow.proto == 132 then pins[flow.addr] = nil end
  end
  for _, flow in ipairs(flows) do
    flow.names = pins[flow.addr]
    flow.want = policy.eval.judge(loaded, flow)
  end
  return text, flows, pins
end

-- The counters are those of the flows; a few packets are the kernels' own (reports of multicast groups).
local function compare_counters(flows, text)
  local counts, extra = {}, 0
  for _, flow in ipairs(flows) do counts[flow.want.rule] = (counts[flow.want.rule] or 0) + 1 end
  for rule, n in text:gmatch("(%d+)=(%d+)") do
    rule = math.tointeger(rule)
    local left = math.tointeger(n) - (counts[rule] or 0)
    if left < 0 then return ("rule %d counted %d, not %d"):format(rule, n, counts[rule]) end
    extra, counts[rule] = extra + left, nil
  end
  local rule = next(counts)
  if rule then return ("rule %d counted nothing, not %d"):format(rule, counts[rule]) end
  return extra > 6 and ("%d packets more than were sent"):format(extra) or nil
end

for _, backend in ipairs({ "nft", "legacy" }) do
  describe("the iptables enforcer, back end " .. backend, function()
    local why = missing or backend == "nft" and Nodes.in_userns
      and "nft takes small transactions only in a normal user's namespace (net.core.wmem_max)"
    if why then
      pending("all of it", why)
      return
    end
    local nodes, steps

    local function ask(line) return steps:ask(line) end

    setup(function()
      nodes = Nodes.new()
      nodes:sh("node", "ip addr flush dev eth0; ip link set eth0 down; ip link set eth0 name wf0; ip link set wf0 up")
      local mac = nodes:sh("peer", "cat /sys/class/net/eth0/address"):gsub("%s", "")
      local addresses = ([[
        ip addr add 192.0.2.1/24 dev wf0; ip addr add 2001:db8:ffff::1/64 dev wf0 nodad
        ip neigh add 192.0.2.254 lladdr MAC dev wf0 nud permanent
        ip neigh add 2001:db8:ffff::2 lladdr MAC dev wf0 nud permanent
        ip route add default via 192.0.2.254; ip -6 route add default via 2001:db8:ffff::2
      ]]):gsub("MAC", mac)
      nodes:sh("node", addresses)
      steps = Steps.new(nodes, backend, { "wf0" })
      ask("open")
    end)
    teardown(function()
      if steps and not steps.process.status then ask("close") end
      if nodes then nodes:close() end
    end)

    it(("agrees with the oracle on %d sets x %d flows of real packets"):format(SETS, FLOWS), function()
      local all = {}
      local met = { rule = 0, default = 0, allow = 0, deny = 0, out = 0, ["in"] = 0, named = 0 }
      for seed = first, first + SETS - 1 do
        local text, flows, pins = make(seed, all)
        local lines, named, wants = {}, {}, {}
        for i, f in ipairs(flows) do
          lines[i] = ("%d %s %d %s %d\n"):format(f.index, f.dir, f.proto, f.addr, f.port)
          named[i] = ("%s %d %s %d %s\n"):format(f.dir, f.proto, f.addr, f.port, table.concat(f.names or {}, " "))
          wants[i] = ("%s %d"):format(f.want.verdict, f.want.rule)
        end
        local pin_lines = {}
        for addr, names in pairs(pins) do pin_lines[#pin_lines + 1] = addr .. " " .. table.concat(names, " ") .. "\n" end
        table.sort(pin_lines)
        ask(("apply %d %s"):format(seed, nodes:file("p.lua", text)))
        ask("pins " .. nodes:file("pins", table.concat(pin_lines)))

        local function compare(who, command, step)
          local some, i = {}, 0
          for k = 1, #named, step do some[#some + 1] = named[k] end
          local answer = ask(command .. " " .. nodes:file("named", table.concat(some)))
          for verdict, rule in answer:gmatch("(%a+) (%d+)[^\n]*\n") do
            local k = i * step + 1
            i = i + 1
            if wants[k] ~= verdict .. " " .. rule then
              error(("seed %d, flow %s\n oracle: %s\n %s: %s %s\n%s"):format(seed, named[k], wants[k], who, verdict, rule,
                text))
            end
          end
          assert.equal(#some, i)
        end
        compare("the C tables", "judge", 1)
        compare("the rules read back", "explain", 10)

        local sent = nodes:run("node", { "python3", Nodes.root .. "/tests/support/packets.py", nodes.node, nodes.peer },
          { stdin = table.concat(lines) })
        assert.equal(0, sent.status, sent.err)
        local passed = {}
        for index in sent.out:gmatch("%d+") do passed[math.tointeger(index)] = true end
        for i, f in ipairs(flows) do
          local got = passed[f.index] and "allow" or "deny"
          if got ~= f.want.verdict then
            error(("seed %d, flow %s\n oracle: %s\n the packet: %s\n%s"):format(seed, named[i], wants[i], got, text))
          end
          met[f.want.rule == 0 and "default" or "rule"] = met[f.want.rule == 0 and "default" or "rule"] + 1
          met[f.want.verdict], met[f.dir] = met[f.want.verdict] + 1, met[f.dir] + 1
          if f.names then met.named = met.named + 1 end
        end
        local wrong = compare_counters(flows, ask("counters"))
        if wrong then error(("seed %d, the rules' counters: %s\n%s"):format(seed, wrong, text)) end
      end
      for kind, count in pairs(met) do
        assert.is_true(count > SETS * FLOWS // 50, ("only %d flows met %s"):format(count, kind))
      end
    end)
  end)
end
