-- The wall of user mode gives the oracle's verdict and rule: generated policies, and real connects and datagrams of a
-- program under lattice run; what its audit says of each is compared. Nothing answers them: where the flows lead, the
-- host has no route, so an allowed one fails in the dial, after its verdict.
package.path = "tests/support/?.lua;lua/?.lua;lua/?/init.lua;" .. package.path
local World = require("world")
local policy = require("lattice.policy")
local own, common = dofile("tests/agree/gen.lua"), dofile("tests/support/gen.lua")

local SETS, FLOWS = 100, 120
local first = math.tointeger(tonumber(os.getenv("LATTICE_SEED") or 1))

-- Lines "PROTO ADDR PORT WAIT": datagrams and connects, all at once; waits for those whose end a program sees (a
-- connect; a refused datagram on a connected socket). The last line is always refused, and packets are judged in order.
local program = [[
import errno, select, socket, sys
poll, left = select.poll(), {}
for line in open(sys.argv[1]):
    proto, addr, port, wait = line.split()
    family = socket.AF_INET6 if ":" in addr else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM if proto == "6" else socket.SOCK_DGRAM)
    s.setblocking(False)
    try:
        e = s.connect_ex((addr, int(port)))
        if proto == "17" and e == 0:
            s.send(b"x")
        elif e != errno.EINPROGRESS:
            continue
    except OSError:
        continue
    left[s.fileno()] = (s, line)
    if wait == "1":
        poll.register(s, select.POLLIN | (select.POLLOUT if proto == "6" else 0))
    else:
        left[s.fileno()] = (s, None)
while any(line for _, line in left.values()):
    ready = poll.poll(10000)
    if not ready:
        sys.exit("no end of: " + "".join(line for _, line in left.values() if line))
    for fd, _ in ready:
        poll.unregister(fd)
        del left[fd]
]]

-- A network that is in nobody's routes, refused by the first rule.
local BARRIER = { dir = "out", proto = 17, addr = "198.18.0.1", port = 9, key = "17 198.18.0.1 9" }

-- Flows that a program can make and that leave the sandbox, each once; not to the test's own networks.
local function usable(flow, seen)
  if flow.dir ~= "out" or flow.proto ~= 6 and flow.proto ~= 17 or not flow.addr then return false end
  if not flow.port or flow.port < 1 then return false end
  local family, hi, lo = policy.addr.parse_flat(flow.addr)
  if family == 4 then
    local a = lo >> 24
    if a == 0 or a == 127 or a >= 224 or lo >> 8 == 0xcb0071 or lo >> 8 == 0xc63364 or lo >> 8 == 0xc00002
      or lo >> 16 == 0xa9fe or lo == 0xc0000002 then return false end
  else
    local top = hi >> 48
    if top >= 0xfe00 or hi == 0 and lo <= 1 and lo >= 0 or hi == 0x20010db800000000 or hi == 0xfd6c617474690000 then
      return false
    end
  end
  flow.names = nil
  flow.key = ("%d %s %d"):format(flow.proto, policy.addr.format(family, hi, lo), flow.port)
  if seen[flow.key] then return false end
  seen[flow.key] = flow
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
    return text, function(loaded) return g:flows(loaded, 50) end
  end,
}

-- A silent drop would have to be waited for, and its rule is judged like any other: it becomes deny.
local function make(seed)
  local text, more = makers[seed % 2 + 1](seed, 4 + seed % 5 * 8)
  text = 'deny "udp to 198.18.0.1 port 9"\n' .. text:gsub("%f[%a]drop%f[%A]", "deny")
  local loaded, problems = policy.load({ sources = { { name = "gen.lua", text = text } } })
  if not loaded then error(("seed %d: %s\n%s"):format(seed, policy.format_error(problems[1]), text)) end
  local seen, flows = { [BARRIER.key] = BARRIER }, {}
  for _ = 1, 20 * FLOWS do
    if #flows == FLOWS then break end
    for _, flow in ipairs(more(loaded)) do
      if #flows < FLOWS and usable(flow, seen) then flows[#flows + 1] = flow end
    end
  end
  flows[#flows + 1] = BARRIER
  return text, loaded, flows
end

local missing = World.missing()
if not missing and not World.has("python3") then missing = "python3 is not installed (apt-get install python3)" end

describe("the wall of user mode", function()
  if missing then
    pending("all of it", missing)
    return
  end
  local world

  setup(function() world = World.new() end)
  teardown(function()
    if world then world:close() end
  end)

  it(("agrees with the oracle on %d sets x up to %d flows of a real program"):format(SETS, FLOWS), function()
    local met = { rule = 0, default = 0, allow = 0, deny = 0 }
    local script = world:file("flows.py", program)
    for seed = first, first + SETS - 1 do
      local text, loaded, flows = make(seed)
      local lines = {}
      for i, flow in ipairs(flows) do
        flow.want = policy.eval.judge(loaded, flow)
        lines[i] = ("%s %d\n"):format(flow.key, (flow.proto == 6 or flow.want.verdict == "deny") and 1 or 0)
      end
      local list = world:file("flows", table.concat(lines))
      local p = world:under(text, { "python3", script, list }, { options = { "-q" } })
      assert.equal(0, p.status, ("seed %d: %s\n%s"):format(seed, p.err, text))
      local told = {}
      for _, record in ipairs(World.find(p.audit, { kind = "verdict" })) do
        local key = ("%d %s %d"):format(record.connection_info.protocol_num, record.dst_endpoint.ip,
          record.dst_endpoint.port)
        told[key] = record.unmapped.lattice
      end
      for _, flow in ipairs(flows) do
        local want, got = flow.want, told[flow.key]
        local passed = got and (got.action == "allow" or got.action == "audit") and "allow" or "deny"
        if not got or got.rule ~= want.rule or passed ~= want.verdict then
          error(("seed %d, flow %s\n oracle: %s, rule %d\n the wall: %s, rule %s\n%s"):format(seed, flow.key, want.verdict,
            want.rule, got and got.action or "no record", got and got.rule or "?", text))
        end
        local kind = want.rule == 0 and "default" or "rule"
        met[kind], met[want.verdict] = met[kind] + 1, met[want.verdict] + 1
      end
    end
    for kind, count in pairs(met) do
      assert.is_true(count > SETS * FLOWS // 20, ("only %d flows met %s"):format(count, kind))
    end
  end)
end)
