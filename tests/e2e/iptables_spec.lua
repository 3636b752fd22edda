-- The iptables enforcer among other people's rules, on both back ends: what it leaves, what it survives, and what a reload
-- does to connections. (That it judges rightly: tests/agree/iptables_spec.lua.)
package.path = "tests/support/?.lua;lua/?.lua;lua/?/init.lua;" .. package.path
local Nodes = require("nodes")
local Steps = require("iptables_steps")

local missing = Nodes.missing()
if not missing and not Nodes.has("python3") then missing = "python3 is not installed (apt-get install python3)" end

-- What Docker, Kubernetes and a careful operator leave behind.
local FOREIGN = [[
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:KUBE-FORWARD - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m tcp --dport 9999 -m comment --comment "the operator's own" -j DROP
-A FORWARD -j DOCKER-USER
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A OUTPUT -d OTHER -j DROP
-A DOCKER-USER -j RETURN
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-POSTROUTING - [0:0]
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MASQUERADE
COMMIT
]]

local POLICY = [[
default "deny"
allow "tcp to any port 7001, 7002"
allow "in tcp from any port 22"
deny "udp to any"
]]

-- Echoes lines on some ports, tells who came, and says BYE when a connection ends in an error.
local SERVER = [[
import selectors, socket, sys
s = selectors.DefaultSelector()
for port in sys.argv[2:]:
    l = socket.create_server((sys.argv[1], int(port)), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
    s.register(l, selectors.EVENT_READ, "listen")
print("listening", flush=True)
while True:
    for key, _ in s.select():
        if key.data == "listen":
            c, who = key.fileobj.accept()
            print("from", who[0], c.getsockname()[1], flush=True)
            s.register(c, selectors.EVENT_READ, "talk")
            continue
        try:
            data = key.fileobj.recv(4096)
        except OSError as e:
            print("BYE", e.errno, flush=True)
            data = b""
        if data:
            key.fileobj.sendall(data)
        else:
            s.unregister(key.fileobj)
            key.fileobj.close()
]]

-- Connects and says "open" or "no ERRNO"; each line of stdin is sent, and its echo or "no ERRNO" printed.
local CLIENT = [[
import socket, sys
try:
    c = socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)
except OSError as e:
    print("no", e.errno or "timeout", flush=True)
    sys.exit(1)
print("open", flush=True)
for line in sys.stdin:
    try:
        c.sendall(line.encode())
        data = c.recv(4096)
        print("echo", data.decode().strip(), flush=True) if data else print("no end", flush=True)
    except OSError as e:
        print("no", e.errno or "timeout", flush=True)
]]

