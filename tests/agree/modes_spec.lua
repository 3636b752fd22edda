-- Every mode gives the oracle's verdict and rule: generated policies, and real connects and datagrams of one program
-- under lattice run; what the audit says of each is compared. The server has every address of the world and listens
-- nowhere, so what is allowed ends with a refusal, too, and at once: only the records tell the two apart.
package.path = "tests/support/?.lua;lua/?.lua;lua/?/init.lua;" .. package.path
local World = require("world")
local policy = require("lattice.policy")
local own, common = dofile("tests/agree/gen.lua"), dofile("tests/support/gen.lua")

local SETS, FLOWS = { user = 100, kernel = 60, preload = 60 }, 120
local asked = math.tointeger(tonumber(os.getenv("LATTICE_AGREE_SETS")))
for mode, sets in pairs(SETS) do SETS[mode] = asked or sets end
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

-- One flow's verdict and rule, as the mode's audit has them.
local function compare(mode, seed, text, flow, got)
  local want = flow.want
  local passed = got and (got.action == "allow" or got.action == "audit") and "allow" or "deny"
  if got and got.rule == want.rule and passed == want.verdict then return end
  error(("seed %d, flow %s\n oracle: %s, rule %d\n mode %s: %s, rule %s\n%s"):format(seed, flow.key, want.verdict,
    want.rule, mode, got and got.action or "no record", got and got.rule or "?", text))
end

-- By "PROTO ADDR PORT".
local function verdicts(audit)
  local told = {}
  for _, record in ipairs(World.find(audit, { kind = "verdict" })) do
    local key = ("%d %s %d"):format(record.connection_info.protocol_num, record.dst_endpoint.ip,
      record.dst_endpoint.port)
    told[key] = record.unmapped.lattice
  end
  return told
end

local function run_set(world, mode, script, seed, met)
  local text, loaded, flows = make(seed)
  local lines = {}
  for i, flow in ipairs(flows) do
    flow.want = policy.eval.judge(loaded, flow)
    lines[i] = ("%s %d\n"):format(flow.key, (flow.proto == 6 or flow.want.verdict == "deny") and 1 or 0)
  end
  local list = world:file("flows", table.concat(lines))
  local p = world:under(text, { "python3", script, list }, { mode = mode, options = { "-q" } })
  assert.equal(0, p.status, ("seed %d: %s\n%s"):format(seed, p.err, text))
  local told = verdicts(p.audit)
  for _, flow in ipairs(flows) do
    compare(mode, seed, text, flow, told[flow.key])
    local kind = flow.want.rule == 0 and "default" or "rule"
    met[kind], met[flow.want.verdict] = met[kind] + 1, met[flow.want.verdict] + 1
  end
end

-- Names and the host's loopback: what the generator leaves out, for they need an answer or a listener.
local MATRIX = [[
policy "matrix"
deny "tcp to far.example port 81"
allow "tcp, udp to far.example, *.wild.example port 80-89"
deny "tcp to 203.0.113.11"
allow "tcp to host port 7001"
deny "udp to host port 7001-7003"
allow "any to host port 7003"
]]
local MATRIX_ZONE = "far.example A 203.0.113.10\nfar.example AAAA 2001:db8::a\n*.wild.example A 203.0.113.11\n"
local matrix_program = [[
import socket, sys
for line in sys.stdin:
    proto, host, addr, port = line.split()
    try:
        at = socket.getaddrinfo(host, int(port), socket.AF_INET6 if ":" in addr else socket.AF_INET)[0][4]
        s = socket.socket(socket.AF_INET6 if ":" in addr else socket.AF_INET,
                          socket.SOCK_STREAM if proto == "6" else socket.SOCK_DGRAM)
        s.settimeout(10)
        s.connect(at)
        if proto == "17":
            s.send(b"x")
            try:
                s.settimeout(0.2)
                s.recv(1) # no answer, or the refusal
            except TimeoutError:
                pass
        print("reached", line.strip())
    except OSError as e:
        print("refused", line.strip())
]]

local listener = [[
import socket, sys, time
first, last = map(int, sys.argv[1].split("-"))
kept = []
for port in range(first, last + 1):
    kept.append(socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True))
while True:
    time.sleep(1000)
]]

