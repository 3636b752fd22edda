-- What a rule matches on a node, with real packets: prefixes and their order, ports and protocols, fragments; and the same
-- for both enforcers. The peer has addresses in 10/8 and in 2001:db8:a::/48.
package.path = "tests/support/?.lua;" .. package.path
local Agents = require("agents")

local missing = Agents.missing() or not Agents.has("python3") and "python3 is not installed" or nil

local V4 = { "10.9.9.9", "10.9.1.1", "10.1.1.1", "198.51.100.7", "198.51.100.8" }
local V6 = { "2001:db8:a::1", "2001:db8:a::2", "2001:db8:a:9::1", "2001:db8:b::1", "2001:db8:b::2" }

local function world()
  local nodes = Agents.new()
  for _, a in ipairs(V4) do nodes:sh("peer", "ip addr add " .. a .. "/32 dev lo") end
  for _, a in ipairs(V6) do nodes:sh("peer", "ip addr add " .. a .. "/128 dev lo nodad") end
  nodes:sh("node", [[ip route add 10.0.0.0/8 via 203.0.113.2; ip route add 198.51.100.0/24 via 203.0.113.2
    ip route add 2001:db8:a::/48 via 2001:db8::2; ip route add 2001:db8:b::/48 via 2001:db8::2]])
  nodes:probe("peer", "serve", "4", "7999,8000,8500,8999,9000,443,444", "8500,443", table.concat(V4, ",")):expect("ready")
  nodes:probe("peer", "serve", "6", "443", "443", table.concat(V6, ",")):expect("ready")
  nodes:probe("node", "serve", "4", "443", "443", "203.0.113.1"):expect("ready")
  nodes:probe("node", "serve", "6", "443", "443", "2001:db8::1"):expect("ready")
  Agents.await("IPv6 on the new link", function() -- duplicate address detection of its link-local addresses
    return nodes:attempt("peer", "tcp", "2001:db8::1", 443, 300, V6[1]) == "open"
  end)
  return nodes
end

-- Every destination (out) and every source (in), by every protocol: what one policy gives. Letters: the five addresses.
local PARITY = [[
allow "tcp to 10.9.9.9, 2001:db8:a::1 port 443"
deny  "any to 10.9.0.0/16, 2001:db8:a::/64"
allow "any to 10.0.0.0/8, 2001:db8:a::/48"
allow "udp to 198.51.100.0-198.51.100.7 port 400-500"
allow "udp to 2001:db8:b::-2001:db8:b::1 port 400-500"
allow "icmp to 198.51.100.8/32"
allow "icmpv6 to 2001:db8:b::2/128"
allow "in any from 10.9.9.9"
allow "in any from 2001:db8:a::1"
deny  "in udp from 10.0.0.0/8, 2001:db8:a::/48"
allow "in tcp, udp from 10.9.0.0/16, 2001:db8:a::/63 port 443"
allow "in icmp from 198.51.100.7"
allow "in icmpv6 from 2001:db8:b::1"
]]
-- by direction and protocol, one letter an address: o open, - not
local WANT = {
  out = { tcp = "o-o--", udp = "--oo-", icmp = "--o-o" },
  ["in"] = { tcp = "oo---", udp = "o----", icmp = "o--o-" },
}

