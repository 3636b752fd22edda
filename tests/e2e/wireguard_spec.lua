-- wf0 on a node by lattice.agent.device (real WireGuard: the kernel's where it is, else wireguard-go), against a peer that
-- only the tools made; what crosses the wire between them is looked at there.
package.path = "tests/support/?.lua;" .. package.path
local Nodes = require("nodes")
local json = require("dkjson")
local uv = require("luv")
local wf0 = require("wf0")

local missing = Nodes.missing()
for _, program in ipairs { "wireguard-go", "wg", "tcpdump", "socat", "python3", "nsenter" } do
  if not missing and not Nodes.has(program) then missing = program .. " is not installed" end
end
if not missing and not (uv.fs_access("/dev/net/tun", "R") and true) then missing = "/dev/net/tun cannot be opened" end

local function test(name, fn)
  if missing then return pending(name, missing) end
  it(name, Nodes.within(Nodes.new, fn))
end

local node_config, write_config, start, joined = wf0.node_config, wf0.write_config, wf0.start, wf0.joined
local PEER4, PEER6 = "10.42.0.2", "fd42::2"

local function ping(nodes, address, extra)
  return nodes:try("node", ("ping -n -c 1 -W 3 %s %s"):format(extra or "", address))
end

local function has_link(nodes, name)
  return nodes:try("node", "ip link show " .. (name or "wf0"))
end

local function status(nodes, agent)
  local before = #agent.out
  agent:kill("sigusr1")
  local line = agent:expect(function() return agent.out:sub(before + 1):match("status (%b{})\n") end)
  return json.decode(line)
end

describe("wf0", function()
  test("carries ping and TCP for v4 and v6; outside there is only UDP to the WireGuard port", function(nodes)
    local capture = nodes:capture("peer", "eth0")
    local agent = joined(nodes)
    assert.is_true(ping(nodes, PEER4))
    assert.is_true(ping(nodes, PEER6))
    local secret = "payload-that-nobody-outside-may-read"
    for _, address in ipairs { "10.42.0.2", "[fd42::2]" } do
      local family = address:match("^%[") and "TCP6" or "TCP4"
      nodes:serve({ "socat", ("%s-LISTEN:7000,reuseaddr,bind=%s"):format(family, address), "EXEC:cat" },
        { ns = "peer", tcp = 7000 })
      local out = nodes:sh("node", ("echo %s | socat -t5 - %s:%s:7000"):format(secret, family, address))
      assert.equal(secret .. "\n", out)
    end
    local text, bytes = capture:stop()
    assert.is_nil(bytes:find(secret, 1, true))
    local packets = 0
    for line in text:gmatch("[^\n]+") do
      local plain = line:match("ARP") or line:match("ICMP6") -- the veth's own neighbours
      if not plain then
        packets = packets + 1
        assert.matches("203%.0%.113%.%d%.51820 > 203%.0%.113%.%d%.51820: UDP", line)
      end
    end
    assert.is_true(packets > 20)
    agent:kill()
    agent:wait()
  end)

  test("is up only when the agent raises it, and gone when the agent ends", function(nodes)
    local _, peer_public = nodes:keys()
    local agent = start(nodes, node_config(nodes, peer_public), { LATTICE_HOLD = "1" })
    agent:expect("open\tnew")
    local function flags() return nodes:sh("node", "ip -o link show wf0"):match("<(.-)>") end
    assert.is_nil(flags():match("UP"))
    agent:kill("sigusr1")
    agent:expect("up\n")
    assert.matches("UP", flags())
    local address = nodes:sh("node", "ip -o addr show wf0")
    assert.matches("10%.42%.0%.1/24", address)
    assert.matches("fd42::1/64", address)
    agent:kill()
    assert.equal(0, agent:wait().status)
    assert.is_false(has_link(nodes))
    assert.equal("", nodes:sh("node", "ss -Hlun"))
  end)

  -- LATTICE_MEGABYTES=1024 is the long run.
  test("moves 64 MB at MTU 1280 and at 1420, intact, and never a fragment outside", function(nodes)
    local megabytes = tonumber(os.getenv("LATTICE_MEGABYTES")) or 64
    for _, mtu in ipairs { 1280, 1420 } do
      local inner = Nodes.new()
      local ok, err = xpcall(function()
        local agent, peer = joined(inner, function(device) device.mtu = mtu end, { mtu = mtu })
        assert.equal(mtu, status(inner, agent).mtu)
        -- the largest packet passes, one more does not
        assert.is_true(ping(inner, PEER4, "-M do -s " .. mtu - 28))
        assert.is_false(ping(inner, PEER4, "-M do -s " .. mtu - 27))
        assert.is_true(ping(inner, PEER6, "-M do -s " .. mtu - 48))
        local capture = inner:capture("peer", "eth0", "ip[6:2] & 0x3fff != 0")
        local sink = inner:serve({ "socat", "-u", "TCP6-LISTEN:7001,reuseaddr,ipv6only=0",
          "SYSTEM:sha256sum" }, { ns = "peer", tcp = 7001 })
        local sent = inner:sh("node", [[
          python3 -c 'import sys
for i in range(]] .. megabytes .. [[): sys.stdout.buffer.write(bytes([i % 256]) * 1048576)' |
          tee /dev/stderr 2>]] .. inner.dir .. [[/copy |
          socat -u - TCP4:10.42.0.2:7001; sha256sum < ]] .. inner.dir .. "/copy", { timeout = 60000 + megabytes * 100 })
        sink:expect("%x+  %-", 60000)
        assert.equal(sent, sink.out)
        assert.equal("", (capture:stop()))
        assert.is_true(status(inner, agent).up)
        assert.matches("wf0", peer:wg("show wf0"))
      end, debug.traceback)
      inner:close()
      if not ok then error(("MTU %d: %s"):format(mtu, err), 0) end
    end
    assert.is_table(nodes)
  end)

  test("gets nothing with a wrong key", function(nodes)
    local _, stranger = nodes:keys()
    local agent, peer = joined(nodes, function(device) device.wireguard.peers[1].key = stranger end)
    assert.is_false(nodes:try("node", "ping -n -c 2 -W 1 " .. PEER4))
    assert.is_false(nodes:try("peer", "ping -n -c 2 -W 1 10.42.0.1"))
    local shown = status(nodes, agent)
    assert.is_nil(shown.peers[1] and shown.peers[1].handshake)
    assert.is_nil(peer:wg("show wf0 latest-handshakes"):match("\t[1-9]"))
  end)

  test("tells handshake, traffic and endpoint of its peers", function(nodes)
    local agent, _, _, keys = joined(nodes)
    assert.is_true(ping(nodes, PEER4))
    local shown = Nodes.await("a status with the handshake", function()
      local now = status(nodes, agent)
      return now.peers[1] and now.peers[1].handshake and now
    end, 15000)
    assert.is_true(shown.up)
    assert.equal(keys.public, shown.public_key)
    assert.equal(keys.peer, shown.peers[1].key)
    assert.equal("203.0.113.2:51820", shown.peers[1].endpoint)
    assert.is_true(shown.peers[1].rx > 0 and shown.peers[1].tx > 0)
    assert.is_true(math.abs(shown.peers[1].handshake - os.time()) < 60)
  end)

  test("follows a peer to another port", function(nodes)
    local agent, peer = joined(nodes)
    assert.is_true(ping(nodes, PEER4))
    peer:wg("set wf0 listen-port 51999")
    assert.is_true(nodes:try("peer", "ping -n -c 1 -W 3 10.42.0.1"))
    assert.is_true(ping(nodes, PEER4))
    agent:kill()
    agent:wait()
  end)

  test("is not started over a device that is there; the text says what to do, and nothing is changed", function(nodes)
    local _, peer_public = nodes:keys()
    local device = node_config(nodes, peer_public)
    nodes:sh("node", "ip link add wf0 type veth peer name other; ip addr add 192.0.2.1/24 dev wf0")
    local function everything() return (nodes:sh("node", "ip -o addr; ip -o link"):gsub(" tentative", "")) end
    local before = everything()
    local agent = start(nodes, device):wait()
    assert.matches("cannot: there is a device 'wf0' already, and latticed did not make it: remove it "
      .. "%(ip link delete wf0%), or guard it as it is", agent.out)
    assert.matches("EEXIST", agent.out)
    assert.equal(before, everything())
    nodes:sh("node", "ip link delete wf0")
    local first = start(nodes, device)
    first:expect("up\n")
    local second = start(nodes, device):wait()
    assert.matches("cannot: device 'wf0' belongs to another latticed %(pid " .. first.pid .. "%)", second.out)
    assert.is_true(has_link(nodes))
    first:kill()
    first:wait()
    assert.is_false(has_link(nodes))
  end)

  test("lives on when the agent is killed, and the next agent takes it over without a gap", function(nodes)
    local agent, _, device = joined(nodes)
    assert.is_true(ping(nodes, PEER4))
    local index = nodes:sh("node", "cat /sys/class/net/wf0/ifindex")
    local flood = nodes:start("peer", { "ping", "-n", "-i", "0.01", "-W", "2", "10.42.0.1" })
    flood:expect("bytes from")
    agent:kill("sigkill")
    agent:expect(function() return agent.status end)
    local second = start(nodes, device)
    second:expect("open\tadopted")
    second:expect("up\n")
    assert.equal(index, nodes:sh("node", "cat /sys/class/net/wf0/ifindex"))
    assert.is_true(ping(nodes, PEER6))
    flood:kill("sigint")
    flood:wait()
    assert.equal(0, Nodes.lost_pings(flood.out), flood.out)
    second:kill()
    second:wait()
    assert.is_false(has_link(nodes))
  end)

  test("is handed over on SIGUSR2", function(nodes)
    local agent, _, device = joined(nodes)
    agent:kill("sigusr2")
    assert.equal(0, agent:wait().status)
    assert.is_true(ping(nodes, PEER4))
    local second = start(nodes, device)
    second:expect("open\tadopted")
    second:expect("up\n")
    assert.is_true(ping(nodes, PEER4))
    second:kill()
    second:wait()
    assert.is_false(has_link(nodes))
  end)

  test("comes back, down until raised, when wireguard-go dies; in between nothing passes", function(nodes)
    local agent = joined(nodes)
    local pid = nodes:sh("node", "ip link show wf0"):match("wireguard%-go (%d+)")
    if not pid then return pending("the kernel's WireGuard has no process") end
    assert.is_true(ping(nodes, PEER4))
    uv.kill(math.tointeger(tonumber(pid)), "sigkill")
    agent:expect("gone wf0")
    assert.is_false(ping(nodes, PEER4, "-I 10.42.0.1"))
    agent:expect("raised again")
    assert.is_true(Nodes.await("the tunnel", function() return ping(nodes, PEER4) end, 15000))
    agent:kill()
    agent:wait()
    assert.is_false(has_link(nodes))
  end)

  test("takes a changed config live: peers, allowed addresses, MTU, addresses; stale ones are gone", function(nodes)
    local agent, _, device, keys = joined(nodes)
    assert.is_true(ping(nodes, PEER4))
    local _, other = nodes:keys()
    device.mtu, device.address = 1300, { "10.42.0.1/24", "10.43.0.1/24" }
    device.wireguard.peers[1].allowed = { "10.42.0.2/32", "198.51.100.0/24" }
    device.wireguard.peers[2] = { key = other, allowed = { "fd42::2/128" }, keepalive = 25 }
    write_config(nodes, device)
    agent:kill("sighup")
    agent:expect("changed")
    local links = nodes:sh("node", "ip -o addr show wf0; ip link show wf0; ip route show dev wf0")
    assert.matches("10%.43%.0%.1/24", links)
    assert.is_nil(links:match("fd42::1"))
    assert.matches("mtu 1300", links)
    assert.matches("198%.51%.100%.0/24", links)
    local shown = Nodes.await("the new peers", function()
      local now = status(nodes, agent)
      return #now.peers == 2 and now
    end)
    for _, peer in ipairs(shown.peers) do
      if peer.key == keys.peer then
        table.sort(peer.allowed)
        assert.same({ "10.42.0.2/32", "198.51.100.0/24" }, peer.allowed)
        assert.is_number(peer.handshake) -- its session was not touched
      else
        assert.same({ "fd42::2/128" }, peer.allowed)
      end
    end
    assert.is_true(ping(nodes, PEER4))
    device.wireguard.peers = {}
    write_config(nodes, device)
    agent:kill("sighup")
    Nodes.await("no peers", function() return #status(nodes, agent).peers == 0 end)
    assert.is_false(ping(nodes, PEER4))
    assert.is_nil(nodes:sh("node", "ip route show dev wf0"):match("198%.51%.100"))
    -- what cannot be had changes nothing
    device.wireguard.key, device.mtu = "/nowhere/wf0.key", 1400
    write_config(nodes, device)
    agent:kill("sighup")
    agent:expect("refused: lattice.lua:1: device 'wf0': key file /nowhere/wf0.key: No such file or directory")
    assert.matches("mtu 1300", nodes:sh("node", "ip link show wf0"))
    agent:kill()
    agent:wait()
  end)

  test("refuses a key file that others may read, with the fix, and sets nothing up", function(nodes)
    local _, peer_public = nodes:keys()
    local device = node_config(nodes, peer_public)
    for _, mode in ipairs { "640", "604", "660" } do
      assert(uv.fs_chmod(device.wireguard.key, tonumber(mode, 8)))
      local agent = start(nodes, device):wait()
      assert.matches("cannot: key file .*wf0%.key: others than its owner may read or change it %(chmod 600 it%)", agent.out)
      assert.is_false(has_link(nodes))
    end
    nodes:file("wf0.key", "no key\n", tonumber("600", 8))
    assert(uv.fs_chmod(device.wireguard.key, tonumber("600", 8)))
    assert.matches("it holds no key", start(nodes, device):wait().out)
    assert.is_false(has_link(nodes))
  end)

  test("has its key in no argument, no environment and no core", function(nodes)
    local agent, _, _, keys = joined(nodes)
    local child = nodes:sh("node", "ip link show wf0"):match("wireguard%-go (%d+)")
    for _, pid in ipairs { tostring(agent.pid), child } do
      for _, name in ipairs { "cmdline", "environ" } do
        local text = Nodes.read(("/proc/%s/%s"):format(pid, name)) or ""
        assert.is_nil(text:find(keys.private, 1, true))
      end
    end
    assert.is_nil(agent.out:find(keys.private, 1, true))
    -- not even readable by its own user: /proc/PID belongs to root when a process is not dumpable, and gdb gets nothing
    local agent_limits = Nodes.read(("/proc/%d/status"):format(agent.pid))
    assert.is_string(agent_limits)
    if child then
      assert.matches("Max core file size%s+1%s+1", Nodes.read(("/proc/%s/limits"):format(child)))
      assert.equal("00000000\n", Nodes.read(("/proc/%s/coredump_filter"):format(child)))
      assert.matches("CapEff:\t0000000000001000", Nodes.read(("/proc/%s/status"):format(child)))
      assert.is_nil(uv.fs_stat("/var/run/wireguard/wf0.sock"))
    end
    -- the agent's memory, as a core would have it: the key is not in it after it was handed over
    local dump = nodes:run("node", { "python3", "-c", [[
import sys, base64
pid, text = sys.argv[1], sys.argv[2]
needles = [text.encode(), base64.b64decode(text), base64.b64decode(text).hex().encode()]
found = 0
mem = open("/proc/%s/mem" % pid, "rb", 0)
for line in open("/proc/%s/maps" % pid):
    span, perms = line.split()[:2]
    if "r" not in perms or "[v" in line: continue
    a, b = (int(x, 16) for x in span.split("-"))
    if b - a > 1 << 30: continue # a sanitizer's shadow
    try:
        mem.seek(a); data = mem.read(b - a)
    except OSError: continue
    found += sum(data.count(n) for n in needles)
print("found", found)]], agent.pid, keys.private })
    assert.equal("found 0\n", dump.out)
    agent:kill()
    agent:wait()
  end)

  test("runs beside a wf0 of another network namespace", function(nodes)
    local agent = joined(nodes)
    local other = Nodes.new()
    local ok, err = xpcall(function()
      local second = joined(other)
      assert.is_true(ping(nodes, PEER4))
      assert.is_true(ping(other, PEER4))
      second:kill()
      second:wait()
      assert.is_true(ping(nodes, PEER4))
    end, debug.traceback)
    other:close()
    assert.is_true(ok, err)
    agent:kill()
    agent:wait()
  end)

  test("leaks no descriptor, process or device in many rounds", function(nodes)
    local rounds = tonumber(os.getenv("LATTICE_ROUNDS")) or 30
    local key = nodes:file("wf0.key", (nodes:keys()) .. "\n", tonumber("600", 8))
    local p = nodes:run("node", { Nodes.lattice_path, "lua", nodes:file("rounds.lua", [[
      local loop, wireguard, link = require("lattice.loop"), require("lattice.wireguard"), require("lattice.link")
      local uv = require("luv")
      local function count(path)
        local n, scan = 0, uv.fs_scandir(path)
        while uv.fs_scandir_next(scan) do n = n + 1 end
        return n
      end
      local rounds, key = math.tointeger(tonumber(arg[1])), arg[2]
      local function go(i, last)
        if i > last then return end
        wireguard.open({ name = "wf0" }, function(device, err)
          assert(device, err)
          device:set({ private_key_file = key, listen = 51820 }, function(ok, why)
            assert(ok, why)
            if i % 2 == 0 then device:get(function() end) end -- closed while a job has it
            device:close()
            go(i + 1, last)
          end)
        end)
      end
      go(1, 2) -- what is made once and kept
      loop.run()
      local before = count("/proc/self/fd")
      go(1, rounds)
      loop.run()
      local links <close> = assert(link.open())
      print(count("/proc/self/fd") - before, #links:list(), require("lattice.api").boxes())
      local children = io.popen("ps -o comm= --ppid " .. math.tointeger(uv.os_getpid())):read("a")
      print("children " .. select(2, children:gsub("wireguard", "")))
    ]]), rounds, key }, { timeout = 30000 + rounds * 200 })
    assert.equal("", p.err)
    assert.equal("1\t2\t1\nchildren 0\n", p.out) -- one more descriptor and box: `links`; lo and eth0
  end)
end)
