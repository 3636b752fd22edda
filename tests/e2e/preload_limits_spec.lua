-- lattice run --mode preload: the library among hostile sockets and memory, under another libc; and what it does not hold,
-- with the run's own word that it is advisory.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")

local policy = [[
policy "hooked"
allow "tcp, udp to 203.0.113.9 port 80"
deny { proto = "any", to = "203.0.113.10", reason = "not this one" }
]]

local missing = World.missing() or World.no_mode("preload")

describe("the limits of preload mode:", function()
  if missing then
    pending("all of it", missing)
    return
  end
  local world
  local hooked, static = World.helpers .. "hooked", World.helpers .. "hooked-static"

  local function under(command, opts)
    opts = opts or {}
    opts.mode = "preload"
    return world:under(opts.policy or policy, command, opts)
  end

  local function denied(p, fields)
    fields = fields or {}
    fields.kind, fields.action = "verdict", "deny"
    return World.find(p.audit, fields)
  end

  setup(function()
    world = World.new()
    world:serve({ "lua5.4", "tests/support/file_server.lua", 80, world.dir }, { tcp = 80 })
  end)

  teardown(function() world:close() end)

  it("stands what a program writes to its sockets and into the shared ring", function()
    local p = under({ "python3", "-c", [[
import array, mmap, os, random, socket, struct, subprocess, sys
random.seed(7)
at, noise = os.environ["LATTICE_INTERCEPT"], lambda n: bytes(random.randrange(256) for _ in range(n))
head = struct.pack("<QI", 0x74636570746e696c, 1)
def tell(data):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.sendto(data, at + "/tell")
def ask(data, fds=0):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(5); s.connect(at + "/ask"); s.send(data)
    try: return socket.recv_fds(s, 64, fds)[1]
    except OSError: return []
for i in range(300):
    tell(noise(random.randrange(80))); tell(head + noise(36)); tell(head + struct.pack("<I", 1) + noise(32))
    ask(noise(48)); ask(head + noise(36))
    s = socket.socket(socket.AF_UNIX); s.connect(at + "/dns"); s.send(noise(random.randrange(1, 90)))
ring = ask(head + struct.pack("<I", 3) + bytes(32), 3)[2]
m = mmap.mmap(ring, 0)
for i in range(200):
    where = random.randrange(len(m) - 64); m[where:where + 64] = noise(64)
m[0:24] = noise(24)
try: mmap.mmap(ask(head + struct.pack("<I", 3) + bytes(32), 3)[0], 0); print("the control page can be written")
except OSError: pass
print(subprocess.run([sys.argv[1], "many"], capture_output=True, text=True).stdout, end="")]], hooked },
      { timeout = 120000, options = { "-q" } })
    assert.equal("wrong 0\n", p.out, p.err)
    assert.equal(0, p.status)
    assert.equal(5000, #denied(p, { where = p.policy_path .. ":3" }))
  end)

  it("denies, and harms nobody, when what it is given is not what it should be", function()
    local p = world:run("host", { "python3", "-c", [[
import os, random, socket, struct, subprocess, sys, threading
random.seed(3)
head = struct.pack("<QI", 0x74636570746e696c, 1)
SEALS = 1 | 2 | 4 | 8
def memfd(data, seals=SEALS):
    import fcntl
    fd = os.memfd_create("x", os.MFD_ALLOW_SEALING); os.write(fd, data)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals); return fd
noise = lambda n: bytes(random.randrange(256) for _ in range(n))
alive = struct.pack("<I", os.getpid()) + bytes(60)
control = memfd(alive + head + struct.pack("<I", 1) + bytes(16384))
dead = memfd(struct.pack("<I", 0x40000001) + bytes(60) + head + struct.pack("<I", 1) + bytes(16384))
image = head + struct.pack("<II", 4096, 1) + noise(4096 - 20)
reply = lambda size: head + struct.pack("<IBBHI", 3, 1, 0, 0, size) + bytes(4)
r = len(reply(0))
cases = [(noise(r), []), (reply(4096), []), (reply(4096), [control, memfd(image), memfd(bytes(200000))]),
    (reply(1 << 30), [control, memfd(image), memfd(b"")]),
    (reply(4096), [memfd(b""), memfd(noise(4096)), memfd(noise(9))]),
    (reply(4096), [dead, memfd(image), memfd(bytes(200000))]), (reply(4096), [control, memfd(image, 0), control]), (b"", [])]
at = sys.argv[3]
for data, fds in cases:
    os.mkdir(at); s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.bind(at + "/ask"); s.listen(64)
    def serve():
        try:
            while True:
                c = s.accept()[0]; c.recv(64)
                if data: socket.send_fds(c, [data], fds)
                c.close()
        except OSError: pass
    threading.Thread(target=serve, daemon=True).start()
    env = dict(os.environ, LD_PRELOAD=sys.argv[1], LATTICE_INTERCEPT=at)
    for what in ("plain", "early", "closed"):
        done = subprocess.run([sys.argv[2], what], env=env, capture_output=True, text=True, timeout=20)
        print(done.stdout.strip() or ("closed", done.returncode))
    s.shutdown(socket.SHUT_RDWR); s.close(); os.unlink(at + "/ask"); os.rmdir(at)
for env in ({}, {"LATTICE_INTERCEPT": "/nowhere"}, {"LATTICE_INTERCEPT": "x" * 300}, {"LATTICE_INTERCEPT": ""}):
    print(subprocess.run([sys.argv[2], "plain"], env=dict(os.environ, LD_PRELOAD=sys.argv[1], **env), capture_output=True,
        text=True).stdout.strip())]], (World.lattice_path:gsub("[^/]*$", "liblattice_intercept.so")), hooked,
      world.home .. "/fake" }, { user = "65534", timeout = 60000 })
    assert.equal(0, p.status, p.err)
    -- what "closed" may reach is denied, too: 2
    assert.equal(("connect ECONNREFUSED\nearly ECONNREFUSED\n('closed', 2)\n"):rep(8)
      .. ("connect ECONNREFUSED\n"):rep(4), p.out)
  end)

  it("holds a set-user-ID program, which gains nothing", function()
    if World.in_userns then return pending("needs the host's root") end
    local copy = world.dir .. "/suid"
    World.sh(("cp %s %s; chown 0:0 %s; chmod 4755 %s"):format(hooked, copy, copy, copy))
    assert.equal("connect ECONNREFUSED\n", under({ copy, "plain" }).out)
  end)

  -- Facts, not wishes: each reaches the server that the policy denies, and the run had said what it is.
  local function not_held(p, pattern)
    assert.matches(pattern or " ok\n", p.out, p.err)
    assert.equal(0, #denied(p), "it was held after all: say so in docs/preload.md")
    assert.matches("mode preload is advisory", p.err)
    assert.matches("%(advisory%)", require("dkjson").encode(World.find(p.audit, { kind = "start" })[1]))
  end

  it("does not hold a static program", function() not_held(under({ static, "plain" })) end)
  it("does not hold a direct system call", function() not_held(under({ hooked, "direct" })) end)
  it("does not hold the 32-bit entry", function()
    local p = under({ hooked, "int80" })
    if p.status == 2 then return pending("not on this machine") end
    if p.out:find("ENOSYS") then return pending("this kernel has no 32-bit entry") end
    not_held(p)
  end)
  it("does not hold `env -u LD_PRELOAD`", function()
    not_held(under({ "env", "-u", "LD_PRELOAD", hooked, "plain" }))
  end)
  it("does not hold a program with file capabilities", function()
    if World.in_userns then return pending("needs the host's root") end
    local copy = world.dir .. "/capable"
    local set = world:run("host", { "sh", "-c", 'cp "$1" "$2" && setcap cap_net_bind_service+ep "$2"', "sh", hooked, copy })
    if set.status ~= 0 then return pending("no file capabilities here: " .. set.err) end
    not_held(under({ copy, "plain" }))
  end)
  it("does not hold a static Go program", function()
    if not World.has("go") then return pending("go is not installed") end
    world:file("dial.go", [[
package main
import ("fmt"; "net")
func main() {
	_, err := net.Dial("tcp", "203.0.113.10:80")
	if err == nil { fmt.Println("go ok") } else { fmt.Println(err) }
}
]])
    local built = world:run("server", { "env", "CGO_ENABLED=0", "GO111MODULE=off", "GOPROXY=off",
      "GOCACHE=" .. world.dir .. "/go", "go", "build", "-o", world.dir .. "/dial", world.dir .. "/dial.go" },
      { timeout = 240000 })
    assert.equal(0, built.status, built.err)
    not_held(under({ world.dir .. "/dial" }))
  end)
  it("harms no program of another libc", function()
    if not World.has("musl-gcc") then return pending("musl-gcc is not installed") end
    local source = world:file("m.c", [[
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
int main(void) { struct sockaddr_in to = { AF_INET, htons(80) }; inet_pton(AF_INET, "203.0.113.10", &to.sin_addr);
  int r = connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&to, sizeof(to)); puts(r ? strerror(errno) : "ok"); return 0; }
]])
    local built = world:run("server", { "musl-gcc", "-o", world.dir .. "/m", source })
    assert.equal(0, built.status, built.err)
    local p = under({ world.dir .. "/m" })
    assert.equal(0, p.status, p.err)
    assert.equal("Connection refused\n", p.out)
  end)
end)
