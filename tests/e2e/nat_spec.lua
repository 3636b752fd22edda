-- NAT and forwarding for configured pairs, without a policy: a container's bridge, a third network that is in no pair, other
-- people's rules with FORWARD policy DROP; both back ends. And with the iptables enforcer: the policy still decides.
package.path = "tests/support/?.lua;lua/?.lua;lua/?/init.lua;" .. package.path
local Nodes = require("nodes")
local Steps = require("iptables_steps")
local World = require("world")

local missing = Nodes.missing()
if not missing and not Nodes.has("python3") then missing = "python3 is not installed (apt-get install python3)" end

-- Answers each datagram with the address that it came from.
local MIRROR = [[
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)
while True:
    data, who = s.recvfrom(100)
    s.sendto(who[0].encode(), who)
]]
local ASK = [[
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[3]))
s.connect((sys.argv[1], int(sys.argv[2])))
try:
    s.send(b"?")
    print(s.recv(100).decode())
except OSError as e:
    print("nothing")
]]

local PAIRS = "nat nat 172.18.0.0/16 eth0 nat fd18::/64 eth0 forward c0 eth0"

for _, backend in ipairs({ "nft", "legacy" }) do
  describe("nat and forward, back end " .. backend, function()
    if missing then
      pending("all of it", missing)
      return
    end
    local nodes, steps

    -- who asks `addr`: the address that the other end saw, or "nothing"
    local function seen(where, addr, wait)
      local p = nodes:run(where, { "python3", "-c", ASK, addr, "7000", wait or "3" })
      return (p.out:gsub("%s", ""))
    end
    local function mirror(where, addr)
      local p = nodes:start(where, { "python3", "-c", MIRROR, addr, "7000" })
      p:expect("listening")
      return p
    end
    local function switches()
      local text = nodes:sh("node", "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding")
      return (text:gsub("\n", " "))
    end

    before_each(function()
      nodes = Nodes.new({ container = true })
      nodes.third = nodes.node .. "3"
      -- a third network behind the node, in no pair; and all are known to the peer, so only the node keeps them out
      local network = ([[
        ip netns add THIRD; ip link add t0 netns NODE type veth peer name eth0 netns THIRD
        ip -n NODE link set t0 up; ip -n NODE addr add 172.30.0.1/24 dev t0
        ip -n THIRD link set eth0 up; ip -n THIRD addr add 172.30.0.2/24 dev eth0
        ip -n THIRD route add default via 172.30.0.1
      ]]):gsub("THIRD", nodes.third):gsub("NODE", nodes.node)
      World.sh(network)
      nodes:sh("peer", "ip route add 172.18.0.0/16 via 203.0.113.1; ip route add 172.30.0.0/24 via 203.0.113.1; "
        .. "ip route add fd18::/64 via 2001:db8::1")
      steps = Steps.new(nodes, backend, { "eth0" })
    end)
    after_each(function()
      if steps then steps:stop() end
      if nodes then
        World.sh("ip netns del " .. nodes.third)
        nodes:close()
      end
      nodes, steps = nil, nil
    end)

    it("masquerades exactly the source, forwards exactly the pair, and ends without a trace", function()
      for program, source in pairs({ iptables = "10.9.0.0/16", ip6tables = "fd99::/64" }) do
        local name = program .. "-" .. backend
        nodes:sh("node", ("%s -P FORWARD DROP; %s -t nat -A POSTROUTING -s %s -j MASQUERADE"):format(name, name, source))
      end
      local before, was = steps:saved(), switches()
      mirror("peer", "203.0.113.2")
      mirror("peer", "2001:db8::2")
      mirror("container", "172.18.0.2")
      assert.equal("nothing", seen("container", "203.0.113.2", "0.5"))
      local first
      for _ = 1, 3 do
        steps:ask(PAIRS)
        local now = steps:saved()
        first = first or now
        assert.equal(first, now)
        assert.equal("203.0.113.1", seen("container", "203.0.113.2"))
        assert.equal("2001:db8::1", seen("container", "2001:db8::2"))
        assert.equal("203.0.113.1", seen("node", "203.0.113.2"))
        assert.equal("nothing", seen("third", "203.0.113.2", "0.5"))
        assert.equal("nothing", seen("peer", "172.18.0.2", "0.5")) -- replies only
        steps:ask("nat-close")
        assert.equal(before, steps:saved())
        assert.equal(was, switches())
      end
      assert.equal("nothing", seen("container", "203.0.113.2", "0.5"))
    end)

    it("forwards nothing but the pairs where it switched forwarding on", function()
      mirror("peer", "203.0.113.2")
      steps:ask(PAIRS)
      assert.equal("1 1 ", switches())
      assert.equal("203.0.113.1", seen("container", "203.0.113.2"))
      assert.equal("nothing", seen("third", "203.0.113.2", "0.5"))
      assert.equal("nothing", seen("third", "172.18.0.2", "0.5"))
      steps:ask("nat-close")
      assert.equal("0 0 ", switches())
    end)

    it("leaves forwarding that was on to its owner", function()
      nodes:sh("node", "echo 1 > /proc/sys/net/ipv4/ip_forward")
      mirror("peer", "203.0.113.2")
      assert.equal("172.30.0.2", seen("third", "203.0.113.2"))
      steps:ask(PAIRS)
      assert.equal("172.30.0.2", seen("third", "203.0.113.2")) -- not ours, and not masqueraded
      assert.equal("203.0.113.1", seen("container", "203.0.113.2"))
      steps:ask("nat-close")
      assert.equal("1 0 ", switches())
      assert.equal("172.30.0.2", seen("third", "203.0.113.2"))
    end)

    it("finds what a dead agent left, with what forwarding was before it", function()
      steps:ask(PAIRS)
      local first = steps:saved()
      steps:ask("nat-keep")
      assert.equal("1 1 ", switches())
      steps:ask(PAIRS)
      assert.equal(first, steps:saved())
      steps:ask("nat-close")
      assert.equal("0 0 ", switches())
      assert.is_nil(steps:saved():find("LATTICE", 1, true))
    end)

    it("takes a change as a whole, and keeps what was there when a pair is wrong", function()
      mirror("peer", "203.0.113.2")
      steps:ask(PAIRS)
      local first = steps:saved()
      local ok, why = steps:try("nat nat 172.18.0.0/16 eth0 forward c0 eth+")
      assert.is_nil(ok)
      assert.matches("test:4: forward to: \"eth%+\" cannot be a device", why)
      assert.equal(first, steps:saved())
      steps:ask("nat forward c0 eth0")
      assert.equal("172.18.0.2", seen("container", "203.0.113.2"))
      steps:ask("nat")
      assert.equal("nothing", seen("container", "203.0.113.2", "0.5"))
      assert.equal("0 0 ", switches())
    end)

    it("leaves the policy of a guarded device in force for what is forwarded", function()
      mirror("peer", "203.0.113.2")
      local again = nodes:start("peer", { "python3", "-c", MIRROR, "203.0.113.2", "7001" })
      again:expect("listening")
      for _, order in ipairs({ { "open", PAIRS }, { PAIRS, "open" } }) do
        for _, line in ipairs(order) do steps:ask(line) end
        steps:apply(1, 'default "deny"\nallow "udp to 203.0.113.0/24 port 7000"')
        assert.equal("203.0.113.1", seen("container", "203.0.113.2"))
        local p = nodes:run("container", { "python3", "-c", ASK, "203.0.113.2", "7001", "3" })
        assert.equal("nothing\n", p.out)
        steps:apply(2, 'default "deny"')
        assert.equal("nothing", seen("container", "203.0.113.2"))
        steps:ask("nat-close")
        steps:ask("close")
        assert.is_nil(steps:saved():find("LATTICE", 1, true))
      end
    end)
  end)
end
