-- `lattice run` as a user sees it: statuses, what the command keeps, rules, notices, audit, learning, limits.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")
local served = require("served")

local bash, get = served.bash, served.get

local allow9 = [[policy "t" allow "tcp to 203.0.113.9 port 80"]]
local missing = World.missing()

describe("lattice run", function()
  if missing then
    pending("all of it", missing)
    return
  end
  local world

  setup(function()
    world = World.new()
    served.start(world)
  end)

  teardown(function() world:close() end)

  describe("exit status", function()
    local function status(command, options)
      return world:under(allow9, command, { options = options }).status
    end

    it("is the command's own", function()
      assert.equal(0, status({ "true" }))
      assert.equal(7, status({ "sh", "-c", "exit 7" }))
    end)

    it("is 128 + the signal that ended the command", function()
      assert.equal(143, status({ "sh", "-c", "kill -TERM $$" }))
      assert.equal(137, status({ "sh", "-c", "kill -KILL $$" }))
    end)

    it("is 127 for a command that is not there and 126 for one that cannot run", function()
      assert.equal(127, status({ "no-such-command" }))
      assert.equal(126, status({ "/etc/passwd" }))
    end)

    it("is 125 when Lattice fails, and says why", function()
      local p = world:lattice({ "run", "--policy", world:file("bad.lua", "\nalow 'tcp to any'\n"), "--", "true" })
      assert.equal(125, p.status)
      assert.matches("bad.lua:2", p.err, 1, true)
      assert.matches("did you mean allow", p.err, 1, true)
      p = world:lattice({ "run", "--policy", "coding-agnt", "--", "true" })
      assert.equal(125, p.status)
      assert.matches("coding%-agent", p.err)
      assert.equal(125, world:lattice({ "run", "--policy", "/no/such.lua", "--", "true" }).status)
      assert.equal(125, world:lattice({ "run" }).status)
    end)
  end)

  describe("the command", function()
    it("begins after the dashes, or with the first word that is no option", function()
      local path = world:file("dashes.lua", allow9)
      for _, words in ipairs({ { "--", "echo", "-q", "--" }, { "echo", "-q", "--" } }) do
        local p = world:lattice({ "run", "-q", "--policy", path, table.unpack(words) })
        assert.equal("-q --\n", p.out, p.err)
      end
    end)

    it("keeps its uid, groups, directory, standard input and umask", function()
      local p = world:under(allow9, { "sh", "-c", "id -u; id -g; pwd; cat; umask" }, { stdin = "from stdin\n" })
      assert.equal(("65534\n65534\n%s\nfrom stdin\n0022\n"):format(world.home), p.out)
    end)

    it("has no capability, no new privileges and a filter", function()
      local p = world:under(allow9, { "cat", "/proc/self/status" })
      assert.matches("CapEff:%s+0000000000000000", p.out)
      assert.matches("CapBnd:%s+0000000000000000", p.out)
      assert.matches("NoNewPrivs:%s+1", p.out)
      assert.matches("Seccomp:%s+2", p.out)
    end)

    it("sees only its own processes", function()
      local p = world:under(allow9, { "sh", "-c", "ls /proc | grep -c '^[0-9]'" })
      assert.is_true(tonumber(p.out) <= 4)
    end)

    it("does not outlive the run: what it left behind is ended", function()
      local p = world:under(allow9, { "sh", "-c",
        "setsid sh -c 'echo left $$; exec tail -f /dev/null' & read x < /dev/null; exit 3" })
      assert.equal(3, p.status)
    end)

    it("gets a signal that is sent to lattice, once", function()
      local p = world:under(allow9, { "bash", "-c",
        "trap 'echo got TERM' TERM; trap 'exit 9' USR1; tail -f /dev/null & echo ready; while :; do wait; done" },
        { background = true })
      p:expect("ready")
      p:kill("sigterm")
      p:expect("got TERM")
      p:kill("sigusr1")
      assert.equal(9, p:wait().status)
      assert.equal("ready\ngot TERM\n", p.out)
    end)
  end)

  describe("rules", function()
    it("let pass what they name and refuse the rest at once", function()
      local p = world:under(allow9, bash("get 203.0.113.9; get 203.0.113.10; get 203.0.113.9 81"))
      assert.equal("203.0.113.9: served\n203.0.113.10: refused\n203.0.113.9: refused\n", p.out)
      assert.equal(1, #World.find(p.audit, { kind = "verdict", action = "allow" }))
      assert.equal(2, #World.find(p.audit, { kind = "verdict", action = "deny" }))
    end)

    it("hold for IPv6", function()
      local p = world:under([[policy "t" allow "tcp to 2001:db8::9 port 80"]],
        bash("get 2001:db8::9; get 2001:db8::a; get 203.0.113.9"))
      assert.equal("2001:db8::9: served\n2001:db8::a: refused\n203.0.113.9: refused\n", p.out)
    end)

    it("of the command line come before the policy's, denied ones first", function()
      local p = world:under([[policy "t" deny "tcp to any"]], bash("get 203.0.113.9; get 203.0.113.10"),
        { options = { "--allow", "tcp to 203.0.113.0/24 port 80", "--deny", "tcp to 203.0.113.10" } })
      assert.equal("203.0.113.9: served\n203.0.113.10: refused\n", p.out)
    end)

    it("without any allow nothing", function()
      local p = world:lattice({ "run", "--", "bash", "-c", get .. "get 203.0.113.9" })
      assert.equal("203.0.113.9: refused\n", p.out)
      p = world:under([[policy "empty"]], bash("get 203.0.113.9"))
      assert.equal("203.0.113.9: refused\n", p.out)
    end)

    it("tell the program by the errno that they name", function()
      local p = world:under([[policy "t" deny { proto = "tcp", to = "203.0.113.10", errno = "EACCES" }]],
        { "python3", "-c", "import socket\nfor a in '203.0.113.10', '203.0.113.11':\n" ..
          "  try: socket.create_connection((a, 80), 5)\n  except OSError as e: print(e.errno)" })
      assert.equal("13\n111\n", p.out)
    end)

    it("open a port of the host's own loopback only by the word host", function()
      local s = served.start(world, { ns = "host" })
      local p = world:under([[policy "t" allow "tcp to host port 80"]],
        bash("get 127.0.0.1; get ::1; get 127.0.0.1 81"))
      assert.equal("127.0.0.1: served\n::1: served\n127.0.0.1: refused\n", p.out)
      p = world:under([[policy "t" allow "tcp to any"]], bash("get 127.0.0.1"))
      assert.equal("127.0.0.1: refused\n", p.out)
      s:kill("sigkill")
      s:wait()
    end)
  end)

  describe("notices", function()
    it("name the destination, the place, the reason and the line that would allow it", function()
      local p = world:under('policy "t"\ndeny { proto = "tcp", to = "203.0.113.10", reason = "no" }\n',
        bash("get 203.0.113.10; get 203.0.113.10"))
      local line = p.err:match("lattice: denied[^\n]*")
      assert.matches("tcp 203.0.113.10:80", line, 1, true)
      assert.matches("policy%d+.lua:2", line)
      assert.matches('"no"; to allow: allow "tcp to 203.0.113.10 port 80"', line, 1, true)
      local _, times = p.err:gsub("lattice: denied", "")
      assert.equal(1, times)
    end)

    it("end in a summary, as text or JSON, and -q says nothing", function()
      local p = world:under(allow9, bash("get 203.0.113.9; get 203.0.113.10"))
      assert.matches("lattice: 1 allowed, 1 denied", p.err, 1, true)
      p = world:under(allow9, bash("get 203.0.113.9; get 203.0.113.10"), { options = { "--json" } })
      local o = require("dkjson").decode(p.err:match("{.*}"))
      assert.same({ "lattice/run/v1", 1, 1, 0 }, { o.schema, o.allowed, o.denied, o.status })
      assert.equal('allow "tcp to 203.0.113.10 port 80"', o.denied_destinations[1].to_allow)
      p = world:lattice({ "run", "-q", "--", "bash", "-c", get .. "get 203.0.113.9 2>/dev/null" })
      assert.equal("", p.err)
    end)
  end)

  describe("audit", function()
    it("has start, self-check, each verdict with its caller, close with bytes, and exit", function()
      local p = world:under(allow9, bash("get 203.0.113.9; exit 5"))
      assert.equal(1, #World.find(p.audit, { kind = "start" }))
      assert.is_true(#World.find(p.audit, { kind = "selfcheck" }) >= 2)
      local verdict = World.find(p.audit, { kind = "verdict" })[1]
      assert.equal(4001, verdict.class_uid)
      assert.equal("203.0.113.9", verdict.dst_endpoint.ip)
      assert.equal(80, verdict.dst_endpoint.port)
      assert.matches("/bash$", verdict.actor.process.file.path)
      assert.equal("65534", verdict.actor.process.user.uid)
      local close = World.find(p.audit, { kind = "close" })[1]
      assert.equal(7, close.traffic.bytes_in)
      assert.equal(5, World.find(p.audit, { kind = "exit" })[1].unmapped.lattice.status)
      local check = world:lattice({ "log", p.audit_path, "--check" })
      assert.equal(0, check.status)
      assert.matches("complete", check.out)
    end)

    it("is private, and neither readable nor writable inside; the policy cannot be changed", function()
      local path = ("%s/audit%d.jsonl"):format(world.home, (world.audits or 0) + 1)
      local p = world:under(allow9, { "sh", "-c",
        'cat "$1"; echo x >> "$1"; rm -f "$1"; ls -l "$1" | cut -c1-10', "sh", path })
      assert.equal("-r--r--r--\n", p.out)
      assert.equal("rw-------", World.mode(p.audit_path))
      assert.is_true(#p.audit >= 3)
    end)

    it("goes where the policy says", function()
      local path = world.home .. "/denied.jsonl"
      world:under(('policy "t" allow "tcp to 203.0.113.9 port 80" audit { "deny", to = file "%s" }'):format(path),
        bash("get 203.0.113.9; get 203.0.113.10"))
      local records = World.records(path)
      assert.equal(1, #records)
      assert.equal("203.0.113.10", records[1].dst_endpoint.ip)
    end)
  end)

  it("--audit-only lets everything pass and records what would have been denied", function()
    local p = world:under(allow9, bash("get 203.0.113.9; get 203.0.113.10"), { options = { "--audit-only" } })
    assert.equal("203.0.113.9: served\n203.0.113.10: served\n", p.out)
    assert.equal(1, #World.find(p.audit, { kind = "verdict", action = "deny" }))
  end)

  it("--learn writes a policy that checks clean and under which the same run is allowed in full", function()
    local learned = world.home .. "/learned.lua"
    local script = get .. "get 203.0.113.9; get 203.0.113.10 81; get 2001:db8::9"
    local first = world:lattice({ "run", "--learn", learned, "--", "bash", "-c", script })
    assert.equal(0, first.status, first.err)
    assert.equal(0, world:lattice({ "check", learned }).status)
    local second = world:lattice({ "run", "--policy", learned, "--", "bash", "-c", script })
    assert.equal("203.0.113.9: served\n203.0.113.10: served\n2001:db8::9: served\n", second.out)
    assert.matches("3 allowed, 0 denied", second.err)
  end)

  describe("limits", function()
    it("that need a cgroup are refused, unless the caller accepts that they do not hold", function()
      local text = [[policy "t" limits { memory = "1G", pids = 50 }]]
      local p = world:under(text, { "true" })
      assert.equal(125, p.status)
      assert.matches("this host cannot enforce these limits of the policy: memory\n  memory: ", p.err, 1, true)
      p = world:under(text, { "true" }, { options = { "--allow-missing-limits" } })
      assert.equal(0, p.status)
      assert.matches("warning: not enforced here: memory\n", p.err, 1, true)
    end)

    it("of processes and files hold", function()
      local p = world:under([[policy "t" limits { pids = 20, files = 40 }]], { "python3", "-c", [[
import os, resource, signal
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
children = []
try:
    for i in range(60):
        pid = os.fork()
        if pid == 0: signal.pause()
        children.append(pid)
except BlockingIOError: print("refused", len(children) <= 20, flush=True)
for pid in children: os.kill(pid, 9)]] })
      assert.equal("40\nrefused True\n", p.out)
    end)
  end)
end)
