-- The part of tc_spec.lua that runs in namespaces of its own: generated policies in the maps of the tc programs, generated
-- flows as questions and as packets. Arguments: first seed, sets, flows a set, and the directory of a cgroup if its programs
-- are meant. Ends with "agreed" and counts, or an error.
local ebpf = require("lattice.enforcer.ebpf")
local loop = require("lattice.loop")
local policies = require("lattice.policies")
local policy = require("lattice.policy")
local addr = require("lattice.policy.addr")
local own, common = dofile("tests/agree/gen.lua"), dofile("tests/support/gen.lua")

local first, sets, count, group = table.unpack(arg, 1, 4)
first, sets, count = math.tointeger(first), math.tointeger(sets), math.tointeger(count)
local sizes = { 1, 3, 8, 20, 40, 60, 15 }
local LOCAL = {} -- by family; another one in each set, so that no flow of an earlier set is met again

local function wait(fn, ...)
  local result
  local args = table.pack(...)
  args[args.n + 1] = function(...)
    result = table.pack(...)
    loop.stop()
  end
  fn(table.unpack(args, 1, args.n + 1))
  while not result do loop.run() end
  return table.unpack(result, 1, result.n)
end

local function must(value, err)
  if value == nil then error(tostring(err), 2) end
  return value
end

local makers = {
  function(seed, rules)
    local g = own.new(seed)
    local text, made = own.policy(g, rules)
    return text, function() return own.flow(g, made) end
  end,
  function(seed, rules)
    local g = common.new(seed)
    local text = g:policy(rules)
    local loaded = policy.load({ sources = { { name = "gen.lua", text = text } } })
    local list, i = g:flows(loaded, count, true), 0
    return text, function()
      i = i + 1
      return list[i]
    end
  end,
}

-- One meaning of an address, whatever its text: family and bytes.
local function bytes_of(text)
  local family, hi, lo = addr.parse(text)
  if family == 4 or addr.is_mapped(hi, lo) then return 4, string.pack(">I4", lo & 0xffffffff) end
  return 6, string.pack(">I8I8", hi, lo)
end

