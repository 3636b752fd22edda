-- Names on the node (names { observe = true }): what DNS answered over wf0 opens what name rules say, before the client can
-- use it; nothing else does. Under both enforcers.
-- Takes long.
package.path = "tests/support/?.lua;" .. package.path
local Agents = require("agents")
local json = require("dkjson")

local zone = [[
plain.example    A      198.51.100.9   60
plain.example    AAAA   2001:db8:9::9  60
chain.example    CNAME  one.example    60
one.example      CNAME  two.example    60
two.example      A      198.51.100.10  60
other.example    A      198.51.100.8   60
rebind.example   A      10.42.0.2      60
]]

local policy = [[
policy "names"
default "deny"
allow "udp to 10.42.0.2 port 53"
allow "tcp to plain.example, chain.example, rebind.example port 80"
]]

-- One question by hand and at once a connection to what was answered; or a connection alone.
local client = [[
import socket, struct, sys
def ask(name, family):
    wire = b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0"
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
    kind = struct.pack("!2H", 1 if family == 4 else 28, 1)
    for attempt in range(int(sys.argv[1])):
        s.sendto(struct.pack("!6H", 7 + attempt, 0x100, 1, 0, 0, 0) + wire + kind, ("10.42.0.2", 53))
        try:
            data = s.recv(1500)
            break
        except socket.timeout:
            if attempt == int(sys.argv[1]) - 1: raise
    return socket.inet_ntop(socket.AF_INET if family == 4 else socket.AF_INET6, data[-4:] if family == 4 else data[-16:])
def connect(address):
    try:
        return socket.create_connection((address, 80), 2).recv(10).decode()
    except OSError as e:
        return "refused"
for word in sys.argv[2:]:
    try:
        address = ask(word[:-1], 6) if word.endswith("6") else ask(word, 4) if word[0].isalpha() else word
    except OSError:
        address = None
    print(word, address and connect(address), flush=True)
]]

local server = [[
import socket
s = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True: s.accept()[0].sendall(b"served")
]]

-- A server that answers what nobody asked it, again and again; and one that asks it, sees an answer or not, and connects.
local liar = [[
import socket, struct, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("198.51.100.8", 53))
name = b"\x05plain\x07example\0"
data = struct.pack("!6H", 7, 0x8180, 1, 1, 0, 0) + name + struct.pack("!2H", 1, 1) + name + \
    struct.pack("!2HIH", 1, 1, 60, 4) + socket.inet_aton("198.51.100.10")
print("ready", flush=True)
while True:
    s.sendto(data, ("10.42.0.1", 4000))
    time.sleep(0.02)
]]
local accomplice = [[
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("10.42.0.1", 4000)); s.settimeout(10)
for i in range(5):
    try:
        s.sendto(struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + b"\x05plain\x07example\0" + struct.pack("!2H", 1, 1),
            ("198.51.100.8", 53))
    except OSError: pass
    for n in range(10):
        try: s.recv(1500)
        except OSError: pass
try: print(socket.create_connection(("198.51.100.10", 80), 2).recv(10).decode())
except OSError: print("refused")
]]

local missing = Agents.missing()
for _, program in ipairs { "wireguard-go", "wg", "python3" } do
  if not missing and not Agents.has(program) then missing = program .. " is not installed" end
end

local function world(enforcer)
  local nodes = Agents.bare()
  nodes:configure_wf0({ policy = policy, enforcer = enforcer, extra = "names { observe = true }",
    allowed = { "198.51.100.0/24", "2001:db8:9::/64" } })
  nodes:sh("peer", [[for n in 8 9 10; do ip addr add 198.51.100.$n/32 dev lo; done
    ip addr add 2001:db8:9::9/128 dev lo nodad]])
  nodes:serve({ "lua5.4", "tests/support/dns_server.lua", "10.42.0.2", nodes:file("zone", zone), nodes.dir .. "/queries" },
    { ns = "peer", udp = 53 })
  nodes:start("peer", { "python3", "-c", server }):expect("ready")
  return nodes
end

local function agent(nodes) return nodes:up() end

-- Asked again like a resolver does, more often where machines are slow.
local attempts = math.ceil(tonumber(os.getenv("LATTICE_PATIENCE")) or 1) + 1

local function try(nodes, ...)
  return nodes:run("node", { "python3", "-c", client, attempts, ... }, { timeout = 60000 }).out
