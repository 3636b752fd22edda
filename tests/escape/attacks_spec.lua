-- Ways round the network wall (THREATS 2.1 to 2.3). Each attack is tried for real; what counts is whether a packet for the
-- forbidden addresses came over the wire. The control runs the same attack without the sandbox and must be seen.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")
local uv = require("luv")

local policy = [[
policy "escape"
allow "tcp, udp to 203.0.113.9, 2001:db8::9 port 80"
]]
local forbidden = { "203.0.113.10", "2001:db8::a", "239.1.2.3", "ff05::123", "255.255.255.255" }

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

  local function leaks()
    local _, n = watcher.out:gsub("leak", "")
    return n
  end

  -- A mark in the watcher's stream: everything sent before it has been seen.
  local function settle()
    local before = select(2, watcher.out:gsub("leak 17 203%.0%.113%.11\n", ""))
    world:run("host", { "bash", "-c", "echo mark > /dev/udp/203.0.113.11/9" })
    watcher:expect(function()
      return select(2, watcher.out:gsub("leak 17 203%.0%.113%.11\n", "")) > before
    end)
    return leaks() - select(2, watcher.out:gsub("leak 17 203%.0%.113%.11\n", ""))
  end

  -- The control's connections have ended: the last ACK of one may come late on a slow machine.
  local function ended()
    local until_ = uv.hrtime() + 60e9
    repeat
      local open = false
      for line in world:run("host", { "ss", "-Htan" }).out:gmatch("[^\n]+") do
        open = open or (line:find("203.0.113.10]?:80%f[%D]") or line:find("[2001:db8::a]:80", 1, true))
          and not line:find("^TIME%-WAIT")
      end
    until not open or uv.hrtime() > until_
  end

  setup(function()
    world = World.new()
    local words = { World.helpers .. "watcher", "v0", "203.0.113.11" }
    for _, address in ipairs(forbidden) do words[#words + 1] = address end
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
      local env = { TRIES = tries, UNIX_PATH = world.home .. "/o.sock" }
      local before = settle()
      if not by_output[name] then
        local control = world:run("host", { program[name], name },
          { user = not as_root[name] and "65534" or nil, env = { TRIES = "2000" }, timeout = 60000 })
        if control.status == 77 then
          if name ~= "io-uring" then return pending(name .. ": " .. control.err) end
        elseif name ~= "inherited" and name ~= "routing-header" then
          assert.equal(0, control.status, control.err)
          local seen = settle() - before
          assert.is_true(seen > 0, "the control did not leak: the attack proves nothing")
        end
      end
      ended()
      before = settle()
      env.INSIDE = "1"
      local p = world:under(policy, { program[name], name }, { env = env, timeout = 120000, options = { "-q" } })
      assert.is_true(p.status == 0 or p.status == 77, ("status %s: %s"):format(p.status, p.err))
      local after = settle()
      assert.equal(before, after, "packets for a forbidden address; the last: " .. watcher.out:sub(-160))
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
