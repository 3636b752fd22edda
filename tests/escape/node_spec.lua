-- Packets as a stack would not make them, against a guarded device: extension headers, options, fragments, tunnels, odd TCP
-- flags, tags, errors about nothing. Each attack gets through without Lattice, by what the receiver's stack delivers; with
-- it none does, in either direction, under both enforcers.
package.path = "tests/support/?.lua;" .. package.path
local Agents = require("agents")

local missing = Agents.missing() or not Agents.has("python3") and "python3 is not installed" or nil

local policy = [[
default "deny"
allow "udp to 203.0.113.2, 2001:db8::2 port 53"
allow "tcp to 203.0.113.2, 2001:db8::2 port 80"
allow "in udp from 203.0.113.2, 2001:db8::2 port 53"
]]

-- A connection of the node from port 4000 to the peer's port 80, open or ended, and what the peer sends into it: prints
-- the marks that the node's stack delivered. argv: NODE PEER open|closed|reset
local stateful = [[
import socket, struct, sys, time
sys.argv, which = sys.argv[:3] + ["in"], sys.argv[3]
sys.path.insert(0, "tests/support")
from attacks import *
node, peer = sys.argv[1:3]
enter(peer)
listener = socket.create_server(("203.0.113.2", 8080 if which == "never" else 80))
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
enter(node)
ear = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
ear.settimeout(0.2)
udp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
udp.settimeout(10)
c = socket.socket()
c.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
c.bind(("203.0.113.1", 4000))
c.connect(("203.0.113.2", 80))
s, _ = listener.accept()
if which == "closed":
    c.shutdown(1); s.recv(1); s.close(); c.recv(1); c.close()
elif which == "reset":
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); c.close()
    try: s.recv(1)
    except OSError: pass
m = Maker(False, PEER4, NODE4)
attacks = { "syn of it": m.tcp(b"<lat0001>", 2, 4000, 80), "syn to another port": m.tcp(b"<lat0002>", 2, 22, 80),
  "syn from another port": m.tcp(b"<lat0003>", 2, 4000, 81), "ack from another port": m.tcp(b"<lat0004>", 16, 4000, 81),
  "udp of it": m.udp(b"<lat0005>", 4000, 80) }
for body in attacks.values():
    raw.sendto(m.ip(17 if b"0005" in body else 6, body), ("203.0.113.1", 0))
until = time.monotonic() + 10
end = b""
seen = b""
while b"<last one>" not in end and time.monotonic() < until:
    raw.sendto(m.ip(17, m.udp(b"<last one>", ALLOWED)), ("203.0.113.1", 0))
    end = udp.recv(65536)
    seen += end
try:
    while True: seen += ear.recv(65536)
except OSError: pass
for i, name in enumerate(attacks):
    if b"<lat%04d>" % (i + 1) in seen: print(name)
]]

-- Neighbour discovery that the node would forward to the container: prints "got" when the container's stack had it.
local discovery = [[
import socket, sys
sys.path.insert(0, "tests/support")
from attacks import *
container, peer = sys.argv[1:3]
far = socket.inet_pton(socket.AF_INET6, "fd18::2")
enter(container)
ear = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
ear.settimeout(0.3)
enter(peer)
raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
m = Maker(True, PEER6, far)
for attempt in range(5):
    for kind in (133, 134, 135, 136):
        raw.sendto(m.ip(58, m.icmp(kind, 0, bytes(4) + far, b"<lat0001>"), hops=255), ("fd18::2", 0))
seen = b""
try:
    while b"<lat" not in seen: seen = ear.recv(65536)
except OSError: pass
print("got" if b"<lat" in seen else "nothing")
]]

local LEAST = 70 -- attacks that work without Lattice

