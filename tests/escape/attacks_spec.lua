-- Ways round the network wall (THREATS 2.1 to 2.3). Each attack is tried for real; what counts is whether a packet for the
-- forbidden addresses came over the wire. The control runs the same attack without the sandbox and must be seen.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")

local policy = [[
policy "escape"
allow "tcp, udp to 203.0.113.9, 2001:db8::9 port 80"
]]
-- The control goes to addresses of its own: a late packet of it is not taken for one from the sandbox.
local groups = { "239.1.2.3", "ff05::123", "255.255.255.255" }
local of_control = { "203.0.113.10", "2001:db8::a", table.unpack(groups) }
local of_sandbox = { "203.0.113.12", "2001:db8::c", table.unpack(groups) }

-- No packet even without the sandbox: judged by what they print instead.
local by_output = { ["race-family"] = true, ["race-descriptor"] = true, families = true }
-- What a control needs beyond an ordinary user.
local as_root = {
  ["bind-device"] = true, ["raw-udp"] = true, ["packet-socket"] = true, ["ping-socket"] = true,
  ["routing-header"] = true,
}
-- Refused without a judged attempt (the kernel or the filter says no before there is a destination).
local silent = {
  ["packet-socket"] = true, ["raw-udp"] = true, ["other-streams"] = true, ["io-uring"] = true, x32 = true,
  inherited = true, families = true, ["race-family"] = true, ["race-descriptor"] = true,
  ["routing-header"] = true, -- the trap's kernel drops the packet before it is one flow or another
}

local missing = World.missing() or
  (not require("luv").fs_access(World.helpers .. "attack", "X") and "no build/helpers/attack" or nil)

describe("escape:", function()
  if missing then
    pending("all of it", missing)
    return
  end
  local world, watcher, outside
  local program = {} -- attack -> the helper that has it
  local tries = os.getenv("LATTICE_ESCAPE_TRIES") or "20000"

  local function seen(address)
    return select(2, watcher.out:gsub("leak %d+ " .. address:gsub("%p", "%%%0") .. "\n", ""))
  end

  -- How many packets came for the addresses. A mark comes first: everything sent before it has been seen.
  local function leaks(addresses)
    local before = seen("203.0.113.11")
    world:run("host", { "bash", "-c", "echo mark > /dev/udp/203.0.113.11/9" })
    watcher:expect(function() return seen("203.0.113.11") > before end)
    local count = 0
    for _, address in ipairs(addresses) do count = count + seen(address) end
    return count
  end

  setup(function()
    world = World.new()
    local words = { World.helpers .. "watcher", "v0", "203.0.113.11" }
    for _, address in ipairs(of_control) do words[#words + 1] = address end
    for i = 1, 2 do words[#words + 1] = of_sandbox[i] end
    watcher = world:start("server", words)
    watcher:expect("ready")
    world:serve({ "python3", "-c", [[
import socket, threading
u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); u.bind(("::", 80))
t = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
def udp():
    while True: u.recvfrom(2048)
threading.Thread(target=udp, daemon=True).start()
while True: t.accept()[0].close()
]] }, { tcp = 80, udp = 80 })
    outside = world:start("host", { "python3", "-c", [[
import socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(1024); print("listening", flush=True)
while True: s.accept()[0].close(); print("reached", flush=True)
]], world.home .. "/o.sock" }, { user = "65534" })
    outside:expect("listening")
  end)

  teardown(function() world:close() end)

  local list = {}
  for _, helper in ipairs({ "attack", "race" }) do
    for name in io.popen(World.helpers .. helper .. " --list"):lines() do
      list[#list + 1], program[name] = name, World.helpers .. helper
    end
  end

  for _, name in ipairs(list) do
    it(name .. " reaches the forbidden server without the sandbox, and not with it", function()
      local before = leaks(of_control)
      if not by_output[name] then
        local control = world:run("host", { program[name], name },
          { user = not as_root[name] and "65534" or nil, env = { TRIES = "2000" }, timeout = 60000 })
        if control.status == 77 then
          if name ~= "io-uring" then return pending(name .. ": " .. control.err) end
        elseif name ~= "inherited" and name ~= "routing-header" then
          assert.equal(0, control.status, control.err)
          assert.is_true(leaks(of_control) > before, "the control did not leak: the attack proves nothing")
        end
      end
      before = leaks(of_sandbox)
      local p = world:under(policy, { program[name], name }, { timeout = 120000, options = { "-q" }, env = {
        TRIES = tries, UNIX_PATH = world.home .. "/o.sock", INSIDE = "1", FORBIDDEN4 = of_sandbox[1],
        FORBIDDEN6 = of_sandbox[2],
      } })
      assert.is_true(p.status == 0 or p.status == 77, ("status %s: %s"):format(p.status, p.err))
      assert.equal(before, leaks(of_sandbox), "packets for a forbidden address; the last: " .. watcher.out:sub(-160))
      assert.equal("listening\n", outside.out)
      assert.not_matches("open %w", p.out)
      assert.not_matches("reached [1-9]", p.out)
      assert.not_matches("made [1-9]", p.out)
      if not silent[name] then
        assert.is_true(#World.find(p.audit, { kind = "verdict", action = "deny" }) > 0, "no audit line of the denial")
      end
    end)
  end

  it("positive: what the policy allows is reached", function()
    local p = world:under(policy, { "bash", "-c",
      "exec 3<>/dev/tcp/203.0.113.9/80 && echo tcp; echo x > /dev/udp/203.0.113.9/80 && echo udp" })
    assert.equal("tcp\nudp\n", p.out)
  end)
end)
