-- `lattice run --mode kernel`: the command in the host's network (a namespace of the test's), walled by programs on its
-- cgroup. What other specs show of user mode is shown here of kernel mode, and what only kernel mode has.
package.path = "tests/support/?.lua;" .. package.path
local uv = require("luv")
local World = require("world")
local served = require("served")

local bash, get = served.bash, served.get

local allow9 = [[policy "t" allow "tcp to 203.0.113.9 port 80"]]
local missing = World.missing() or World.no_mode("kernel")

local zone = [[
plain.example A     203.0.113.9  60
alias.example CNAME plain.example 60
other.example A     203.0.113.10 60
short.example A     203.0.113.11 1
]]

local name = ("kr%d"):format(uv.os_getpid())

-- Groups of this spec's runs that are there now, in every tree.
local function groups()
  local p = io.popen(("find /sys/fs/cgroup -mindepth 3 -maxdepth 4 -type d -path '*/lattice/%s*' 2>/dev/null | sort")
    :format(name))
  local text = p:read("a")
  p:close()
  return text
end

-- Looks again until it holds, for 10 s.
local function eventually(holds)
  local timer, rounds = uv.new_timer(), 0
  timer:start(20, 20, function() rounds = rounds + 1 end)
  while not holds() and rounds < 500 do uv.run("once") end
  timer:close()
  uv.run("nowait")
  return holds()
end