local function matrix_flows()
  local flows = {}
  local function add(names, addr, first_port, last_port)
    for _, proto in ipairs({ 6, 17 }) do
      for port = first_port, last_port do
        flows[#flows + 1] = { dir = "out", proto = proto, addr = addr, port = port, names = names and { names },
          key = ("%d %s %d"):format(proto, addr, port) }
      end
    end
  end
  add("far.example", "203.0.113.10", 79, 82)
  add("far.example", "2001:db8::a", 80, 81)
  add("x.wild.example", "203.0.113.11", 80, 81)
  add(nil, "203.0.113.12", 80, 80)
  add(nil, "127.0.0.1", 7000, 7004)
  add(nil, "::1", 7000, 7004)
  return flows
end

local function run_matrix(world, mode)
  local loaded = assert(policy.load({ sources = { { name = "matrix.lua", text = MATRIX } } }))
  local flows, lines = matrix_flows(), {}
  for i, flow in ipairs(flows) do
    flow.want = policy.eval.judge(loaded, flow)
    lines[i] = ("%d %s %s %d\n"):format(flow.proto, flow.names and flow.names[1] or flow.addr, flow.addr, flow.port)
  end
  local p = world:under(MATRIX, { "python3", world:file("matrix.py", matrix_program) },
    { mode = mode, options = { "-q" }, stdin = table.concat(lines) })
  assert.equal(0, p.status, p.err)
  local told = verdicts(p.audit)
  for i, flow in ipairs(flows) do
    local got = told[flow.key]
    -- The loopback of user mode is the sandbox's own: where no rule opens it nobody is there, and it takes no verdict.
    local inside = mode == "user" and not got and (flow.addr == "127.0.0.1" or flow.addr == "::1")
    if inside then assert.equal("deny", flow.want.verdict) else compare(mode, i, MATRIX, flow, got) end
    if got and got.rule > 0 then assert.matches(":" .. got.rule + 1 .. "$", got.where) end
    local tcp = flow.proto == 6 and (flow.want.verdict == "allow" and "reached " or "refused ") .. lines[i] or ""
    assert.is_truthy((p.out .. "\n"):find(tcp, 1, true), tcp .. "\n" .. p.out)
  end
end

for _, mode in ipairs({ "user", "kernel", "preload" }) do
  describe("mode " .. mode, function()
    local none = missing or World.no_mode(mode)
    if none then
      pending("agrees with the oracle", none)
      return
    end
    local world

    setup(function()
      world = World.new()
      for _, family in ipairs({ "-4", "-6" }) do
        local text = "ip -n HOST F route add default via GATE dev v0; ip -n SERVER F route add ME dev v0 table local; "
          .. "ip -n SERVER F route add local default dev lo table local"
        local with = { HOST = world.host, SERVER = world.server, F = family,
          GATE = family == "-4" and "203.0.113.9" or "2001:db8::9", ME = family == "-4" and "203.0.113.1" or "2001:db8::1" }
        World.sh((text:gsub("%f[%u]%u+%f[%U]", with)))
      end
    end)
    teardown(function()
      if world then world:close() end
    end)

    after_each(function() world:stop() end)

    it("agrees with the oracle on names and the host's loopback", function()
      local listen = world:file("listen.py", listener)
      world:serve({ "python3", listen, "80-82" }, { tcp = { 80, 82 } })
      world:serve({ "python3", listen, "7000-7004" }, { ns = "host", tcp = { 7000, 7004 } })
      world:serve({ "lua5.4", "tests/support/dns_server.lua", "203.0.113.9", world:file("zone", MATRIX_ZONE),
        world.dir .. "/dns.log" }, { udp = 53 })
      run_matrix(world, mode)
    end)

    it(("agrees with the oracle on %d sets x up to %d flows of a real program"):format(SETS[mode], FLOWS), function()
      local met = { rule = 0, default = 0, allow = 0, deny = 0 }
      local script = world:file("flows.py", program)
      for seed = first, first + SETS[mode] - 1 do run_set(world, mode, script, seed, met) end
      for kind, count in pairs(met) do
        assert.is_true(count > SETS[mode] * FLOWS // 20, ("only %d flows met %s"):format(count, kind))
      end
    end)
  end)
end
