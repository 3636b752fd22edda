-- What listens on the host itself, and what the command opens there (THREATS 2.1, 2.4): where the sandbox is in the host's
-- network, in kernel mode, there is no namespace between. The control does the same without the sandbox and must get
-- through.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")

local policy = [[policy "escape" allow "tcp, udp to 203.0.113.9 port 80"]]
local PORT = "8053"

-- On every address: TCP and UDP, each answers; and unix sockets, by a path and by abstract names of every length.
local host = [[
import os, selectors, socket, sys
port, path, name = int(sys.argv[1]), sys.argv[2], sys.argv[3]
sel = selectors.DefaultSelector()
def add(s):
    s.setblocking(False); sel.register(s, selectors.EVENT_READ)
t = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512); add(t)
u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); u.bind(("::", port)); add(u)
for kind in socket.SOCK_STREAM, socket.SOCK_SEQPACKET:
    if kind == socket.SOCK_STREAM:
        s = socket.socket(socket.AF_UNIX, kind); s.bind(path); s.listen(64); add(s)
    for n in range(6, 41):
        s = socket.socket(socket.AF_UNIX, kind)
        s.bind(b"\0" + name.encode()[:n - 1].ljust(n - 1, b"x")); s.listen(64); add(s)
print("listening", flush=True)
while True:
    for key, _ in sel.select():
        s = key.fileobj
        try:
            if s.type == socket.SOCK_DGRAM:
                data, peer = s.recvfrom(64); s.sendto(b"served", peer)
            else:
                c, _ = s.accept(); print("reached", c.family.name, flush=True); c.send(b"served"); c.close()
        except OSError: pass
]]

-- Goes to each of the ports by TCP and UDP.
local visitor = [[
import socket, sys
for address in ("203.0.113.1", "2001:db8::1"):
    for port in sys.argv[1:]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        u = socket.socket(family, socket.SOCK_DGRAM); u.sendto(b"x", (address, int(port)))
        t = socket.socket(family); t.settimeout(0.3)
        try: t.connect((address, int(port))); print("in", port)
        except OSError: pass
]]

-- A conversation with a UDP socket of one's own, whose port is given up; then one more word to that port.
local handover = [[
import socket, sys
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); own.bind(("127.0.0.1", 0))
c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); c.bind(("127.0.0.1", 0)); c.connect(own.getsockname())
c.send(b"one"); own.recv(9); own.sendto(b"back", c.getsockname()); c.recv(9)
port = own.getsockname()[1]; own.close(); print("port", port, flush=True); sys.stdin.readline()
try: c.send(b"more")
except OSError as e: print(e)
]]

local taker = [[
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", int(sys.argv[1]))); print("bound", flush=True)
s.settimeout(2)
try: print("got", s.recv(9).decode())
except OSError: print("got nothing")
]]

local missing = World.missing() or
  (not require("luv").fs_access(World.helpers .. "local", "X") and "no build/helpers/local" or nil)

-- In kernel mode a policy with a question has every connect made by the supervisor.
local question = 'ask "tcp to 198.51.100.9 port 9"'

for _, case in ipairs({ { "user" }, { "kernel" }, { "kernel", question, ", with questions" } }) do
  local mode, rules = case[1], policy .. " " .. (case[2] or "")
  describe("escape to the host, mode " .. mode .. (case[3] or "") .. ":", function()
    if missing or World.no_mode(mode) then
      pending("all of it", missing or World.no_mode(mode))
      return
    end
    local world, env

    setup(function()
      world = World.new()
      env = { PORT = PORT, UNIX_DIR = world.home, UNIX_NAME = ("lattice%d"):format(require("luv").os_getpid()) }
    end)

    teardown(function() world:close() end)

    -- Calls f while the host listens; returns what f does, and what the host saw.
    local function listening(f)
      local path = world.home .. "/o.sock"
      local outside = world:start("host", { "python3", "-c", host, PORT, path, env.UNIX_NAME }, { user = "65534" })
      outside:expect("listening")
      local p = f()
      assert.is_nil(outside.status, outside.err)
      outside:kill("sigkill")
      outside:wait()
      os.remove(path)
      return p, outside.out
    end

    for name, what in pairs({
      loopback = "a service of the host is reached by none of its addresses",
      ["unix-lengths"] = "no unix socket of the host is reached, however long its name",
    }) do
      it(what, function()
        local program = { World.helpers .. "local", name }
        local control = listening(function() return world:run("host", program, { user = "65534", env = env }) end)
        assert.matches("reached [1-9]", control.out .. control.err)
        local p, saw = listening(function()
          return world:under(rules, program, { mode = mode, options = { "-q" }, env = env })
        end)
        assert.equal("reached 0\n", p.out, p.err)
        assert.equal("listening\n", saw)
        if mode == "kernel" then
          assert.is_true(#World.find(p.audit, { action = "deny" }) > 0, "no audit line of the denial")
        end
      end)
    end

    -- All but those whose address is as long as IP's: there it depends on the kernel (docs/modes.md).
    it("positive: the command's own unix sockets are reached, by paths and by abstract names", function()
      local p = world:under(rules, { "python3", "-c", [[
import socket, sys
bad = []
for n in range(6, 41):
    for name in (b"./" + b"n" * (n - 2), b"\0" + b"n" * (n - 1)):
        for kind in socket.SOCK_STREAM, socket.SOCK_SEQPACKET:
            l = socket.socket(socket.AF_UNIX, kind)
            try: l.bind(name + (b"k" if kind == socket.SOCK_SEQPACKET else b"")); l.listen(4)
            except OSError as e: print("bind", n, e)
            s = socket.socket(socket.AF_UNIX, kind)
            try: s.connect(l.getsockname())
            except OSError as e: bad.append((n, e.errno))
            s.close(); l.close()
print(sorted(set(n for n, _ in bad if n not in (12, 13, 14, 24, 25, 26))))
]] }, { mode = mode, cwd = world.home })
      assert.equal("[]\n", p.out, p.err)
    end)

    it("nobody comes in to what the command opens, bound or not", function()
      local program = { World.helpers .. "local", "listening" }
      local function visit(p)
        local a, b, c = p:expect("ports (%d+) (%d+) (%d+)"), p.out:match("ports %d+ (%d+) (%d+)")
        local v = world:run("server", { "python3", "-c", visitor, a, b, c })
        assert.equal("", v.err)
        p:write("go\n")
        return p:wait().out
      end
      assert.matches("reached 3", visit(world:start("host", program, { user = "65534", stdin = "open" })))
      local p = world:under(rules, program, { mode = mode, stdin = "open", background = true, options = { "-q" } })
      assert.matches("reached 0", visit(p))
    end)

    it("a port that the command gave up and a process of the host took is not reached any more", function()
      local program = { "python3", "-c", handover }
      local function hand_over(p)
        local port = p:expect("port (%d+)")
        local host_process = world:start("host", { "python3", "-c", taker, port }, { user = "65534" })
        host_process:expect("bound")
        p:write("go\n")
        p:wait()
        return host_process:wait().out
      end
      assert.matches("got more", hand_over(world:start("host", program, { user = "65534", stdin = "open" })))
      local p = world:under(policy, program, { mode = mode, stdin = "open", background = true, options = { "-q" } })
      assert.matches("got nothing", hand_over(p))
    end)
  end)
end