local function suite(enforcer)
  local nodes

  setup(function() nodes = world() end)
  teardown(function() nodes:close() end)
  after_each(function()
    if nodes.agent and not nodes.agent.status then nodes:down() end
  end)

  local function up(text)
    nodes:configure({ policy = text, enforcer = enforcer })
    return nodes:up()
  end

  -- list: { port/address, want } and so on; says what is otherwise than wanted
  local function check(list, ms)
    local wrong = {}
    nodes:attempts(list, ms or 600, function(a, result)
      if (result == "open") ~= a.want then
        wrong[#wrong + 1] = ("%s %s %s port %s%s: %s"):format(a[1], a[2], a[3], a[4],
          a.source and " from " .. a.source or "", result)
      end
    end)
    assert.equal("", table.concat(wrong, "\n"))
  end

  local function tcp(address, port, want) return { "node", "tcp", address, port, want = want } end

  it("the same for every protocol, family, address and direction", function()
    up(PARITY)
    local list = {}
    for dir, protos in pairs(WANT) do
      for proto, letters in pairs(protos) do
        for i = 1, 5 do
          local want = letters:sub(i, i) == "o"
          for _, far in ipairs({ V4[i], V6[i] }) do
            local near = far:find(":", 1, true) and "2001:db8::1" or "203.0.113.1"
            list[#list + 1] = dir == "out" and { "node", proto, far, 443, want = want }
              or { "peer", proto, near, 443, source = far, want = want }
          end
        end
      end
    end
    assert.equal(60, #list)
    check(list)
  end)

  it("the first rule, however long its prefix", function()
    up('allow "tcp to 10.9.9.9/32"\ndeny "any to 10.9.0.0/16"\nallow "any to 10.0.0.0/8"')
    check({ tcp("10.9.9.9", 443, true), tcp("10.9.1.1", 443, false), tcp("10.1.1.1", 443, true) })
    nodes:reload('allow "any to 10.0.0.0/8"\nallow "tcp to 10.9.9.9/32"\ndeny "any to 10.9.0.0/16"')
    check({ tcp("10.9.9.9", 443, true), tcp("10.9.1.1", 443, true), tcp("10.1.1.1", 443, true) })
    nodes:reload('deny "any to 10.9.0.0/16"\nallow "tcp to 10.9.9.9/32"\nallow "any to 10.0.0.0/8"')
    check({ tcp("10.9.9.9", 443, false), tcp("10.9.1.1", 443, false), tcp("10.1.1.1", 443, true) })
  end)

  it("prefixes of length 0, and of the whole address", function()
    up('deny "any to 10.9.9.9/32"\ndeny "any to 2001:db8:a::1/128"\nallow "any to 0.0.0.0/0"\nallow "any to ::/0"')
    check({ tcp("10.9.9.9", 443, false), tcp("10.9.1.1", 443, true), tcp("198.51.100.8", 443, true),
      tcp("2001:db8:a::1", 443, false), tcp("2001:db8:a::2", 443, true), tcp("2001:db8:b::2", 443, true) })
    nodes:reload('allow "any to 10.9.9.9/32"\nallow "any to 2001:db8:a::1/128"\ndeny "any to 0.0.0.0/0"')
    check({ tcp("10.9.9.9", 443, true), tcp("10.9.1.1", 443, false), tcp("2001:db8:a::1", 443, true),
      tcp("2001:db8:a::2", 443, false) })
    nodes:reload('allow "any to ::/0"') -- of the other family it says nothing
    check({ tcp("10.9.9.9", 443, false), tcp("2001:db8:a::1", 443, true) })
  end)

  it("no prefix with bits behind its length, no IPv4 in IPv6, no name for an address, no unknown key", function()
    up('allow "tcp to 10.9.9.9"')
    for text, want in pairs({
      ['allow "tcp to 10.9.1.1/16"'] = "p.lua:1:15: ",
      ['\nallow "tcp to 2001:db8:a::1/64"'] = "p.lua:2:15: ",
      ['allow "tcp to ::ffff:10.9.9.9"'] = "p.lua:1:15: ",
      ['allow "tcp to 10.9.9.300"'] = "p.lua:1:15: ",
      ['allow "tcp to 10.0.0.0/33"'] = "p.lua:1:",
      ['allow { proto = "tcp", to = "any", prot = 443 }'] = "p.lua:1:9: unknown key 'prot'",
      ['Allow "tcp to any"'] = "p.lua:1: ",
    }) do
      local said = nodes:reload(text, "reload refused")
      assert.is_truthy(said:find(want, 1, true), text .. ": " .. said)
    end
    nodes:reload('allow "TCP TO 10.9.1.1 PORT 443"')
    check({ tcp("10.9.1.1", 443, true), tcp("10.9.9.9", 443, false) })
  end)

  it("a port of one protocol, ranges to their last port, no port at all", function()
    up('allow "tcp to 10.9.9.9 port 443"\nallow "tcp to 10.9.1.1 port 8000-8999"\nallow "tcp to 10.1.1.1"')
    check({ tcp("10.9.9.9", 443, true), tcp("10.9.9.9", 444, false), { "node", "udp", "10.9.9.9", 443, want = false },
      tcp("10.9.1.1", 7999, false), tcp("10.9.1.1", 8000, true), tcp("10.9.1.1", 8500, true), tcp("10.9.1.1", 8999, true),
      tcp("10.9.1.1", 9000, false), { "node", "udp", "10.9.1.1", 8500, want = false }, tcp("10.9.1.1", 443, false),
      tcp("10.1.1.1", 443, true), tcp("10.1.1.1", 9000, true), { "node", "udp", "10.1.1.1", 443, want = false } })
  end)

  it("no fragment of a denied flow, and no second one without its first", function()
    up('allow "udp to 203.0.113.2, 2001:db8::2 port 53"\nallow "in udp from 203.0.113.2 port 53"')
    local capture = nodes:capture("peer", "eth0", "ip[6:2] & 0x3fff != 0 or ip6 proto 44")
    local script = nodes:file("fragments.py", [[
import socket, struct, sys
def big(address, port):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(0.5)
    try:
        s.sendto(b"x" * 3000, (address, port))
        return "open" if s.recv(4000) else "?"
    except OSError:
        return "silent"
def second(source, address):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    ends = socket.inet_aton(source) + socket.inet_aton(address)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 0, 4242, 185, 64, 17, 0) + ends
    try:
        s.sendto(head + b"alone" * 40, (address, 0))
    except OSError:
        pass
here, there, other = sys.argv[1:]
print(big(there, 54), big(other, 54) if other else "")
second(here, there)
print(big(there, 53), big(other, 53) if other else "")
]])
    local out = nodes:run("node", { "python3", script, "203.0.113.1", "203.0.113.2", "2001:db8::2" }).out
    assert.equal("silent silent\nopen open\n", out)
    local seen = capture:stop()
    assert.is_truthy(seen:find("203.0.113.1.%d+ > 203.0.113.2.53:"), seen)
    assert.is_nil(seen:find("203.0.113.1[%d.]* > 203.0.113.2.54:"), seen)
    local _, later = seen:gsub("IP 203.0.113.1 > 203.0.113.2: ", "")
    local _, later6 = seen:gsub("IP6 2001:db8::1 > 2001:db8::2: frag %([1-9]", "")
    assert.same({ 2, 2 }, { later, later6 }, seen) -- those of port 53

    assert.equal("silent \nopen \n", nodes:run("peer", { "python3", script, "203.0.113.2", "203.0.113.1", "" }).out)
    nodes.node4:kill("sigterm")
    local got = nodes.node4:wait().out
    assert.matches('"53": 1[,}]', got)
    assert.matches('"54": 0[,}]', got)
  end)
end

describe("what a rule matches on a node", function()
  for enforcer, why in Agents.enforcers(missing) do
    describe("with " .. enforcer, function()
      if why then return pending("all of it", why) end
      suite(enforcer)
    end)
  end
end)