describe("lattice run --mode kernel", function()
  if missing then
    pending("all of it", missing)
    return
  end
  local world

  setup(function()
    world = World.new()
    served.start(world)
    world:serve({ "lua5.4", "tests/support/dns_server.lua", "203.0.113.9", world:file("zone", zone),
      world.dir .. "/queries" }, { udp = 53 })
  end)

  teardown(function() world:close() end)

  local function under(policy, command, opts)
    opts = opts or {}
    opts.mode = "kernel"
    opts.options = table.move(opts.options or {}, 1, #(opts.options or {}), 3, { "--name", name })
    return world:under(policy, command, opts)
  end

  local function rewrite(p, text)
    local f = assert(io.open(p.policy_path, "w"))
    f:write(text)
    f:close()
  end

  describe("the command", function()
    it("keeps its status, signals, standard input, directory and umask", function()
      assert.equal(7, under(allow9, { "sh", "-c", "exit 7" }).status)
      assert.equal(143, under(allow9, { "sh", "-c", "kill -TERM $$" }).status)
      assert.equal(127, under(allow9, { "no-such-command" }).status)
      local p = under(allow9, { "sh", "-c", "id -u; pwd; cat; umask" }, { stdin = "from stdin\n" })
      assert.equal(("0\n%s\nfrom stdin\n0022\n"):format(world.home), p.out)
      p = under(allow9, { "bash", "-c",
        "trap 'echo got TERM' TERM; trap 'exit 9' USR1; tail -f /dev/null & echo ready; while :; do wait; done" },
        { background = true })
      p:expect("ready")
      p:kill("sigterm")
      p:expect("got TERM")
      p:kill("sigusr1")
      assert.equal(9, p:wait().status)
    end)

    it("has no capability, a filter, and its group's files read-only", function()
      local p = under(allow9, { "sh", "-c", [[cat /proc/self/status
        for f in $(find /sys/fs/cgroup -name cgroup.procs | head -20); do echo $$ > $f && echo moved; done
        true]] })
      assert.equal(0, p.status, p.err)
      assert.matches("CapEff:%s+0000000000000000", p.out)
      assert.matches("CapBnd:%s+0000000000000000", p.out)
      assert.matches("Seccomp:%s+2", p.out)
      assert.not_matches("moved", p.out)
    end)

    it("is said to be in kernel mode, and leaves no group", function()
      local before = groups()
      local p = under(allow9, { "sh", "-c",
        "setsid sh -c 'echo left $$; exec tail -f /dev/null' & read x < /dev/null; exit 3" })
      assert.equal(3, p.status)
      local start = World.find(p.audit, { kind = "start" })[1].unmapped.lattice
      assert.equal("kernel", start.mode)
      assert.matches("^mode kernel", start.text)
      assert.equal(1, #World.find(p.audit, { kind = "selfcheck" }))
      assert.equal(before, groups())
    end)
  end)

  it("needs CAP_BPF and CAP_NET_ADMIN, and as root the right to map itself: what is missing is named", function()
    local function with(caps)
      caps = "-all,+dac_override," .. caps -- the root of the tree is nobody's to write in (0555)
      return world:run("host", { "setpriv", "--inh-caps", "-all", "--bounding-set", caps, World.lattice_path,
        "run", "-q", "--mode", "kernel", "--name", name, "--", "echo", "ran" }, { mode = "kernel" })
    end
    local p = with("+bpf,+net_admin,+setfcap")
    assert.equal("ran\n", p.out, p.err)
    for caps, word in pairs({ ["+net_admin,+setfcap"] = "CAP_BPF", ["+bpf,+setfcap"] = "CAP_NET_ADMIN",
      ["+bpf,+net_admin"] = "CAP_SETFCAP" }) do
      p = with(caps)
      assert.equal(125, p.status)
      assert.equal("", p.out)
      assert.matches(word .. " missing", p.err, 1, true)
    end
  end)

  describe("rules", function()
    it("let pass what they name and refuse the rest at once, told with process, rule and errno", function()
      local p = under(allow9, bash("get 203.0.113.9; get 203.0.113.10; get 203.0.113.9 81; get 2001:db8::9"))
      assert.equal("203.0.113.9: served\n203.0.113.10: refused\n203.0.113.9: refused\n2001:db8::9: refused\n", p.out)
      assert.matches("Connection refused", p.err, 1, true)
      local allowed = World.find(p.audit, { kind = "verdict", action = "allow" })
      local denied = World.find(p.audit, { kind = "verdict", action = "deny" })
      assert.equal(1, #allowed)
      assert.equal(3, #denied)
      assert.matches("policy%d+.lua:1", allowed[1].unmapped.lattice.where)
      assert.matches("/bash$", allowed[1].actor.process.file.path)
      assert.is_true(allowed[1].actor.process.pid > 1)
      assert.equal("default", denied[1].unmapped.lattice.where)
      assert.is_true(denied[1].actor.process.pid > 1)
      local closed = World.find(p.audit, { kind = "close" })
      assert.equal(1, #closed)
      assert.is_true(closed[1].traffic.bytes_in > 0)
    end)

    it("hold for IPv6, v4-mapped addresses, and other errnos", function()
      local p = under([[policy "t" deny("tcp to 203.0.113.10", { errno = "EHOSTUNREACH" })
        allow "tcp to 2001:db8::9 port 80"
        allow "tcp to 203.0.113.9 port 80"]], { "python3", "-c", [[
import socket
for to in "2001:db8::9", "2001:db8::a", "::ffff:203.0.113.9", "::ffff:203.0.113.11", "203.0.113.10":
    s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET)
    try: s.connect((to, 80)); print(to, "served")
    except OSError as e: print(to, e.errno) ]] })
      assert.equal("2001:db8::9 served\n2001:db8::a 111\n::ffff:203.0.113.9 served\n::ffff:203.0.113.11 111\n" ..
        "203.0.113.10 113\n", p.out, p.err)
    end)

    it("hold for children, threads and programs without libc's help", function()
      local p = under(allow9, { "python3", "-c", [[
import os, socket, threading
def try_it(who):
    for to in "203.0.113.9", "203.0.113.10":
        s = socket.socket()
        try: s.connect((to, 80)); print(who, to, "served", flush=True)
        except OSError as e: print(who, to, e.errno, flush=True)
t = threading.Thread(target=try_it, args=("thread",)); t.start(); t.join()
if os.fork() == 0:
    if os.fork() == 0: os.setsid(); try_it("grandchild"); os._exit(0)
    os.wait(); os._exit(0)
os.wait()]] })
      assert.equal("thread 203.0.113.9 served\nthread 203.0.113.10 111\ngrandchild 203.0.113.9 served\n" ..
        "grandchild 203.0.113.10 111\n", p.out, p.err)
    end)

    it("hold for UDP, connected or not", function()
      world:serve({ "python3", "-c", [[
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 9000))
while True: s.sendto(b"served", s.recvfrom(100)[1])]] }, { udp = 9000 })
      local p = under([[policy "t" allow "udp to 203.0.113.9 port 9000"]], { "python3", "-c", [[
import socket
for to in "203.0.113.9", "203.0.113.10":
    for connected in True, False:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
        try:
            if connected: s.connect((to, 9000)); s.send(b"x\n")
            else: s.sendto(b"x\n", (to, 9000))
            print(to, connected, s.recv(100))
        except OSError as e: print(to, connected, e.errno)]] })
      -- a UDP connect sends nothing and passes; what is sent over it is refused as a packet
      assert.equal("203.0.113.9 True b'served'\n203.0.113.9 False b'served'\n203.0.113.10 True 1\n" ..
        "203.0.113.10 False 111\n", p.out, p.err)
    end)

    it("leave the sandbox's own loopback alone and keep it off the host's, but for host rules", function()
      world:serve({ "socat", "tcp-listen:7001,fork,reuseaddr", "exec:echo served" }, { ns = "host", tcp = 7001 })
      world:serve({ "socat", "tcp-listen:7002,fork,reuseaddr", "exec:echo served" }, { ns = "host", tcp = 7002 })
      local p = under([[policy "t" allow "tcp to host port 7001"
        allow "tcp to 203.0.113.9"]], { "python3", "-c", [[
import socket
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen(1)
c = socket.socket(); c.connect(l.getsockname()); l.accept(); print("inside")
for port in 7001, 7002:
    s = socket.socket()
    try: s.connect(("127.0.0.1", port)); print(port, "served")
    except OSError as e: print(port, e.errno)]] })
      assert.equal("inside\n7001 served\n7002 111\n", p.out, p.err)
      assert.equal(2, #World.find(p.audit, { kind = "verdict" }))
    end)

    it("cost the supervisor nothing: 1000 connects are no notification", function()
      local p = under(allow9, { "python3", "-c", [[
import socket
for i in range(1000):
    s = socket.socket(); s.connect(("203.0.113.9", 80)); s.close()
print("done")]] }, { options = { "-q" } })
      assert.equal("done\n", p.out, p.err)
      local text = World.find(p.audit, { kind = "exit" })[1].unmapped.lattice.text
      assert.equal("1000", text:match("(%d+) connects allowed"), text)
      assert.equal("0", text:match("(%d+) connects asked"), text)
    end)
  end)

  describe("names", function()
    it("open what was answered, through aliases, and no bare address", function()
      local p = under([[policy "t" allow "tcp to alias.example port 80"]],
        bash("get 203.0.113.9; get alias.example; get 203.0.113.9; get other.example"))
      assert.equal("203.0.113.9: refused\nalias.example: served\n203.0.113.9: served\nother.example: refused\n",
        p.out, p.err)
      assert.equal("alias.example", World.find(p.audit, { kind = "verdict", action = "allow" })[1].unmapped.lattice.name)
      local dns = World.find(p.audit, { kind = "dns", action = "allow" })
      assert.is_true(#dns >= 1)
      assert.matches("/bash$", dns[1].actor.process.file.path)
    end)

    it("are asked over TCP as well, and 127.0.0.53 is who answers", function()
      local p = under([[policy "t" allow "tcp to plain.example port 80"]], { "python3", "-c", [[
import socket, struct
q = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"\5plain\7example\0" + struct.pack(">HH", 1, 1)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(5); u.sendto(q, ("127.0.0.53", 53))
d, who = u.recvfrom(512); print(len(d) > len(q), who)
t = socket.create_connection(("127.0.0.53", 53), 5); t.sendall(struct.pack(">H", len(q)) + q)
n, = struct.unpack(">H", t.recv(2)); print(n > len(q), t.getpeername())]] })
      assert.equal("True ('127.0.0.53', 53)\nTrue ('127.0.0.53', 53)\n", p.out, p.err)
    end)

    it("are not answered to anybody else", function()
      local p = under([[policy "t" allow "tcp to plain.example port 80"]], { "sh", "-c", "echo ready; read go" },
        { background = true, stdin = "open" })
      p:expect("ready")
      local ss = world:run("host", { "ss", "-Hlnup" })
      local port = ss.out:match("127%.0%.0%.1:(%d+)")
      assert.is_truthy(port, ss.out)
      local outside = world:run("host", { "python3", "-c", [[
import socket, struct, sys
q = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"\5plain\7example\0" + struct.pack(">HH", 1, 1)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(0.5); u.sendto(q, ("127.0.0.1", int(sys.argv[1])))
try: print(u.recv(512))
except OSError as e: print("silence")]], port })
      assert.equal("silence\n", outside.out, outside.err)
      p:write("go\n")
      p:wait()
    end)
  end)

  describe("reload", function()
    it("a refused one changes nothing, a new one holds for new and open connections", function()
      local p = under(allow9, { "bash", "-c", get .. [[
        exec 4<>/dev/tcp/203.0.113.9/80; read -r x <&4; echo open
        read -r go; echo ping >&4; read -r x <&4; echo "still $x"
        read -r go; if read -r -t 5 x <&4; then echo "not cut"; else echo "cut"; fi
        get 203.0.113.9; get 203.0.113.10]] }, { background = true, stdin = "open" })
      p:expect("open\n")
      rewrite(p, 'policy "t"\nallow "tcp to 203.0.113.300"\n')
      p:kill("sighup")
      p:expect("reload refused")
      p:write("go\n")
      p:expect("still ping\n")
      rewrite(p, 'policy "t" allow "tcp to 203.0.113.10 port 80"')
      p:kill("sighup")
      p:expect("1 open connections cut")
      p:write("go\n")
      assert.equal(0, p:wait().status)
      assert.matches("cut\n203.0.113.9: refused\n203.0.113.10: served\n$", p.out)
      local reloads = World.find(World.records(p.audit_path), { kind = "reload" })
      assert.same({ "deny", "allow" }, { reloads[1].unmapped.lattice.action, reloads[2].unmapped.lattice.action })
    end)

    it("keeps a connection that the new policy allows, one by name too, and all with keep_established", function()
      local p = under([[policy "t" allow "tcp to plain.example port 80"]], { "bash", "-c", [[
        exec 4<>/dev/tcp/plain.example/80; read -r x <&4; echo open
        while read -r word; do echo "$word" >&4; read -r x <&4; echo "got $x"; done]] },
        { background = true, stdin = "open" })
      p:expect("open\n")
      rewrite(p, 'policy "t" allow "tcp to *.example"')
      p:kill("sighup")
      p:expect("0 open connections cut")
      p:write("one\n")
      p:expect("got one\n")
      rewrite(p, 'policy "t" keep_established()')
      p:kill("sighup")
      p:expect("generation 3")
      p:write("two\n")
      p:expect("got two\n")
      p.stdin:close()
      assert.equal(0, p:wait().status)
    end)

    it("withstands a storm of SIGHUP", function()
      local p = under(allow9, { "bash", "-c", get ..
        "echo ready; read -r go; for i in 1 2 3 4 5 6 7 8; do get 203.0.113.9; get 203.0.113.10; done" },
        { background = true, stdin = "open" })
      p:expect("ready\n")
      for _ = 1, 30 do p:kill("sighup") end
      p:write("go\n")
      for _ = 1, 30 do p:kill("sighup") end
      assert.equal(0, p:wait().status)
      assert.equal("ready\n" .. ("203.0.113.9: served\n203.0.113.10: refused\n"):rep(8), p.out)
    end)
  end)

  describe("questions", function()
    local asking = [[
        policy "t"
        ask "tcp to 203.0.113.0/24 port 80"
        local n = 0
        on("ask", function(flow)
          n = n + 1
          if flow.addr == "203.0.113.9" then return "allow", { scope = "%s", reason = "question " .. n } end
          return "deny", { reason = "exe " .. flow.exe }
        end)]]

    it("hold the connect; an answer for the run is asked once", function()
      local p = under(asking:format("run"), bash("get 203.0.113.9; (get 203.0.113.9); get 203.0.113.10"))
      assert.equal("203.0.113.9: served\n203.0.113.9: served\n203.0.113.10: refused\n", p.out, p.err)
      local allowed = World.find(p.audit, { kind = "verdict", action = "allow" })
      assert.equal("question 1", allowed[2].unmapped.lattice.text)
      assert.matches("exe .*/bash", World.find(p.audit, { kind = "verdict", action = "deny" })[1].unmapped.lattice.text)
    end)

    it("are asked of each process where the answer is for a process, and each time where it is for once", function()
      local p = under(asking:format("process"), bash("get 203.0.113.9; get 203.0.113.9; (get 203.0.113.9)"))
      local last = World.find(p.audit, { kind = "verdict", action = "allow" })
      assert.equal("question 2", last[#last].unmapped.lattice.text, p.err)
      p = under(asking:format("once"), bash("get 203.0.113.9; get 203.0.113.9"))
      last = World.find(p.audit, { kind = "verdict", action = "allow" })
      assert.equal("question 2", last[#last].unmapped.lattice.text, p.err)
    end)

    it("what no rule decides is asked of on(\"connect\")", function()
      local p = under([[policy "t"
        on("connect", function(flow) return flow.port == 81 and "allow" or "deny" end)]],
        bash("get 203.0.113.9; get 203.0.113.9 81"))
      assert.equal("203.0.113.9: refused\n203.0.113.9: served\n", p.out, p.err)
    end)

    it("cannot come by a reload to a run that began without", function()
      local p = under(allow9, bash("echo ready; read -r go; get 203.0.113.9"), { background = true, stdin = "open" })
      p:expect("ready\n")
      rewrite(p, asking:format("run"))
      p:kill("sighup")
      p:expect("reload refused, the old policy stays: it has questions")
      p:write("go\n")
      p:wait()
      assert.equal("ready\n203.0.113.9: served\n", p.out)
    end)
  end)

  it("--audit-only lets everything pass and says what would have been denied", function()
    local p = under(allow9, bash("get 203.0.113.9; get 203.0.113.10; get other.example"), { options = { "--audit-only" } })
    assert.equal("203.0.113.9: served\n203.0.113.10: served\nother.example: served\n", p.out, p.err)
    local denied = World.find(p.audit, { kind = "verdict", audit_only = true })
    assert.equal(2, #denied)
    assert.equal("deny", denied[1].unmapped.lattice.action)
  end)

  it("unix sockets of the host are refused, abstract ones too, unless a rule names them", function()
    local listen = [[
import socket, sys, threading, time
for name in sys.argv[1], "\0lattice-outside-%d" % int(sys.argv[2]):
    s = socket.socket(socket.AF_UNIX); s.bind(name); s.listen(8)
    def serve(s=s):
        while True: c, _ = s.accept(); print("reached", flush=True); c.close()
    threading.Thread(target=serve).start()
print("listening", flush=True)]]
    local path, id = world.home .. "/outside.sock", ("%d"):format(uv.os_getpid())
    local s = world:start("host", { "python3", "-c", listen, path, id })
    s:expect("listening")
    local connect = [[
import os, socket, sys
for name in sys.argv[1], "\0lattice-outside-" + sys.argv[2], "/nowhere/at-all.sock", "\0nowhere":
    c = socket.socket(socket.AF_UNIX)
    try: c.connect(name); print("connected")
    except OSError as e: print(e.errno)
for name in "inside.sock", "\0inside-" + sys.argv[2]:
    l = socket.socket(socket.AF_UNIX); l.bind(name); l.listen(1)
    c = socket.socket(socket.AF_UNIX); c.connect(name); l.accept(); print("inside")
os.unlink("inside.sock")]]
    local p = under(allow9, { "python3", "-c", connect, path, id })
    assert.equal("13\n13\n2\n111\ninside\ninside\n", p.out, p.err)
    assert.equal(2, #World.find(p.audit, { kind = "unix", action = "deny" }))
    assert.equal("listening\n", s.out)
    p = under(('policy "t" unix "%s"'):format(path), { "python3", "-c", connect, path, id })
    assert.equal("connected\n13\n2\n111\ninside\ninside\n", p.out, p.err)
    s:expect("reached")
    s:kill("sigkill")
    s:wait()
  end)

  it("--network binds every socket to the device, and nothing outside the run", function()
    World.sh(([[
      ip link add v1 netns HOST type veth peer name v1 netns SERVER
      ip -n HOST addr add 192.0.2.129/25 dev v1; ip -n HOST link set v1 up
      ip -n SERVER addr add 192.0.2.130/25 dev v1; ip -n SERVER link set v1 up
      ip -n HOST route add default via 203.0.113.9 dev v0
      ip -n HOST route add default via 192.0.2.130 dev v1 metric 500
      ip -n SERVER addr add 198.51.100.77/32 dev lo]]):gsub("HOST", world.host):gsub("SERVER", world.server))
    local which = [[
import socket
s = socket.create_connection(("198.51.100.77", 80), 5); print(s.recv(10).decode().strip(), s.getsockname()[0],
    s.getsockopt(socket.SOL_SOCKET, 25, 16).rstrip(b"\0").decode() or "-")]]
    local p = under([[policy "t" allow "tcp to 198.51.100.77"]], { "python3", "-c", which },
      { options = { "--network", "v1" } })
    assert.equal("served 192.0.2.129 v1\n", p.out, p.err)
    p = world:run("host", { "python3", "-c", which })
    assert.equal("served 203.0.113.1 -\n", p.out, p.err)
    p = under(allow9, { "true" }, { options = { "--network", "none7" } })
    assert.equal(125, p.status)
    assert.matches("there is no device none7", p.err, 1, true)
  end)

  it("twenty runs at once do not meet", function()
    local runs, before = {}, groups()
    for i = 1, 20 do
      local address = i % 2 == 0 and "203.0.113.9" or "203.0.113.10"
      runs[i] = under(('policy "t" allow "tcp to %s port 80"'):format(address),
        bash("get 203.0.113.9; get 203.0.113.10"), { background = true })
    end
    for i, p in ipairs(runs) do
      assert.equal(0, p:wait(60000).status, p.err)
      assert.equal(i % 2 == 0 and "203.0.113.9: served\n203.0.113.10: refused\n"
        or "203.0.113.9: refused\n203.0.113.10: served\n", p.out)
    end
    assert.equal(before, groups())
  end)

  it("the program ends when the supervisor is killed, and its group goes", function()
    local before = groups()
    local p = under(allow9, { "sh", "-c", "setsid tail -f /dev/null & echo ready; exec tail -f /dev/null" },
      { background = true })
    p:expect("ready")
    assert.not_equal(before, groups())
    p:kill("sigkill")
    p:wait(5000)
    assert.equal(137, p.status)
    assert.is_true(eventually(function() return groups() == before end), groups())
  end)
end)
