-- A guarded wf0 and device over many reloads and with an empty policy: what passes without any rule, what a reload leaves
-- behind. LATTICE_RELOADS: how many (the tester's number is 10000).
package.path = "tests/support/?.lua;" .. package.path
local Agents = require("agents")
local json = require("dkjson")

local missing = Agents.missing() or not Agents.has("python3") and "python3 is not installed" or nil
local RELOADS = math.tointeger(tonumber(os.getenv("LATTICE_RELOADS") or 40))

local function suite(enforcer)
  local nodes

  before_each(function() nodes = Agents.new() end)
  after_each(function() nodes:close() end)

  -- Rules without counters and the generation's number, or how many entries the maps in force have.
  local function in_force()
    if enforcer == "iptables" then
      return (nodes:sh("node", "iptables-save; ip6tables-save"):gsub("#[^\n]*\n", ""):gsub("%[%d+:%d+%]", "")
        :gsub("0x%x+", ""):gsub("generation %d+ mark %d+", ""):gsub("lattice:%d+:", ""))
    end
    local status = nodes:lattice({ "--socket", nodes.dir .. "/control.sock", "status", "--json" })
    local device = assert(json.decode(status.out)).enforcer.devices[1]
    return ("rules %d rows %d"):format(device.rules, device.rows)
  end

  it(("stands %d reloads between two policies under traffic"):format(RELOADS), function()
    local common = 'allow "in udp from 203.0.113.2 port 7"\n'
    local policies = { common .. 'allow "tcp to 203.0.113.2 port 81"\n',
      common .. 'allow "tcp to 203.0.113.2 port 80"\nallow "any to 198.51.100.0/24 port 1-100"\n' }
    nodes:configure({ policy = policies[2], enforcer = enforcer })
    local agent = nodes:up()
    local function memory()
      return tonumber(Agents.read(("/proc/%d/status"):format(agent.pid)):match("VmRSS:%s*(%d+)"))
    end
    local function fds() return tonumber(nodes:sh("node", ("ls /proc/%d/fd | wc -l"):format(agent.pid))) end
    local before = in_force()
    local denied = nodes:sender("peer", "203.0.113.1", 53)
    local allowed = nodes:sender("peer", "203.0.113.1", 7)
    local rss, open
    for i = 1, RELOADS do
      nodes:reload(policies[i % 2 == 0 and 2 or 1])
      if i == RELOADS // 2 then rss, open = memory(), fds() end
    end
    local lost, leaked = allowed.result(), denied.result()
    assert.equal(0, leaked.echoed)
    assert.same({}, lost.missing)
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", RELOADS % 2 == 0 and 80 or 81))
    if RELOADS % 2 == 1 then nodes:reload(policies[2]) end
    assert.equal(before, in_force())
    assert.is_true(fds() <= open + 2, ("%d descriptors after %d"):format(fds(), open))
    assert.is_true(memory() < rss + 8192, ("%d KiB after %d"):format(memory(), rss))
    assert.equal(0, nodes:down())
  end)

  it("never revives by any number of reloads what one of them denied, however long it was idle", function()
    local open = 'allow "tcp to 203.0.113.2 port 80"\n'
    nodes:configure({ policy = open, enforcer = enforcer })
    nodes:up()
    local idle = nodes:start("node", { "python3", "-uc", [[
import socket, sys
s = socket.create_connection(("203.0.113.2", 80))
s.send(b"one")
print("got", s.recv(9))
sys.stdin.readline()
s.settimeout(1)
try:
    s.send(b"two")
    print("then", s.recv(9))
except OSError as e:
    print("cut", e)]] }, { stdin = "open" })
    idle:expect("got b'one'")
    for i = 1, 14 do -- the 16th generation has the first one's mark (iptables)
      nodes:reload(('allow "tcp to 203.0.113.2 port %d"\n'):format(100 + i))
    end
    nodes:reload('allow "tcp to 203.0.113.2 port 22"\n')
    idle:write("\n")
    idle:wait()
    assert.matches("cut", idle.out)
    assert.is_nil(idle.out:find("then b'two'", 1, true), idle.out)
  end)

  it("lets nothing pass by an empty policy but WireGuard's own, loopback and neighbours", function()
    for _, program in ipairs({ "wireguard-go", "wg" }) do
      if not Agents.has(program) then return pending(program .. " is not installed") end
    end
    local here, there = nodes:mesh()
    assert.is_true(nodes:open("node", "tcp", "10.42.0.2", 80))
    nodes:sh("node", "ip link set wf0 down; ip link set wf0 up")
    nodes:configure({ policy = "", enforcer = enforcer, device = "wf0" })
    nodes:up()
    local list = {}
    for _, proto in ipairs({ "tcp", "udp", "icmp" }) do
      local port = proto == "tcp" and 80 or 53
      for _, n in ipairs({ 1, 2 }) do
        for _, net in ipairs({ "10.42.0.", "fd42::" }) do
          list[#list + 1] = { n == 1 and "peer" or "node", proto, net .. n, port }
        end
      end
    end
    nodes:attempts(list, 400, function(a, result)
      assert.is_true(result ~= "open", ("%s %s %s: %s"):format(a[1], a[2], a[3], result))
    end)
    -- WireGuard itself goes on, from a port that the peer has not heard of yet, while nothing passes inside
    here:wg("set wf0 listen-port 51999")
    here:wg(("set wf0 peer %s persistent-keepalive 1"):format(here:wg("show wf0 peers"):gsub("%s", "")))
    Agents.await("the peer to hear of the port", function()
      return there:wg("show wf0 endpoints"):find(":51999", 1, true)
    end)
    nodes:attempts({ { "node", "tcp", "127.0.0.1", 80 }, { "node", "tcp", "::1", 80 }, { "node", "tcp", "10.42.0.1", 80 },
      { "node", "udp", "127.0.0.1", 53 }, { "node", "tcp", "203.0.113.2", 80 } }, 700, function(a, result)
      assert.equal("open", result, a[3])
    end)
    nodes:down()
    nodes:configure({ policy = "", enforcer = enforcer })
    nodes:up()
    assert.is_false(nodes:open("node", "tcp", "203.0.113.2", 80, 300))
    nodes:sh("node", "ip neigh flush dev eth0") -- ARP and neighbour discovery still pass
    nodes:attempts({ { "node", "udp", "203.0.113.2", 53 }, { "node", "udp", "2001:db8::2", 53 } }, 400, function(_, result)
      assert.is_true(result ~= "open")
    end)
    nodes:sh("peer", "ip neigh flush dev eth0")
    nodes:attempts({ { "peer", "udp", "203.0.113.1", 53 }, { "peer", "udp", "2001:db8::1", 53 } }, 400, function(_, result)
      assert.is_true(result ~= "open")
    end)
    assert.matches("203.0.113.1 dev eth0 lladdr %x", nodes:sh("peer", "ip -4 neigh show"))
    assert.matches("2001:db8::1 dev eth0 lladdr %x", nodes:sh("peer", "ip -6 neigh show"))
  end)
end

describe("a guarded node", function()
  for enforcer, why in Agents.enforcers(missing) do
    describe("with " .. enforcer, function()
      if why then return pending("all of it", why) end
      suite(enforcer)
    end)
  end
end)