end

local function names_status(nodes)
  local p = nodes:lattice({ "--socket", nodes.dir .. "/control.sock", "status", "--json" })
  return assert(json.decode(p.out), p.err).names
end

for enforcer, why in Agents.enforcers(missing) do
  describe("names on the node, by " .. enforcer, function()
    local function test(name, fn)
      if why then return pending(name, why) end
      it(name, Agents.within(function() return world(enforcer) end, fn))
    end

    test("an answer opens what a rule allows for its name, at once, and nothing else", function(nodes)
      local node = agent(nodes)
      assert.equal("198.51.100.9 refused\n198.51.100.8 refused\n", try(nodes, "198.51.100.9", "198.51.100.8"))
      assert.equal("plain.example served\nplain.example6 served\nchain.example served\nother.example refused\n",
        try(nodes, "plain.example", "plain.example6", "chain.example", "other.example"))
      assert.equal("198.51.100.9 served\n", try(nodes, "198.51.100.9"))
      local status = names_status(nodes)
      assert.equal(3, status.addresses)
      assert.equal(0, status.odd)
      node:kill()
      assert.equal(0, node:wait().status)
      assert.is_nil(nodes:sh("node", "nft list tables"):match("lattice%-names"))
    end)

    test("an answer of a server that may not be asked opens nothing, though its packets may come in", function(nodes)
      nodes:start("peer", { "python3", "-c", liar }):expect("ready")
      for _, case in ipairs({ { "", "refused\n" }, { 'allow "udp to 198.51.100.8 port 53"\n', "served\n" } }) do
        nodes:policy(policy .. 'allow "in udp from 198.51.100.8"\n' .. case[1])
        local node = agent(nodes)
        assert.equal(case[2], nodes:run("node", { "python3", "-c", accomplice }, { timeout = 60000 }).out)
        node:kill()
        node:wait()
      end
    end)

    test("an answer with a private address opens nothing unless the rule says so", function(nodes)
      local node = agent(nodes)
      assert.equal("rebind.example refused\n", try(nodes, "rebind.example"))
      nodes:policy(policy .. 'allow { proto = "tcp", to = "rebind.example", port = 80, private = true }\n')
      node:kill("sighup")
      Agents.await("the reload", function()
        return nodes:lattice({ "--socket", nodes.dir .. "/control.sock", "status" }).out:match("generation 2")
      end)
      assert.equal("rebind.example served\n", try(nodes, "rebind.example"))
    end)

    test("an answer that nobody asked for pins nothing", function(nodes)
      local node = agent(nodes)
      nodes:sh("peer", [[python3 -c '
import socket, struct
from subprocess import run
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
name = b"\5plain\7example\0"
dns = struct.pack("!6H", 7, 0x8180, 1, 1, 0, 0) + name + struct.pack("!2H", 1, 1) + \
  b"\xc0\x0c" + struct.pack("!2HIH", 1, 1, 60, 4) + socket.inet_aton("198.51.100.8")
for port in range(40000, 40050):
    s.sendto(struct.pack("!4H", 53, port, 8 + len(dns), 0) + dns, ("10.42.0.1", 0))
']])
      assert.equal("198.51.100.8 refused\n", try(nodes, "198.51.100.8"))
      assert.equal(0, names_status(nodes).pins)
      assert.is_nil(node.status)
    end)

    test("a reload that takes the name away takes its addresses away", function(nodes)
      local node = agent(nodes)
      assert.equal("plain.example served\n", try(nodes, "plain.example"))
      nodes:policy((policy:gsub("plain.example, ", "")))
      node:kill("sighup")
      Agents.await("the pin to go", function() return names_status(nodes).pins == 0 end)
      assert.equal("198.51.100.9 refused\n", try(nodes, "198.51.100.9"))
    end)

    test("without the agent no answer passes; the next one goes on", function(nodes)
      local node = agent(nodes)
      assert.equal("plain.example served\n", try(nodes, "plain.example"))
      node:kill("sigkill")
      node:expect(function() return node.status end)
      assert.equal("plain.example None\n", try(nodes, "plain.example"))
      local second = agent(nodes)
      assert.equal("plain.example served\n", try(nodes, "plain.example"))
      second:kill()
      assert.equal(0, second:wait().status)
      assert.is_nil(nodes:sh("node", "nft list tables"):match("lattice%-names"))
    end)
  end)
end