for _, backend in ipairs({ "nft", "legacy" }) do
  describe("the iptables enforcer, back end " .. backend, function()
    if missing then
      pending("all of it", missing)
      return
    end
    local nodes, steps

    before_each(function()
      nodes = Nodes.new()
      steps = Steps.new(nodes, backend, { "eth0" }, { env = { XTABLES_LOCKFILE = nodes.dir .. "/lock" } })
    end)
    after_each(function()
      if steps then steps:stop() end
      if nodes then nodes:close() end
      nodes, steps = nil, nil
    end)

    local function restore(family, text)
      local path = nodes:file("foreign", text)
      nodes:sh("node", ("%s-%s-restore < %s"):format(family == 6 and "ip6tables" or "iptables", backend, path))
    end
    local function foreign()
      restore(4, (FOREIGN:gsub("OTHER", "192.0.2.77/32")))
      restore(6, (FOREIGN:gsub("OTHER", "2001:db8:77::/48")))
    end
    local function serve(addr, ...)
      local p = nodes:start("peer", { "python3", "-c", SERVER, addr, ... })
      p:expect("listening")
      return p
    end
    local function client(addr, port)
      local p = nodes:start("node", { "python3", "-c", CLIENT, addr, port }, { stdin = "open" })
      p:expect("[^\n]+\n")
      return p
    end
    local function say(p, word)
      local from = #p.out
      p:write(word .. "\n")
      return p:expect(function() return p.out:sub(from + 1):match("([^\n]+)\n") end)
    end
    local function own(text)
      local lines = {}
      for line in text:gmatch("[^\n]+") do
        if line:find("LATTICE", 1, true) then lines[#lines + 1] = line end
      end
      return lines
    end

    it("leaves other people's rules as they are, byte for byte, and the same rules each time", function()
      foreign()
      local before = steps:saved()
      local first
      for i = 1, 5 do
        steps:ask("open")
        steps:apply(1, POLICY)
        local now = steps:saved()
        first = first or now
        assert.equal(first, now, "start " .. i)
        local rest = {}
        for line in now:gmatch("[^\n]+\n") do
          if not line:find("LATTICE", 1, true) then rest[#rest + 1] = line end
        end
        assert.equal(before, table.concat(rest))
        steps:ask("close")
        assert.equal(before, steps:saved(), "stop " .. i)
      end
      for _, chain in ipairs({ "INPUT", "FORWARD", "OUTPUT" }) do -- first in their chains
        assert.matches("LATTICE", first:match("\n(%-A " .. chain .. " [^\n]+)"))
      end
    end)

    it("refuses all before there is a policy, and after one that is wrong", function()
      local server = serve("203.0.113.2", "7001")
      steps:ask("open")
      assert.matches("^no", client("203.0.113.2", "7001").out)
      local ok, why = steps:try("apply 1 " .. nodes:file("wrong.lua", 'allow "tpc to any"'))
      assert.is_nil(ok)
      assert.matches("wrong.lua:1", why)
      assert.matches("^no", client("203.0.113.2", "7001").out)
      steps:apply(1, POLICY)
      assert.matches("^open", client("203.0.113.2", "7001").out)
      server:expect("from 203.0.113.1 7001")
    end)

    it("does not override what others refuse, and nobody's accept overrides it", function()
      serve("203.0.113.2", "7001", "7003")
      restore(4, "*filter\n-A OUTPUT -p tcp --dport 7001 -j REJECT\n-A OUTPUT -p tcp --dport 7003 -j ACCEPT\nCOMMIT\n")
      steps:ask("open")
      steps:apply(1, POLICY)
      assert.matches("^no", client("203.0.113.2", "7001").out)
      assert.matches("^no 111", client("203.0.113.2", "7003").out) -- refused at once
    end)

    it("cuts an open connection that a reload denies, and no other", function()
      for _, addr in ipairs({ "203.0.113.2", "2001:db8::2" }) do
        local server = serve(addr, "7001", "7002")
        if not steps.opened then steps:ask("open") end
        steps.opened = true
        steps:apply(1, POLICY)
        local stays, goes = client(addr, "7001"), client(addr, "7002")
        assert.equal("echo a", say(stays, "a"))
        assert.equal("echo a", say(goes, "a"))
        assert.matches("out/6/" .. addr:gsub("%p", "%%%0") .. "/7002/", steps:ask("flows"))
        steps:apply(2, (POLICY:gsub(", 7002", "")))
        assert.matches("ok 1\n", steps:ask("cut"))
        assert.equal("echo b", say(stays, "b"))
        assert.equal("no 104", say(goes, "b"))
        server:kill("sigkill")
        for _, p in ipairs({ stays, goes }) do p:kill("sigkill") end
      end
    end)

    it("cuts it also when only the other end speaks", function()
      serve("203.0.113.2", "7001", "7002")
      steps:ask("open")
      steps:apply(1, POLICY)
      local talker = nodes:start("peer", { "python3", "-c", [[
import socket, sys
l = socket.create_server(("203.0.113.2", 7005))
print("listening", flush=True)
c, _ = l.accept()
for line in sys.stdin:
    try:
        c.sendall(line.encode())
        c.settimeout(2)
        c.recv(1)
    except OSError as e:
        print("ended", e.errno or "timeout", flush=True)
]] }, { stdin = "open" })
      talker:expect("listening")
      steps:apply(2, POLICY .. 'allow "tcp to any port 7005"\n')
      client("203.0.113.2", "7005")
      steps:apply(3, POLICY) -- not asked to cut: the rules see to it
      talker:write("hello\n")
      assert.equal("104", talker:expect("ended (%w+)"))
    end)

    it("loses nothing that is always allowed and leaks nothing that is always denied, over reloads", function()
      local sink = nodes:start("peer", { "python3", "-c", [[
import select, socket
socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
for s, port in zip(socks, (7001, 7002, 7009)):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    s.bind(("203.0.113.2", port))
print("listening", flush=True)
count = [0, 0, 0]
while not count[2]:
    for s in select.select(socks, [], [])[0]:
        s.recv(100)
        count[socks.index(s)] += 1
print("got", count[0], count[1], flush=True)
]] })
      sink:expect("listening")
      local rules = {}
      for i = 1, Nodes.in_userns and 40 or 400 do rules[i] = ('deny "tcp to 10.%d.0.0/16 port %d"\n'):format(i % 250, i) end
      local policy = table.concat(rules) .. 'default "deny"\nallow "udp to any port 7001, 7009"\n'
      steps:ask("open")
      steps:apply(1, policy)
      local sender = nodes:start("node", { "python3", "-c", [[
import select, socket, sys, time
allowed, denied, last = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
sent, stop = 0, False
print("sending", flush=True)
while not stop:
    if sent % 100 == 0:  # a new flow now and then
        allowed.close()
        allowed = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for s, port in ((allowed, 7001), (denied, 7002)):
        try:
            s.sendto(b"x", ("203.0.113.2", port))
        except OSError:
            pass
    sent += 1
    stop = bool(select.select([sys.stdin], [], [], 0.0005)[0])
print("sent", sent, flush=True)
last.sendto(b"x", ("203.0.113.2", 7009))
]] }, { stdin = "open" })
      sender:expect("sending")
      for i = 2, 16 do steps:apply(i, policy .. ('allow "tcp to 10.0.0.1 port %d"\n'):format(i)) end
      sender:write("end\n")
      local sent = math.tointeger(sender:expect("sent (%d+)"))
      local got, leaked = sink:expect("got (%d+ %d+)"):match("(%d+) (%d+)")
      assert.is_true(sent > 200)
      assert.equal(sent, math.tointeger(got))
      assert.equal(0, math.tointeger(leaked))
    end)

    it("refuses flows beyond the rate of a rule", function()
      local server = serve("203.0.113.2", "7001")
      steps:ask("open")
      steps:apply(1, 'default "deny"\nallow { proto = "tcp", to = "any", port = 7001, rate = 3 }')
      local opened, began = 0, require("luv").hrtime()
      for _ = 1, 8 do
        if client("203.0.113.2", "7001").out:match("^open") then opened = opened + 1 end
      end
      local most = 3 + math.ceil(3 * (require("luv").hrtime() - began) / 1e9)
      assert.is_true(opened >= 3 and opened <= most, ("%d of 8 passed, at most %d may"):format(opened, most))
      server:kill("sigkill")
    end)

    it("keeps open connections where the policy says so", function()
      serve("203.0.113.2", "7001", "7002")
      steps:ask("open")
      steps:apply(1, POLICY)
      local stays = client("203.0.113.2", "7002")
      steps:apply(2, "keep_established()\n" .. POLICY:gsub(", 7002", ""))
      assert.equal("echo b", say(stays, "b"))
      assert.matches("^no", client("203.0.113.2", "7002").out)
    end)

    it("opens and shuts by a temporary rule, and cuts what lived by it", function()
      serve("203.0.113.2", "7003")
      steps:ask("open")
      steps:apply(1, POLICY)
      assert.matches("^no", client("203.0.113.2", "7003").out)
      steps:ask("temporary 5 allow out 6 203.0.113.2/32 7003 7003")
      local p = client("203.0.113.2", "7003")
      assert.equal("echo a", say(p, "a"))
      assert.matches("2147483653=%d", steps:ask("counters"))
      steps:ask("temporary")
      assert.equal("no 104", say(p, "b"))
      assert.matches("^no", client("203.0.113.2", "7003").out)
    end)

    it("puts everything back when the second family refuses", function()
      steps:ask("open")
      steps:apply(1, POLICY)
      local before = steps:saved()
      -- a chain that somebody else jumps to cannot be removed
      nodes:sh("node", ("ip6tables-%s -A INPUT -j LATTICE-R000003"):format(backend))
      local ok, why = steps:try("apply 2 " .. nodes:file("two.lua", 'default "allow"'))
      assert.is_nil(ok)
      assert.matches("ip6tables", why)
      nodes:sh("node", ("ip6tables-%s -D INPUT -j LATTICE-R000003"):format(backend))
      assert.equal(before, steps:saved())
      assert.matches("ok 1\n", steps:ask("generation"))
      steps:apply(2, POLICY)
      steps:ask("close")
      assert.same({}, own(steps:saved()))
    end)

    it("stays as it is for the next agent, which takes it over", function()
      serve("203.0.113.2", "7001")
      steps:ask("open")
      steps:apply(3, POLICY)
      local p = client("203.0.113.2", "7001")
      steps:ask("keep")
      local kept = steps:saved()
      assert.equal("echo a", say(p, "a"))
      assert.matches("^no", client("203.0.113.2", "7003").out)
      steps:ask("adopt")
      assert.matches("ok 3\n", steps:ask("generation"))
      assert.equal(kept, steps:saved())
      steps:apply(4, POLICY)
      assert.equal("echo b", say(p, "b"))
      steps:ask("close")
      assert.same({}, own(steps:saved()))
    end)

    it("removes what a dead agent left", function()
      steps:ask("open")
      steps:apply(1, POLICY)
      steps:ask("keep")
      steps:ask("remove")
      assert.same({}, own(steps:saved()))
      steps:ask("remove")
    end)

    it("comes first again when others put themselves before it, and comes back when they flush the tables", function()
      steps:ask("open")
      steps:apply(1, POLICY)
      local whole = own(steps:saved())
      local function right()
        return Nodes.await("our rules first and whole", function()
          local now = steps:saved()
          local first = now:match("\n(%-A OUTPUT [^\n]+)")
          return first and first:find("LATTICE", 1, true) and table.concat(whole) == table.concat(own(now))
        end, 8000)
      end
      nodes:sh("node", ("iptables-%s -I OUTPUT 1 -j ACCEPT"):format(backend))
      right()
      nodes:sh("node", ("ip6tables-%s -D OUTPUT -o eth0 -m comment --comment lattice -j LATTICE-OUT"):format(backend))
      right()
      nodes:sh("node", ("iptables-%s -F"):format(backend))
      right()
      -- chains, too, at once: between -F and -X they could be in use again
      restore(6, "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n")
      right()
      assert.matches("^no", client("203.0.113.2", "7003").out)
    end)

    it("goes on when the device is deleted, and guards it when it is there again", function()
      steps:ask("open")
      steps:apply(1, POLICY)
      nodes:sh("node", "ip link del eth0")
      steps:apply(2, POLICY)
      nodes:sh("node", ([[
        ip link add eth0 type veth peer name eth0 netns PEER
        ip addr add 203.0.113.1/24 dev eth0; ip link set eth0 up; ip netns exec PEER ip link set eth0 up
        ip netns exec PEER ip addr add 203.0.113.2/24 dev eth0
      ]]):gsub("PEER", nodes.peer) .. "")
      serve("203.0.113.2", "7001", "7003")
      assert.matches("^open", client("203.0.113.2", "7001").out)
      assert.matches("^no", client("203.0.113.2", "7003").out)
    end)

    it("lets replies, ICMP errors about allowed flows and later fragments pass", function()
      steps:ask("open")
      steps:apply(1, 'default "deny"\nallow "icmp to any"\nallow "udp to any port 9"\nallow "icmpv6 to any"')
      nodes:sh("node", "ping -n -c 1 -W 2 203.0.113.2; ping -n -c 1 -W 2 -s 4000 203.0.113.2; ping -n -c 1 -W 2 2001:db8::2")
      nodes:sh("node", "ping -n -c 1 -W 2 -s 4000 2001:db8::2")
      local refused = nodes:run("node", { "python3", "-c", [[
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(3)
s.connect(("203.0.113.2", 9))
s.send(b"x" * 3000)
try:
    s.recv(1)
except ConnectionRefusedError:
    print("refused")
]] })
      assert.equal("refused\n", refused.out)
      assert.is_false(nodes:try("peer", "ping -n -c 1 -W 1 203.0.113.1"))
    end)

    if backend == "legacy" then
      it("says who holds the lock, after the wait, and nothing is changed", function()
        steps:ask("open")
        steps:apply(1, POLICY)
        local before = steps:saved()
        local holder = nodes:start("node", { "python3", "-c",
          "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('held', flush=True); sys.stdin.read()",
          nodes.dir .. "/lock" }, { stdin = "open" })
        holder:expect("held")
        local ok, why = steps:try("apply 2 " .. nodes:file("two.lua", 'default "allow"'))
        assert.is_nil(ok)
        assert.matches("EBUSY .*another program holds the xtables lock", why)
        assert.equal(before, steps:saved())
        holder:kill("sigkill")
        holder:wait()
        steps:apply(2, POLICY)
      end)
    end
  end)
end
