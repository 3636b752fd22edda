-- Ways round `--network DEVICE` of kernel mode (THREATS 0.5, 2.1): the policy would let all of it pass, but not by another
-- device. What left by the other one is told by its other end; the control, without the sandbox, must be seen there.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")

local policy = [[policy "device" allow "tcp, udp to any" allow "in tcp, udp from any"]]

local missing = World.missing() or World.no_mode("kernel") or
  (not require("luv").fs_access(World.helpers .. "device", "X") and "no build/helpers/device" or nil)

describe("escape, bound to a device:", function()
  if missing then
    pending("all of it", missing)
    return
  end
  local world, watcher
  local env = { DEVICE = "v1", SOURCE = "198.18.0.1", FORBIDDEN4 = "198.18.0.9" }

  setup(function()
    world = World.new()
    World.sh(([[
      ip link add v1 netns HOST type veth peer name v1 netns SERVER
      for n in HOST SERVER; do ip -n $n link set v1 up; done
      ip -n HOST addr add 198.18.0.1/24 dev v1
      ip -n SERVER addr add 198.18.0.9/24 dev v1; ip -n SERVER addr add 198.18.0.11/24 dev v1
      ip -n HOST route add 239.0.0.0/8 dev v0
    ]]):gsub("HOST", world.host):gsub("SERVER", world.server))
    watcher = world:start("server", { World.helpers .. "watcher", "v1", "198.18.0.11", "198.18.0.9", "239.1.2.4" })
    watcher:expect("ready")
  end)

  teardown(function() world:close() end)

  local function seen(address)
    return select(2, watcher.out:gsub("leak %d+ " .. address:gsub("%p", "%%%0") .. "\n", ""))
  end

  local function leaks()
    local before = seen("198.18.0.11")
    world:run("host", { "bash", "-c", "echo mark > /dev/udp/198.18.0.11/9" })
    watcher:expect(function() return seen("198.18.0.11") > before end)
    return seen("198.18.0.9") + seen("239.1.2.4")
  end

  local function under(name)
    return world:under(policy, { World.helpers .. "device", name },
      { mode = "kernel", options = { "-q", "--network", "v0" }, env = env })
  end

  for name in io.popen(World.helpers .. "device --list"):lines() do
    it(name .. " does not lead to another device", function()
      local before = leaks()
      local control = world:run("host", { World.helpers .. "device", name }, { env = env, user = "65534" })
      assert.equal(0, control.status, control.err)
      local after = leaks()
      assert.is_true(after > before, "the control did not leak: the attack proves nothing")
      local p = under(name)
      assert.equal(0, p.status, p.err)
      assert.equal(after, leaks())
    end)
  end

  it("nobody comes in by another device", function()
    local visitor = [[
import socket, sys
for port in sys.argv[1:]:
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.sendto(b"x", ("198.18.0.1", int(port)))
    t = socket.socket(); t.settimeout(0.3)
    try: t.connect(("198.18.0.1", int(port))); print("in", port)
    except OSError: pass
]]
    local p = world:under(policy, { World.helpers .. "local", "listening" },
      { mode = "kernel", stdin = "open", background = true, options = { "-q", "--network", "v0" } })
    local a, b, c = p:expect("ports (%d+)"), p.out:match("ports %d+ (%d+) (%d+)")
    assert.equal("", world:run("server", { "python3", "-c", visitor, a, b, c }).out)
    p:write("go\n")
    assert.matches("reached 0", p:wait().out)
  end)

  it("positive: the device itself is reached", function()
    world:serve({ "python3", "-c", [[
import socket
t = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
while True: t.accept()[0].close()
]] }, { tcp = 80 })
    local p = world:under(policy, { "bash", "-c", "exec 3<>/dev/tcp/203.0.113.9/80 && echo there" },
      { mode = "kernel", options = { "-q", "--network", "v0" } })
    assert.equal("there\n", p.out, p.err)
  end)
end)
