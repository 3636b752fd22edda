-- Ways round through descriptors, files, other processes and the supervisor itself (THREATS 2.4, 2.5, 3), in each mode that
-- has a wall. In kernel mode caller and command have the uid of root.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")

local policy = [[policy "escape" allow "tcp to 203.0.113.9 port 80"]]

-- Takes connections and answers "served": on every address of the server, and (in the host) on a unix socket.
local server = [[
local uv = require("luv")
uv.new_signal():start("sigpipe", function() end) -- a client that is killed must not end the server
io.stdout:setvbuf("line")
local listener = uv.new_tcp()
assert(listener:bind("::", 80))
listener:listen(512, function()
  local peer = uv.new_tcp()
  local function close() if not peer:is_closing() then peer:close() end end
  if not listener:accept(peer) then return close() end
  print("served " .. (peer:getsockname() or { ip = "?" }).ip)
  peer:write("served\n")
  if not peer:read_start(function(_, data) if data then peer:write(data) else close() end end) then close() end
end)
uv.run()
]]

local missing = World.missing()

for _, mode in ipairs({ "user", "kernel" }) do
  describe("escape, mode " .. mode .. ":", function()
    if missing or World.no_mode(mode) then
      pending("all of it", missing or World.no_mode(mode))
      return
    end
    local world, served
    local user = mode == "user" and "65534" or nil -- of caller and command

    local function forbidden()
      local _, n = served.out:gsub("203%.0%.113%.10", "")
      return n
    end

    local function python(text, ...)
      return { "python3", "-c", text, ... }
    end

    setup(function()
      world = World.new()
      served = world:serve({ "lua5.4", world:file("server.lua", server) }, { tcp = 80 })
    end)

    teardown(function() world:close() end)

    -- A server that ended by itself would look like a refusal.
    after_each(function() assert.is_nil(served.status, served.err) end)

    describe("descriptors", function()
      -- Opens what must not go in, then runs the command given.
      local leak = [[
import os, socket, sys
high = int(sys.argv[1])
s = socket.create_connection(("203.0.113.10", 80)); os.dup2(s.fileno(), high, inheritable=True)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); os.dup2(u.fileno(), high + 1, inheritable=True)
l = socket.create_server(("127.0.0.1", 0)); os.dup2(l.fileno(), high + 2, inheritable=True)
n = os.open("/proc/self/ns/net", os.O_RDONLY); os.dup2(n, high + 3, inheritable=True)
p = os.pidfd_open(os.getpid()); os.dup2(p, high + 4, inheritable=True)
if len(sys.argv) > 2 and sys.argv[2] == "stdin": os.dup2(s.fileno(), 0)
os.execvp(sys.argv[3], sys.argv[3:])
]]
      local look = "import os\nfor fd in sorted(int(f) for f in os.listdir('/proc/self/fd')):\n" ..
        "  try: print(fd, os.readlink('/proc/self/fd/%d' % fd))\n  except OSError: pass"

      local function run(high, how, command)
        local argv = { "python3", "-c", leak, high, how, World.lattice_path, "run", "--mode", mode, "-q",
          "--policy", world:file("descriptors.lua", policy), "--" }
        for _, word in ipairs(command) do argv[#argv + 1] = word end
        return world:run("host", argv, { user = user, mode = mode, cwd = world.home })
      end

      it("that are inherited are closed, low and high", function()
        for _, high in ipairs({ 5, 900 }) do
          local p = run(high, "none", python(look))
          assert.equal(0, p.status, p.err)
          assert.not_matches("\n[3-9]%d* socket:", "\n" .. p.out)
          assert.not_matches("net:", p.out)
          assert.not_matches("pidfd", p.out)
        end
      end)

      it("0 to 2 that are sockets of the host's network are replaced", function()
        local p = run(5, "stdin", python("import os,stat; print(stat.S_ISSOCK(os.fstat(0).st_mode)); print(os.read(0, 9))"))
        assert.equal("False\nb''\n", p.out)
      end)
    end)

    describe("unix sockets:", function()
      local listen = [[
import array, os, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(64)
d = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); d.bind(sys.argv[1] + ".dgram"); d.setblocking(False)
a = socket.socket(socket.AF_UNIX); a.bind("\0lattice-outside-%d" % os.getpid()); a.listen(8); a.setblocking(False)
print("listening", os.getpid(), flush=True)
while True:
    c, _ = s.accept()
    t = socket.create_connection(("203.0.113.10", 80)) # a helper outside that hands out sockets
    try: c.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [t.fileno()]))])
    except BrokenPipeError: pass # it did not wait
    print("reached", flush=True); c.close()
]]
      local attempt = [[
import os, socket, sys
path, pid = sys.argv[1:3]
os.symlink(path, "link.sock"); os.chdir(os.path.dirname(path)); base = os.path.basename(path)
try: os.link(path, "hard.sock")
except OSError: pass
for name in (path, base, "./" + base, "link.sock", "hard.sock", "/proc/self/root" + path, "/proc/self/cwd/" + base,
             "/proc/1/root" + path, "//" + path, "/tmp/../" + path, "\0lattice-outside-" + pid):
    for kind in socket.SOCK_STREAM, socket.SOCK_SEQPACKET:
        try: s = socket.socket(socket.AF_UNIX, kind); s.connect(name); print("reached", repr(name))
        except OSError: pass
try: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", path + ".dgram"); print("reached by datagram")
except OSError: pass
try: a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.sendto(b"x", path + ".dgram"); print("reached by pair")
except OSError: pass
a, b = socket.socketpair()
try: a.sendto(b"x", path); print("reached by stream pair")
except OSError: pass
try: a.connect(path); print("reached by reconnect")
except OSError: pass
for name in ("link.sock", "hard.sock"):
    try: os.unlink(name)
    except OSError: pass
print("tried")
]]

      it("none of the host's is reached, by whatever name or kind", function()
        local path = world.home .. "/outside.sock"
        local s = world:start("host", python(listen, path), { user = "65534" })
        local pid = s:expect("listening (%d+)")
        local p = world:under(policy, python(attempt, path, pid), { mode = mode, cwd = world.home })
        assert.equal("tried\n", p.out)
        assert.not_matches("reached", s.out)
        local control = world:run("host", python(attempt, path, pid), { user = "65534", cwd = world.home })
        assert.matches("reached '", control.out)
        assert.matches("reached by datagram", control.out)
        assert.matches("reached by pair", control.out)
        s:kill("sigkill")
        s:wait()
      end)

      it("one that the host opens while the program runs is not taken for its own", function()
        local path = world.home .. "/late.sock"
        local late = attempt:gsub("path, pid = sys.argv%[1:3%]",
          "print('ready', flush=True); path, pid = sys.stdin.readline().split()")
        local p = world:under(policy, python(late), { mode = mode, cwd = world.home, background = true, stdin = "open" })
        p:expect("ready")
        local s = world:start("host", python(listen, path), { user = user })
        p:write(("%s %s\n"):format(path, s:expect("listening (%d+)")))
        p:wait()
        assert.equal("ready\ntried\n", p.out, p.err)
        assert.not_matches("reached", s.out)
        s:kill("sigkill")
        s:wait()
        os.remove(path)
        os.remove(path .. ".dgram")
      end)

      -- The rule's path is in a folder of the program's own user: it may put another socket there.
      local swap = [[
import os, socket
def reach(name):
    s = socket.socket(socket.AF_UNIX)
    try: s.connect(name); print("reached", s.recv(9).decode())
    except OSError as e: print("refused", e.errno)
reach("named.sock")
os.rename("named.sock", "kept.sock"); reach("kept.sock") # the same socket still is not at the rule's path
os.symlink("other.sock", "named.sock"); reach("named.sock"); os.unlink("named.sock")
os.link("other.sock", "named.sock"); reach("named.sock"); os.unlink("named.sock")
os.rename("other.sock", "named.sock"); reach("named.sock"); os.rename("named.sock", "other.sock")
os.rename("kept.sock", "named.sock"); reach("named.sock")
]]
      local two = [[
import os, selectors, socket, sys
sel = selectors.DefaultSelector()
def serve(name):
    s = socket.socket(socket.AF_UNIX); s.bind(name); s.listen(64)
    sel.register(s, selectors.EVENT_READ, os.path.basename(name).encode())
for name in sys.argv[1:]: serve(name)
print("listening", flush=True)
while True:
    for key, _ in sel.select():
        c, _ = key.fileobj.accept(); c.send(key.data[:5]); c.close()
]]

      it("a rule opens its socket and none that is put in its place", function()
        local s = world:start("host", python(two, world.home .. "/named.sock", world.home .. "/other.sock"),
          { user = user })
        s:expect("listening")
        local rule = policy .. (' unix "%s/named.sock"'):format(world.home)
        local p = world:under(rule, python(swap), { mode = mode, cwd = world.home })
        assert.equal("reached named\nrefused 13\nrefused 13\nrefused 13\nrefused 13\nreached named\n", p.out)
        s:kill("sigkill")
        s:wait()
        os.remove(world.home .. "/named.sock")
        os.remove(world.home .. "/other.sock")
      end)
    end)

    describe("other processes:", function()
      it("the supervisor and others of the same user are out of sight and reach", function()
        local bystander = world:start("host", { "tail", "-f", "/dev/null" }, { user = user })
        local script = [[
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
hits = []
for pid in list(range(1, 64)) + [int(sys.argv[1])]:
    if pid == os.getpid(): continue
    for what in ("mem", "environ", "fd", "ns/net", "maps"):
        try:
            path = "/proc/%d/%s" % (pid, what)
            (lambda p: [os.readlink(p + "/" + f) for f in os.listdir(p)] if what == "fd" else open(p, "rb").read(1))(path)
            hits.append(path)
        except OSError: pass
    if libc.ptrace(16, pid, 0, 0) == 0: hits.append("ptrace %d" % pid)
    fd = libc.syscall(434, pid, 0)
    if fd >= 0 and libc.syscall(438, fd, 3, 0) >= 0: hits.append("pidfd_getfd %d" % pid)
print(hits)
for pid in range(1, 64):
    if pid != os.getpid():
        try: os.kill(pid, 9)
        except OSError: pass
print("alive")
]]
        local p = world:under(policy, python(script, tostring(bystander.pid)), { mode = mode })
        assert.equal("[]\nalive\n", p.out)
        assert.is_nil(bystander.status)
        -- in a normal user's world the bystander has a user namespace of its own: only who made that may look
        local control = world:run("host", python(script:gsub("range%(1, 64%)", "[]"), tostring(bystander.pid)),
          { user = not World.in_userns and user or nil })
        assert.matches("/proc/%d+/environ", control.out)
        assert.matches("pidfd_getfd", control.out)
        bystander:kill("sigkill")
        bystander:wait()
      end)

      it("a signal to the process group reaches nobody outside", function()
        local caller = [[%s sh -c 'kill -TERM 0; sleep 5'; echo the caller lives]]
        local function group(before)
          return world:run("host", { "setsid", "-w", "sh", "-c", caller:format(before) }, { user = user, mode = mode }).out
        end
        assert.equal("", group("env"))
        assert.equal("the caller lives\n", group(("%s run -q --mode %s --"):format(World.lattice_path, mode)))
      end)

      it("a terminal cannot be typed into", function()
        local script = [[
import fcntl, os, pty, sys
m, s = pty.openpty()
for request in (0x5412, 0x541C, 0x15412 & 0xffffffff | 1 << 40):
    try: fcntl.ioctl(s, request & 0xffffffff, b"x"); print("typed")
    except OSError as e: print(e.errno)
]]
        local p = world:under(policy, python(script), { mode = mode })
        assert.not_matches("typed", p.out)
      end)

      it("a nested run is refused or as narrow", function()
        local wide = world:file("wide.lua", 'policy "wide" allow "tcp to any"')
        local before = forbidden()
        world:under(policy, { World.lattice_path, "run", "--policy", wide, "--", "bash", "-c",
          "exec 3<>/dev/tcp/203.0.113.10/80" }, { mode = mode })
        assert.equal(before, forbidden())
      end)
    end)

    describe("files:", function()
      it("the policy cannot be rewritten, replaced or moved away under a reload", function()
        local folder = world.home .. "/project"
        assert(require("luv").fs_mkdir(folder, tonumber("777", 8)))
        assert(require("luv").fs_chmod(folder, tonumber("777", 8)))
        local path = folder .. "/my.lua"
        local f = assert(io.open(path, "w"))
        f:write(policy)
        f:close()
        if user and not World.in_userns then assert(require("luv").fs_chown(path, 65534, 65534)) end
        local script = [[
import os, sys
path = sys.argv[1]; folder = os.path.dirname(path)
wide = 'policy "wide" allow "tcp to any"'
for attempt in (lambda: open(path, "w").write(wide), lambda: os.unlink(path), lambda: os.chmod(path, 0o777),
                lambda: (open(folder + "/new", "w").write(wide), os.rename(folder + "/new", path)),
                lambda: (os.rename(folder, folder + "2"), os.mkdir(folder), open(path, "w").write(wide))):
    try: attempt()
    except OSError: pass
print("changed", flush=True); sys.stdin.readline()
import socket
try: socket.create_connection(("203.0.113.10", 80), 3); print("open")
except OSError: print("refused")
]]
        local before = forbidden()
        local p = world:start_lattice({ "run", "--policy", path, "-v", "--", "python3", "-c", script, path },
          { mode = mode, stdin = "open" })
        p:expect("changed")
        p:kill("sighup")
        p:expect("generation 2")
        p:write("go\n")
        p:wait()
        assert.equal("changed\nrefused\n", p.out)
        assert.equal(before, forbidden())
      end)

      it("forged audit lines stay inside one record", function()
        local forged = "x\n{\"class_uid\":4001}\r\27[2J\127\xff"
        local p = world:under(policy, { "bash", "-c", "exec -a \"$0\" bash -c 'exec 3<>/dev/tcp/203.0.113.10/80'", forged },
          { mode = mode, options = { "--name", "n\n{\"forged\":1}" } })
        local raw = World.read(p.audit_path)
        assert.not_matches("\n{\"class_uid\":4001}", raw)
        assert.not_matches("[\0-\9\11-\31\127]", raw)
        for _, record in ipairs(p.audit) do assert.is_table(record.unmapped) end
      end)
    end)

    describe("the supervisor", function()
      -- Hammers the forbidden and the allowed server until it is ended.
      local hammer = [[
import socket, threading, time
print("ready", flush=True)
def go(address):
    while True:
        s = socket.socket(); s.settimeout(1)
        try: s.connect((address, 80)); s.recv(7)
        except OSError: pass
        s.close()
        u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try: u.sendto(b"x", (address, 80))
        except OSError: pass
        u.close()
for a in ("203.0.113.10", "203.0.113.9") * 2: threading.Thread(target=go, args=(a,), daemon=True).start()
threading.Event().wait()
]]

      it("killed at random moments opens nothing, and the program ends with it", function()
        local uv = require("luv")
        local seed = tonumber(os.getenv("LATTICE_SEED") or "") or uv.hrtime() % 1000000
        local random = seed
        local rounds = tonumber(os.getenv("LATTICE_KILLS") or "50")
        local before = forbidden()
        for round = 1, rounds do
          random = (random * 1103515245 + 12345) % 2147483648
          local p = world:under(policy, python(hammer), { mode = mode, background = true, options = { "-q" } })
          if round % 2 == 0 then p:expect("ready") end
          local timer, late = uv.new_timer(), false
          timer:start(random % 60, 0, function() late = true end)
          while not late do uv.run("once") end
          timer:close()
          p:kill("sigkill")
          p:wait(5000)
          assert.equal(before, forbidden(), "seed " .. seed)
        end
      end)

      it("killed after its keeper opens nothing, and the program ends with it", function()
        if mode == "user" then return pending("only a group has a keeper") end
        local before = forbidden()
        local p = world:under(policy, python(hammer), { mode = mode, background = true, options = { "-q" } })
        p:expect("ready")
        local killed = 0
        for pid in (World.read(("/proc/%d/task/%d/children"):format(p.pid, p.pid)) or ""):gmatch("%d+") do
          if World.read("/proc/" .. pid .. "/comm") == "lattice-keeper\n" then
            require("luv").kill(tonumber(pid), "sigkill")
            killed = killed + 1
          end
        end
        assert.equal(1, killed)
        p:kill("sigkill")
        p:wait(5000)
        assert.equal(before, forbidden())
        world:under(policy, { "true" }, { mode = mode }) -- takes away the group that was left
      end)

      it("stopped opens nothing, and what is allowed passes when it is continued", function()
        -- In kernel mode it is not the supervisor that decides: what the tables allow goes on.
        local p = world:under(policy, { "env", "FIRST=203.0.113." .. (mode == "user" and "9" or "10"), "bash", "-c", [[
        echo ready; read -r go
        if timeout 1 bash -c 'exec 3<>/dev/tcp/$FIRST/80' 2>/dev/null; then echo passed; else echo held; fi
        read -r go; if exec 3<>/dev/tcp/203.0.113.9/80; then echo passed; else echo held; fi]] },
          { mode = mode, background = true, stdin = "open" })
        p:expect("ready")
        p:kill("sigstop")
        p:write("go\n")
        p:expect("held\n")
        p:kill("sigcont")
        p:write("go\n")
        p:wait()
        assert.equal("ready\nheld\npassed\n", p.out)
      end)

      it("without descriptors refuses, and recovers", function()
        if mode == "kernel" then return pending("in kernel mode a connection costs the supervisor no descriptor") end
        local path = world:file("few.lua", policy)
        local p = world:start("host", { "bash", "-c", 'ulimit -n 100; exec "$0" "$@"', World.lattice_path, "run", "-q",
          "--policy", path, "--", "python3", "-c", [[
import socket, sys
print("ready", flush=True)
held, refused = [], 0
for i in range(80):
    s = socket.socket(); s.settimeout(5)
    try: s.connect(("203.0.113.9", 80)); held.append(s)
    except OSError: refused += 1
print("refused", refused > 0, "held", len(held) > 0, flush=True)
for s in held: s.close()
sys.stdin.readline()
for i in range(5000):
    try: s = socket.create_connection(("203.0.113.9", 80), 5); break
    except OSError: pass
print("again", s.recv(6), flush=True)
]] }, { user = "65534", cwd = world.home, stdin = "open" })
        p:expect("refused True held True\n")
        p:write("go\n")
        p:expect("again b'served'")
        assert.equal(0, p:wait().status)
      end)

      it("stands a storm of forks and of refused calls, and still serves what is allowed", function()
        local before = forbidden()
        local p = world:under(policy .. "\nlimits { pids = 300 }", python([[
import os, socket, threading
for i in range(40):
    if os.fork() == 0:
        for k in range(50):
            s = socket.socket(); s.settimeout(2)
            try: s.connect(("203.0.113.10", 80))
            except OSError: pass
            s.close()
        os._exit(0)
s = socket.create_connection(("203.0.113.9", 80), 10); print(s.recv(6), flush=True)
for i in range(40): os.wait()
]]), { mode = mode, timeout = 60000, options = { "-q" } })
        assert.equal("b'served'\n", p.out, p.err)
        assert.equal(before, forbidden())
        assert.equal(2000, #World.find(p.audit, { kind = "verdict", action = "deny" }))
      end)
    end)
  end)
end
