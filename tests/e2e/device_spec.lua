-- Devices of the other kinds (lattice.agent.device): a TUN for another program, and one that is there already; and what is
-- left when the agent is killed before it raised anything.
package.path = "tests/support/?.lua;" .. package.path
local Nodes = require("nodes")
local uv = require("luv")

local missing = Nodes.missing()
if not missing and not uv.fs_access("/dev/net/tun", "R") then missing = "/dev/net/tun cannot be opened" end

local function test(name, fn)
  if missing then return pending(name, missing) end
  it(name, Nodes.within(Nodes.new, fn))
end

local function start(nodes, text, env)
  return nodes:start("node", { Nodes.lattice_path, "lua", Nodes.root .. "/tests/support/device_agent.lua",
    nodes:file("devices.lua", "return {" .. text .. "}") }, { env = env })
end

local TUN = '{ name = "tun0", kind = "tun", address = { "10.42.0.1/24", "fd42::1/64" }, mtu = 1400, where = "l.lua:1" }'
local EXISTING = '{ name = "eth7", kind = "existing", address = {}, where = "lattice.lua:2" }'

local function has(nodes, name)
  return nodes:try("node", "ip link show " .. name)
end

describe("a device of kind tun", function()
  test("is there for another program to attach to, and gone when the agent ends", function(nodes)
    local agent = start(nodes, TUN)
    agent:expect("up\n")
    local shown = nodes:sh("node", "ip -d addr show tun0")
    assert.matches("mtu 1400", shown)
    assert.matches("10%.42%.0%.1/24", shown)
    assert.matches("fd42::1/64", shown)
    local program = nodes:start("node", { "python3", "-c", [[
import fcntl, os, struct
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", b"tun0", 0x1001))
print("attached", flush=True)
while True:
    packet = os.read(fd, 2000)
    if packet[0] == 0x45: break
print(packet[28:].decode(), flush=True)]] })
    program:expect("attached")
    nodes:sh("node", [[python3 -c '
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"through", ("10.42.0.9", 9))']])
    program:expect("through")
    agent:kill()
    assert.equal(0, agent:wait().status)
    assert.is_false(has(nodes, "tun0"))
  end)

  test("outlives a killed agent and is taken over", function(nodes)
    local agent = start(nodes, TUN)
    agent:expect("up\n")
    local index = nodes:sh("node", "cat /sys/class/net/tun0/ifindex")
    agent:kill("sigkill")
    agent:expect(function() return agent.status end)
    local second = start(nodes, TUN)
    second:expect("open\tadopted")
    second:expect("up\n")
    assert.equal(index, nodes:sh("node", "cat /sys/class/net/tun0/ifindex"))
    second:kill()
    second:wait()
    assert.is_false(has(nodes, "tun0"))
  end)

  test("comes back when somebody deletes it", function(nodes)
    local agent = start(nodes, TUN)
    agent:expect("up\n")
    nodes:sh("node", "ip link delete tun0")
    agent:expect("gone tun0")
    agent:expect("raised again")
    assert.is_true(has(nodes, "tun0"))
    agent:kill()
    agent:wait()
    assert.is_false(has(nodes, "tun0"))
  end)

  test("left down by an agent that was killed before it raised it stays down, and the next agent takes it", function(nodes)
    local agent = start(nodes, TUN, { LATTICE_HOLD = "1" })
    agent:expect("open\tnew")
    agent:kill("sigkill")
    agent:expect(function() return agent.status end)
    assert.is_nil(nodes:sh("node", "ip -o link show tun0"):match("<[^>]*UP"))
    local second = start(nodes, TUN)
    second:expect("up\n")
    second:kill()
    second:wait()
    assert.is_false(has(nodes, "tun0"))
  end)
end)

describe("a device of kind existing", function()
  test("must be there, and is left as it was", function(nodes)
    local agent = start(nodes, EXISTING):wait()
    assert.matches("cannot: there is no device 'eth7': make it first", agent.out)
    nodes:sh("node", "ip link add eth7 type veth peer name other; ip link set eth7 up; ip addr add 192.0.2.1/24 dev eth7")
    local before = nodes:sh("node", "ip -o link show eth7; ip -o -4 addr show eth7")
    agent = start(nodes, EXISTING)
    agent:expect("up\n")
    agent:kill()
    assert.equal(0, agent:wait().status)
    assert.equal(before, nodes:sh("node", "ip -o link show eth7; ip -o -4 addr show eth7"))
  end)

  test("that comes back is down until it is guarded", function(nodes)
    nodes:sh("node", "ip link add eth7 type veth peer name other; ip link set eth7 up")
    local agent = start(nodes, EXISTING)
    agent:expect("up\n")
    nodes:sh("node", "ip link delete eth7")
    agent:expect("gone eth7")
    nodes:sh("node", "ip link add eth7 type veth peer name other; ip link set eth7 up")
    agent:expect("back eth7")
    agent:expect("raised again")
    Nodes.await("the device", function() return nodes:sh("node", "ip -o link show eth7"):match("<[^>]*UP") end)
    agent:kill()
    agent:wait()
    assert.is_true(has(nodes, "eth7"))
  end)
end)
