-- Ways round the network wall (THREATS 2.1 to 2.4), in each mode that has one. Each attack is tried for real; what counts is
-- whether a packet for the forbidden addresses came over the wire. The control runs the same attack without the sandbox and
-- must be seen. In kernel mode the attacker has the uid of root.
-- Takes long.
package.path = "tests/support/?.lua;" .. package.path
local World, Walled = require("world"), require("walled")

local policy = [[
policy "escape"
allow "tcp, udp to 203.0.113.9, 2001:db8::9 port 80"
]]
-- The control goes to addresses of its own: a late packet of it is not taken for one from the sandbox.
local groups = { "239.1.2.3", "ff05::123", "255.255.255.255" }
local of_control = { "203.0.113.10", "2001:db8::a", "239.7.0.1", table.unpack(groups) }
local of_sandbox = { "203.0.113.12", "2001:db8::c", "239.7.0.2", table.unpack(groups) }

-- No packet even without the sandbox: judged by what they print instead.
local by_output = { ["race-family"] = true, ["race-descriptor"] = true, families = true }
-- What a control needs beyond an ordinary user.
local as_root = {
  ["bind-device"] = true, ["raw-udp"] = true, ["packet-socket"] = true, ["ping-socket"] = true,
  ["routing-header"] = true, ["routing-message"] = true, ["extension-headers"] = true, ["cgroup-procs"] = true,
  ["clone-into-cgroup"] = true,
}
-- Whose control the kernel of the sender or of the receiver stops.
local no_control = { inherited = true, ["routing-header"] = true, ["routing-message"] = true, ["io-uring"] = true }
-- Refused without a judged attempt (the kernel or the filter says no before there is a destination).
local silent = {
  ["packet-socket"] = true, ["raw-udp"] = true, ["other-streams"] = true, ["io-uring"] = true, x32 = true,
  inherited = true, families = true, ["race-family"] = true, ["race-descriptor"] = true,
  ["routing-header"] = true, -- the trap's kernel drops the packet before it is one flow or another
  ["routing-message"] = true, ["clone-into-cgroup"] = true, membership = true,
}
-- The same in one mode: before there is a flow to judge.
local silent_in = { user = { ["extension-headers"] = true }, kernel = { mptcp = true } }

local missing = World.missing() or
  (not require("luv").fs_access(World.helpers .. "attack", "X") and "no build/helpers/attack" or nil)

-- Groups that judge nobody, where an attacker would be free: one in each kind of hierarchy that is here.
local function make_groups()
  local uv, made = require("luv"), {}
  for _, root in ipairs({ "/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/sys/fs/cgroup/pids" }) do
    local path = ("%s/lattice-escape-%d"):format(root, uv.os_getpid())
    if uv.fs_access(root .. "/cgroup.procs", "W") and uv.fs_mkdir(path, tonumber("755", 8)) then made[#made + 1] = path end
  end
  return made
end

-- In kernel mode a policy with a question has every connect made by the supervisor.
local question = 'ask "tcp to 198.51.100.9 port 9"'

-- And the agent walls the runs of an ordinary user.
for _, case in ipairs({ { "user" }, { "kernel" }, { "kernel", question, ", with questions" },
  { "kernel", "", ", walled by the agent", agent = true } }) do
  local mode, rules = case[1], policy .. (case[2] or "")
  describe("escape, mode " .. mode .. (case[3] or "") .. ":", function()
    if missing or World.no_mode(mode) then
      pending("all of it", missing or World.no_mode(mode))
      return
    end
    local world, watcher, outside, cgroups, walled
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
      world, cgroups = World.new(), make_groups()
      local words = { World.helpers .. "watcher", "v0", "203.0.113.11" }
      for _, address in ipairs(of_control) do words[#words + 1] = address end
      for i = 1, 3 do words[#words + 1] = of_sandbox[i] end
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
      if case.agent then walled = Walled.start(world, rules) end
    end)

    teardown(function()
      if walled then Walled.stop(walled) end
      world:close()
      for _, path in ipairs(cgroups) do assert(require("luv").fs_rmdir(path)) end
    end)

    local list = {}
    for _, helper in ipairs({ "attack", "packets", "race" }) do
      for name in io.popen(World.helpers .. helper .. " --list"):lines() do
        list[#list + 1], program[name] = name, World.helpers .. helper
      end
    end

    for _, name in ipairs(list) do
      it(name .. " reaches the forbidden server without the sandbox, and not with it", function()
        local before = leaks(of_control)
        if not by_output[name] then
          -- A race may be lost, on a busy machine more than once.
          for _ = 1, name:find("^race") and 10 or 1 do
            local control = world:run("host", { program[name], name }, { timeout = 60000,
              user = not as_root[name] and "65534" or nil, mode = name:find("cgroup", 1, true) and "kernel" or nil,
              env = { TRIES = "2000", CGROUPS = cgroups[1] and table.concat(cgroups, ":") } })
            if no_control[name] then break end
            if control.status == 77 then return pending(name .. ": " .. control.err) end
            assert.equal(0, control.status, control.err)
            if leaks(of_control) > before then break end
          end
          if not no_control[name] then
            assert.is_true(leaks(of_control) > before, "the control did not leak: the attack proves nothing")
          end
        end
        before = leaks(of_sandbox)
        local command = { program[name], name }
        local opts = { mode = mode, timeout = 120000, options = { "-q" }, env = {
          TRIES = tries, UNIX_PATH = world.home .. "/o.sock", INSIDE = "1", FORBIDDEN4 = of_sandbox[1],
          FORBIDDEN6 = of_sandbox[2], GROUP = of_sandbox[3], CGROUPS = cgroups[1] and table.concat(cgroups, ":"),
        } }
        local p = walled and Walled.run(walled, command, opts) or world:under(rules, command, opts)
        assert.is_true(p.status == 0 or p.status == 77, ("status %s: %s"):format(p.status, p.err))
        assert.equal(before, leaks(of_sandbox), "packets for a forbidden address; the last: " .. watcher.out:sub(-160))
        assert.equal("listening\n", outside.out)
        assert.not_matches("open %w", p.out)
        assert.not_matches("reached [1-9]", p.out)
        assert.not_matches("made [1-9]", p.out)
        if not silent[name] and not silent_in[mode][name] then
          assert.is_true(#World.find(p.audit, { kind = "verdict", action = "deny" }) > 0, "no audit line of the denial")
        end
      end)
    end

    it("positive: what the policy allows is reached", function()
      local command = { "bash", "-c",
        "exec 3<>/dev/tcp/203.0.113.9/80 && echo tcp; echo x > /dev/udp/203.0.113.9/80 && echo udp" }
      local p = walled and Walled.run(walled, command, {}) or world:under(rules, command, { mode = mode })
      assert.equal("tcp\nudp\n", p.out)
    end)
  end)
end
