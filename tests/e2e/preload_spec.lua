-- lattice run --mode preload: what the library holds, with the policy's reason. What it
-- stands and what it does not hold: preload_limits_spec.lua.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")

local policy = [[
policy "hooked"
allow "tcp, udp to 203.0.113.9 port 80"
deny { proto = "any", to = "203.0.113.10", reason = "not this one" }
allow "tcp to plain.example port 80"
]]

local missing = World.missing() or World.no_mode("preload")

describe("lattice run --mode preload", function()
  if missing then
    pending("all of it", missing)
    return
  end
  local world
  local hooked = World.helpers .. "hooked"

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
    world:file("hello", "served\n")
    world:serve({ "lua5.4", "tests/support/file_server.lua", 80, world.dir }, { tcp = 80 })
    world:serve({ "lua5.4", "tests/support/dns_server.lua", "203.0.113.9",
      world:file("zone", "plain.example A 203.0.113.9 60\nother.example A 203.0.113.10 60\n"), world.dir .. "/queries" },
      { udp = 53 })
  end)

  teardown(function() world:close() end)

  it("says that it is advisory: on stderr, in the audit, in doctor and in the help", function()
    local p = under({ "true" })
    assert.equal(0, p.status)
    assert.matches("mode preload is advisory", p.err)
    assert.matches("preload mode is advisory", p.err) -- and at the end
    local start = World.find(p.audit, { kind = "start" })[1]
    assert.matches("mode preload %(advisory%)", require("dkjson").encode(start))
    assert.not_matches("advisory", under({ "true" }, { options = { "-q" } }).err:gsub("lattice: mode preload: [^\n]*", ""))
    assert.matches("advisory", require("dkjson").encode(World.find(p.audit, { kind = "exit" })[1]))
    assert.matches("mode preload +advisory", world:lattice({ "doctor" }).out)
    assert.matches("preload%s+is%s+advisory", world:lattice({ "run", "--help" }).out)
  end)

  it("is never chosen by itself where there are namespaces", function()
    local p = world:lattice({ "run", "-v", "--allow", "tcp to 203.0.113.9 port 80", "--", "true" })
    assert.not_matches("mode preload", p.err)
  end)

  it("holds every form of the calls, with the errno of user mode", function()
    local p = under({ hooked, "forms" })
    assert.equal(table.concat({ "connect ECONNREFUSED", "nonblocking ECONNREFUSED", "mapped ECONNREFUSED",
      "fastopen ECONNREFUSED", "fastopen-connect ECONNREFUSED", "udp-connect ECONNREFUSED", "sendto ECONNREFUSED",
      "sendto-unspec ECONNREFUSED", "sendmsg ECONNREFUSED", "sendmmsg 2", "allowed ok", "dissolve ok",
      "reconnect ECONNREFUSED", "short EINVAL", "long EINVAL", "pointer EFAULT", "no-socket ENOTSOCK", "bind EACCES",
      "listen ok", "bind-loopback ok", "raw EPERM", "errno-kept 77", "" }, "\n"), p.out)
    assert.is_true(#denied(p, { where = p.policy_path .. ":3" }) >= 10)
    assert.equal("not this one", denied(p, { where = p.policy_path .. ":3" })[1].unmapped.lattice.text)
  end)

  it("judges a port that is not the loopback's by the rules for who comes in", function()
    local p = under({ "python3", "-c", [[
import socket
for port in (8088, 8089):
    s = socket.socket()
    try: s.bind(("0.0.0.0", port)); s.listen(); print("bound")
    except OSError as e: print(e.strerror)]] }, { policy = 'policy "in" allow "in tcp from 203.0.113.0/24 port 8088"' })
    assert.equal("bound\nPermission denied\n", p.out)
    assert.equal(1, #denied(p, { direction = "in" }) + #denied(p))
  end)

  it("lets in who may come in, and nobody else", function()
    local serve = { "python3", "-u", "-c", [[
import socket
s = socket.create_server(("0.0.0.0", 8090)); print("ready")
c, who = s.accept(); print(who[0]); c.sendall(b"welcome")]] }
    local p = under(serve, { policy = 'policy "in" allow "in tcp from 203.0.113.9 port 8090"', background = true })
    p:expect("ready")
    local function come(from)
      return world:run("server", { "python3", "-c", [[
import socket, sys
try: print(socket.create_connection(("203.0.113.1", 8090), 5, (sys.argv[1], 0)).recv(9).decode())
except OSError as e: print(e.strerror)]], from }).out
    end
    assert.equal("Connection reset by peer\n", come("203.0.113.10"))
    assert.equal("welcome\n", come("203.0.113.9"))
    p:wait()
    p.audit = World.records(p.audit_path)
    assert.equal("ready\n203.0.113.9\n", p.out)
    assert.equal(1, #denied(p, { where = "default" }))
  end)

  it("lets a program reach what it has bound on loopback itself, and nothing else there", function()
    local other = world:start("host", { "python3", "-c", "import socket; s = socket.create_server(('127.0.0.1', 8077)); "
      .. "print('ready', flush=True); s.accept()" })
    other:expect("ready")
    local p = under({ "python3", "-c", [[
import socket
own = socket.socket(); own.bind(("127.0.0.1", 0)); own.listen()
for to in (own.getsockname(), ("127.0.0.1", 8077)):
    try: socket.create_connection(to, 5); print("reached")
    except OSError as e: print(e.strerror)]] })
    other:kill("sigkill")
    assert.equal("reached\nConnection refused\n", p.out)
  end)

  it("asks the supervisor for names, who answers and pins", function()
    local p = under({ "python3", "-c", [[
import socket
def say(f):
    try: print(f())
    except OSError as e: print(type(e).__name__)
say(lambda: [a[4][0] for a in socket.getaddrinfo("plain.example", 80, type=socket.SOCK_STREAM)])
say(lambda: socket.gethostbyname("plain.example"))
say(lambda: socket.gethostbyname_ex("plain.example")[2])
say(lambda: socket.getaddrinfo("other.example", 80))
say(lambda: socket.gethostbyaddr("203.0.113.9"))
say(lambda: socket.getnameinfo(("203.0.113.9", 80), 0)[0])
say(lambda: socket.create_connection(("plain.example", 80), 5).getpeername()[0])]] })
    assert.equal("['203.0.113.9']\n203.0.113.9\n['203.0.113.9']\ngaierror\nherror\n203.0.113.9\n203.0.113.9\n", p.out)
    assert.not_matches("other.example", World.read(world.dir .. "/queries") or "")
    local dns = World.find(p.audit, { kind = "dns", action = "deny" })
    assert.is_true(#dns >= 1)
  end)

  it("answers the resolver's older calls, too", function()
    local p = under({ hooked, "names" })
    assert.equal(table.concat({ "res_query 1", "res_search -1", "res_send 0", "getaddrinfo 0 plain.example 80 1",
      "service 1", "small 1 1", "gethostbyname2_r 0 203.0.113.9", "gethostbyname_r 1 1",
      "gethostbyname number", "" }, "\n"), p.out)
  end)

  it("opens an address for a name only once it was the answer", function()
    local text = 'policy "names" allow "tcp to plain.example port 80"'
    local p = under({ "python3", "-c", [[
import socket
def say(to):
    try: socket.create_connection(to, 5); print("reached")
    except OSError as e: print(e.strerror)
say(("203.0.113.9", 80)); say(("plain.example", 80)); say(("203.0.113.9", 80)); say(("203.0.113.9", 81))]] },
      { policy = text })
    assert.equal("Connection refused\nreached\nreached\nConnection refused\n", p.out)
  end)

  for _, case in ipairs({
    { "curl", { "curl", "-sS", "-m", "10", "http://HOST/hello" } },
    { "python3", { "python3", "-c", "import urllib.request; print(urllib.request.urlopen('http://HOST/hello').read())" } },
    { "node", { "node", "-e", "require('http').get('http://HOST/hello', r => r.pipe(process.stdout))"
      .. ".on('error', e => { console.error(e.code); process.exit(1) })" } },
    { "git", { "git", "-c", "http.lowSpeedTime=5", "ls-remote", "http://HOST/hello" }, fails = true },
    { "ssh", { "ssh", "-p", "80", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "ConnectTimeout=5",
      "HOST" }, fails = true },
    { "java", { "java", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "JAVA", "http://HOST/hello" } },
  }) do
    it("holds " .. case[1], function()
      if not World.has(case[1]) then return pending(case[1] .. " is not installed") end
      local java = world:file("Fetch.java", [[
public class Fetch { public static void main(String[] a) throws Exception {
  System.out.print(new String(new java.net.URL(a[0]).openStream().readAllBytes())); } }]])
      local function words(host)
        local list = {}
        for i, word in ipairs(case[2]) do list[i] = word:gsub("HOST", host):gsub("^JAVA$", java) end
        return list
      end
      for host, allowed in pairs({ ["203.0.113.9"] = true, ["plain.example"] = true, ["203.0.113.10"] = false }) do
        local p = under(words(host), { timeout = 90000 })
        if allowed then
          if not case.fails then assert.matches("served", p.out, host .. p.err) end
          assert.is_true(#World.find(p.audit, { kind = "verdict", action = "allow" }) >= 1, p.err)
          assert.equal(0, #denied(p, { where = p.policy_path .. ":3" }))
        else
          assert.not_equal(0, p.status)
          assert.not_matches("served", p.out)
          assert.is_true(#denied(p, { where = p.policy_path .. ":3" }) >= 1, p.err)
          assert.matches("203%.0%.113%.10", p.err)
        end
      end
    end)
  end

  for _, what in ipairs({ "storm", "signals", "many" }) do
    it("decides right under " .. what, function()
      local p = under({ hooked, what }, { timeout = 120000, options = { "-q" } })
      assert.equal("wrong 0\n", p.out, p.err)
      assert.equal(0, p.status)
    end)
  end

  it("tells every decision: ten thousand calls, ten thousand records", function()
    local p = under({ hooked, "many" }, { timeout = 120000, options = { "-q" } })
    assert.equal(5000, #denied(p))
    assert.equal(5000, #World.find(p.audit, { kind = "verdict", action = "allow" }))
    assert.equal(0, #World.find(p.audit, { kind = "loss" }))
  end)

  it("works with every descriptor closed, in a child of vfork, and before constructors", function()
    assert.equal(0, under({ hooked, "closed" }).status)
    assert.equal("vfork 0\n", under({ hooked, "vfork" }).out)
    assert.equal("early ECONNREFUSED\n", under({ hooked, "early" }).out)
  end)

  it("stands in front of the user's own LD_PRELOAD and keeps it, and children inherit both", function()
    local p = under({ "sh", "-c", "sh -c 'echo $LD_PRELOAD'; exec " .. hooked .. " plain" },
      { env = { LD_PRELOAD = "libdl.so.2" } })
    if p.err:find("ASan", 1, true) then return pending("a sanitizer wants to be loaded first") end
    assert.matches("/liblattice_intercept%.so:libdl%.so%.2\n", p.out)
    assert.matches("connect ECONNREFUSED", p.out)
  end)

  it("passes on exit status, signals, stdin and the working folder", function()
    assert.equal(7, under({ "sh", "-c", "exit 7" }).status)
    assert.equal(128 + 15, under({ "sh", "-c", "kill -TERM $$" }).status)
    assert.equal(127, under({ "no-such-program" }).status)
    assert.equal("hello", under({ "cat" }, { stdin = "hello" }).out)
    assert.equal(world.home .. "\n", under({ "pwd" }).out)
    local p = under({ "sh", "-c", "sleep 60 & trap 'kill $!; exit 3' USR1; echo ready; wait" }, { background = true })
    p:expect("ready")
    p:kill("sigusr1")
    p:wait()
    assert.equal(3, p.status)
  end)

  it("leaves no folder behind", function()
    local function folders()
      return world:run("host", { "sh", "-c", "ls -d " .. world.home .. "/lattice-* 2>/dev/null | wc -l" }).out
    end
    under({ "true" }, { env = { TMPDIR = world.home, XDG_RUNTIME_DIR = false } })
    assert.equal("0\n", folders())
  end)

  it("meets a reloaded policy at the next call", function()
    local p = under({ hooked, "repeat" }, { background = true, stdin = "open" })
    p:expect("first ok")
    world:file(p.policy_path:match("[^/]+$"), 'policy "hooked" deny "any to 203.0.113.9"')
    p:kill("sighup")
    p:expect("generation 2: policy")
    p:write("again\n")
    p:expect("next ECONNREFUSED")
    world:file(p.policy_path:match("[^/]+$"), 'policy "hooked" this is no policy')
    p:kill("sighup")
    p:expect("reload refused")
    world:file(p.policy_path:match("[^/]+$"), policy)
    p:kill("sighup")
    p:expect("generation 3: policy")
    p:write("again\n")
    p:expect("next ok")
    p.stdin:close()
    p:wait()
    assert.equal(0, p.status)
  end)

  it("refuses everything once the supervisor is killed", function()
    local p = under({ hooked, "repeat" }, { background = true, stdin = "open",
      env = { TMPDIR = world.home, XDG_RUNTIME_DIR = false } })
    p:expect("first ok")
    p:kill("sigkill")
    p:expect(function() return p.status end)
    p:write("again\n")
    p.stdin:shutdown()
    p:wait() -- for the command, which has its stdout
    assert.equal("first ok\nnext ECONNREFUSED\n", p.out)
    local left = world:start("host", { "sh", "-c", 'while ls -d "$1"/lattice-* 2>/dev/null; do :; done; echo gone', "sh",
      world.home })
    left:expect("gone")
  end)

  it("holds the call while a handler is asked, and keeps its answer", function()
    local text = [[
policy "asks"
ask "tcp to 203.0.113.9 port 80"
ask "tcp to 203.0.113.10 port 80"
on("ask", function(flow) return flow.addr == "203.0.113.9" and "allow" or "deny", "the handler said so" end)
on("connect", function(flow) return flow.port == 81 and "deny" or "allow" end)
]]
    local p = under({ "python3", "-c", [[
import socket
for to in (("203.0.113.9", 80), ("203.0.113.10", 80), ("203.0.113.9", 81)):
    try: socket.create_connection(to, 5); print("reached")
    except OSError as e: print(e.strerror)]] }, { policy = text })
    assert.equal("reached\nConnection refused\nConnection refused\n", p.out, p.err)
    assert.is_true(#World.find(p.audit, { kind = "verdict", action = "deny", by_handler = true }) >= 1
      or p.err:find("the handler said so", 1, true) ~= nil)
  end)

  it("records what would have been denied with --audit-only, and lets it pass", function()
    local p = under({ hooked, "plain" }, { options = { "--audit-only" } })
    assert.equal("connect ok\n", p.out)
    assert.equal(1, #World.find(p.audit, { kind = "verdict", audit_only = true }))
  end)

  it("does not nest", function()
    local p = under({ World.lattice_path, "run", "--mode", "preload", "--", "true" })
    if p.err:find("ASan", 1, true) then return pending("a sanitizer wants to be loaded first") end
    assert.equal(125, p.status)
    assert.matches("does not nest", p.err)
  end)
end)