-- An Ethernet frame with the first packet of a flow, or its answer.
local function frame(flow, answer)
  local family, remote = bytes_of(flow.addr)
  local out = (flow.dir == "out") ~= answer
  local src, dst = out and LOCAL[family] or remote, out and remote or LOCAL[family]
  local sport, dport = flow.sport, flow.port
  if answer then sport, dport = dport, sport end
  local body
  if flow.proto == 6 then
    body = string.pack(">I2I2I4I4BBI2I2I2", sport, dport, 1, 0, 0x50, answer and 0x12 or 2, 0, 0, 0)
  elseif flow.proto == 17 then
    body = string.pack(">I2I2I2I2", sport, dport, 8, 0)
  elseif flow.proto == 1 and family == 4 then
    body = string.pack(">BBI2I2I2", answer and 0 or 8, 0, 0, flow.sport, 1)
  elseif flow.proto == 58 and family == 6 then
    body = string.pack(">BBI2I2I2", answer and 129 or 128, 0, 0, flow.sport, 1)
  else
    body = ("x"):rep(20)
  end
  local ether = ("\0"):rep(12)
  if family == 4 then
    return ether .. "\8\0" .. string.pack(">BBI2I2I2BBI2", 0x45, 0, 20 + #body, 0, 0, 64, flow.proto, 0) .. src .. dst
      .. body
  end
  return ether .. "\x86\xdd" .. string.pack(">I4I2BB", 0x60000000, #body, flow.proto, 64) .. src .. dst .. body
end

local function describe(flow)
  return ("dir=%s proto=%d addr=%s port=%s sport=%s names=%s"):format(flow.dir, flow.proto, flow.addr, flow.port,
    flow.sport, table.concat(flow.names or {}, ","))
end

-- For a cgroup loopback is a place of its own: its own sockets, or what `host` rules say.
local function is_loopback(family, bytes)
  return family == 4 and bytes:byte() == 127 or family == 6 and bytes == ("\0"):rep(15) .. "\1"
end

-- The flows of a set, each with a source port of its own; an address has the same names in all of them.
local function flows_of(next_flow)
  local list, names, pins = {}, {}, {}
  for i = 1, count do
    local flow = next_flow()
    if flow and flow.addr and not (group and is_loopback(bytes_of(flow.addr))) then
      local family, bytes = bytes_of(flow.addr)
      local key = family .. bytes
      if names[key] == nil then
        names[key] = flow.names or false
        if flow.names and #flow.names > 0 then pins[#pins + 1] = { addr = flow.addr, names = flow.names } end
      end
      flow.names = names[key] or nil
      flow.sport = 1024 + i
      flow.port = (flow.proto == 6 or flow.proto == 17) and flow.port or 0
      list[#list + 1] = flow
    end
  end
  return list, pins
end

local seen = { rule = 0, default = 0, allowed = 0, v6 = 0, ["in"] = 0, names = 0 }

-- The verdict of a packet that belongs to no flow, by the oracle.
local function alone(loaded, flow)
  return policy.eval.judge(loaded, flow).verdict == "allow"
end

local function check_packets(enforcer, loaded, flow, want, met, fail)
  local filter = enforcer.filter
  local family, bytes = bytes_of(flow.addr)
  local echo = flow.proto == 1 and family == 4 or flow.proto == 58 and family == 6
  if flow.proto ~= 6 and flow.proto ~= 17 and not echo then -- nothing tells two flows with one address apart
    if met[flow.proto .. bytes] then return end
    met[flow.proto .. bytes] = true
  end
  local passed = must(filter:run(flow.dir, frame(flow, false)))
  if passed ~= want then fail("its first packet " .. (passed and "passed" or "was dropped")) end
  if must(filter:run(flow.dir, frame(flow, false))) ~= want then fail("its first packet, again, went another way") end
  local back = { dir = flow.dir == "out" and "in" or "out", proto = flow.proto, addr = flow.addr, names = flow.names,
    port = (flow.proto == 6 or flow.proto == 17) and flow.sport or 0 }
  local expected = want or alone(loaded, back)
  local answered = must(filter:run(back.dir, frame(flow, true)))
  if answered ~= expected then
    fail(("its answer %s (echo %s)"):format(answered and "passed" or "was dropped", echo))
  end
end

local function check_set(enforcer, seed)
  local file = os.tmpname()
  LOCAL = { [4] = string.pack(">I4", 0x64400000 + seed), [6] = string.pack(">I8I8", 0x20010db8ffff0000, seed) }
  local text, next_flow = makers[seed % 2 + 1](seed, sizes[seed % #sizes + 1])
  local out <close> = assert(io.open(file, "w"))
  out:write(text)
  out:close()
  local loaded = assert(policy.load({ sources = { { name = file, text = text } } }))
  local list, pins = flows_of(next_flow)
  local generation <close> = must(wait(policies.load, { number = seed % 1000 + 1, files = { file } }))
  os.remove(file)
  must(wait(enforcer.pin, enforcer, {})) -- those of the set before are for another policy
  enforcer.pins = pins
  must(wait(enforcer.apply, enforcer, generation))
  for _, flow in ipairs(list) do
    local want = policy.eval.judge(loaded, flow)
    local function fail(what, got)
      error(("seed %d, flow %s: %s\n oracle: %s (%s), rule %d at %s\n program: %s\n%s"):format(seed, describe(flow), what,
        want.verdict, want.action, want.rule, want.where, got or "", text))
    end
    local got = must(wait(enforcer.explain, enforcer, flow))
    if got.verdict ~= want.verdict or got.rule ~= want.rule or got.action ~= want.action or got.where ~= want.where then
      fail("asked", ("%s (%s), rule %d at %s, %s"):format(got.verdict, got.action, got.rule, got.where, got.why))
    end
    local by_tables = generation:judge(flow)
    if by_tables.verdict ~= want.verdict or by_tables.rule ~= want.rule then
      fail("the tables", ("%s, rule %d"):format(by_tables.verdict, by_tables.rule))
    end
    seen[want.rule == 0 and "default" or "rule"] = seen[want.rule == 0 and "default" or "rule"] + 1
    if want.verdict == "allow" then seen.allowed = seen.allowed + 1 end
    if bytes_of(flow.addr) == 6 then seen.v6 = seen.v6 + 1 end
    if flow.dir == "in" then seen["in"] = seen["in"] + 1 end
    if flow.names then seen.names = seen.names + 1 end
  end
  local met = {}
  for _, flow in ipairs(list) do
    local want = policy.eval.judge(loaded, flow)
    check_packets(enforcer, loaded, flow, want.verdict == "allow", met, function(what)
      error(("seed %d, flow %s: %s\n oracle: %s, rule %d\n%s"):format(seed, describe(flow), what, want.verdict,
        want.rule, text))
    end)
  end
end

assert(os.execute("ip link add a0 type veth peer name a1 && ip link set a0 up && mount -t tmpfs tmpfs /run"))
local ok, why, code = wait(ebpf.probe)
if not ok then
  print("skip: " .. tostring(why) .. (code == 402 and "" or " (needs CAP_BPF and CAP_NET_ADMIN)"))
  os.exit(0)
end
local enforcer = must(wait(ebpf.open, {
  devices = not group and { "a0" } or nil, pins = not group and "/run/pins" or nil, adopt = not group,
  cgroup = group and { path = group } or nil, log = function() end, flows = 4096,
  events = { ring = function() end },
}))
for seed = first, first + sets - 1 do check_set(enforcer, seed) end
must(wait(enforcer.close, enforcer, false))
local left = io.open("/run/pins")
assert(not left, "the pins are still there")
print(("agreed %d default %d allowed %d v6 %d in %d names %d"):format(seen.rule, seen.default, seen.allowed, seen.v6,
  seen["in"], seen.names))