local function suite(enforcer)
  local nodes

  setup(function() nodes = Agents.new({ container = true }) end)
  teardown(function() nodes:close() end)
  after_each(function()
    if nodes.agent and not nodes.agent.status then nodes:down() end
  end)

  local function attacks(...)
    local p = nodes:run("node", { "python3", Agents.root .. "/tests/support/attacks.py", nodes.node, nodes.peer, ... })
    assert.equal(0, p.status, p.err)
    local list = {}
    for name in p.out:gmatch("[^\n]+") do list[#list + 1] = name end
    return list
  end

  -- conntrack joins fragments before a rule sees them, so that this one looks like one that is always let pass; it is no
  -- longer than such a one may be, and stacks ignore it (RFC 6980)
  local joined = enforcer == "iptables" and { "six, neighbour discovery in fragments" } or {}

  local function hold(...)
    local before = attacks(...)
    assert.is_true(#before >= LEAST, #before .. " attacks work without the agent")
    nodes:configure({ policy = policy, enforcer = enforcer })
    nodes:up()
    assert.same(joined, attacks(...))
    nodes:down()
    assert.equal(#before, #attacks(...))
  end

  it("lets no packet in that no rule allows, however it is made", function() hold("in") end)
  it("forwards no neighbour discovery from behind the device", function()
    nodes:sh("node", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
    nodes:sh("peer", "ip -6 route replace fd18::/64 via 2001:db8::1")
    nodes:sh("peer", "ping -c1 -W5 fd18::2") -- neighbours are known from here on
    local argv = { "python3", "-c", discovery, nodes.container, nodes.peer }
    assert.equal("got\n", nodes:run("node", argv).out)
    nodes:configure({ policy = policy, enforcer = enforcer })
    nodes:up()
    local p = nodes:run("node", argv)
    assert.equal("nothing\n", p.out, p.err)
    nodes:sh("node", "ip -6 neigh flush dev eth0")
    assert.is_true(nodes:open("node", "tcp", "2001:db8::2", 80)) -- the node's own goes on
  end)

  for _, state in ipairs({ "open", "closed", "reset" }) do
    it("takes no new flow for an answer of one that is or was allowed: " .. state, function()
      nodes["peer4"]:kill("sigkill") -- it holds port 80
      nodes["peer4"]:wait()
      local argv = { "python3", "-c", stateful, nodes.node, nodes.peer, state }
      local before = nodes:run("node", argv)
      assert.equal(5, select(2, before.out:gsub("\n", "")), before.out .. before.err)
      nodes:configure({ policy = policy, enforcer = enforcer })
      nodes:up()
      nodes:sh("node", "conntrack -F 2>/dev/null || true")
      local p = nodes:run("node", argv)
      assert.same({ 0, "" }, { p.status, p.out }, p.err)
    end)
  end

  it("lets no packet out that no rule allows, however a raw socket makes it", function() hold("out", "raw") end)

  if enforcer == "ebpf" then
    it("lets no frame of a packet socket out that no rule allows", function() hold("out", "frames") end)

    it("takes no directory of pins in which others may write", function()
      nodes:configure({ policy = policy, enforcer = enforcer })
      local pins = nodes.dir .. "/pins"
      local own = ("%s/%s-eth0"):format(pins, nodes:sh("node", "stat -Lc %i /proc/self/ns/net"):match("%d+"))
      local function mounted(options, more)
        nodes.sh_here(("umount %s 2>/dev/null || true; mkdir -p %s; mount -t bpf -o %s lattice-test %s; "):format(pins, pins,
          options, pins) .. (more or ""):gsub("OWN", own))
      end
      for _, made in ipairs({ "chown 12345", "chmod 0777", "chmod 0770" }) do
        mounted("mode=0777", ("mkdir OWN; %s OWN"):format(made))
        local p = nodes:latticed({ "--config", nodes.config }):wait(20000)
        assert.is_true(p.status ~= 0, made)
        assert.truthy(p.err:find("others may write in", 1, true), p.err)
      end
      mounted("mode=0777")
      nodes:up()
      nodes:down()
      nodes.sh_here("umount " .. pins)
    end)
  end
end

describe("raw packets against a node", function()
  if missing then return pending("all of it", missing) end
  for _, enforcer in ipairs({ "iptables", "ebpf" }) do
    local able, why = Agents.able(enforcer)
    describe("with " .. enforcer, function()
      if not able then return pending("all of it", why) end
      suite(enforcer)
    end)
  end
end)
