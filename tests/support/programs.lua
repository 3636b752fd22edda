-- Programs that nobody here wrote, and what each does when it reaches a server: tests/e2e/programs_spec.lua runs them.
--
-- A case: { program, what it does, server (a name in M.servers), the policy's rules, shell text that reaches "$1" and
-- prints "served", needs = more programs, prepare = function(world), to = { allowed, refused... },
-- outside = a destination that works without Lattice, if the first refused one does not }. $WORLD is the world's folder.
local M = {}

M.zone = [[
plain.example A    203.0.113.9  60
plain.example AAAA 2001:db8::9  60
other.example A    203.0.113.10 60
]]

local function must(p)
  if p.status ~= 0 then error(p.out .. p.err, 2) end
  return p
end

-- A test CA and a certificate for every name and address of the world's server.
local function certificates(world)
  must(world:run("server", { "sh", "-ec", [[
    cd "$1"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=test CA" \
      -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.pem
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=plain.example" \
      -keyout tls.key -out tls.csr
    echo "subjectAltName=DNS:plain.example,DNS:other.example,IP:203.0.113.9,IP:203.0.113.10" > tls.ext
    openssl x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile tls.ext -out tls.pem
    chmod 644 ca.pem]], "sh", world.dir }))
end

M.files = {}

-- A server that speaks HTTP/1.1 and HTTP/2 over TLS.
M.files["tls.js"] = [[
const fs = require("fs"), dir = process.argv[2]
require("http2").createSecureServer({ key: fs.readFileSync(dir + "/tls.key"), cert: fs.readFileSync(dir + "/tls.pem"),
  allowHTTP1: true }, (req, res) => res.end(`served by HTTP/${req.httpVersion}\n`)).listen(443, "::")
]]

-- A repository for dumb HTTP and for ssh.
local function repository(world)
  must(world:run("server", { "sh", "-ec", [[
    cd "$1"; export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
    git init -q -b main work; cd work; echo served > hello; git add hello
    git -c user.name=t -c user.email=t@plain.example commit -q -m one
    git clone -q --bare . ../repo.git; git -C ../repo.git update-server-info; cd ..; rm -rf work]], "sh", world.dir }))
end

-- dropbear as the server, in a mount namespace (ip netns exec makes it) whose only account is "tester".
local function ssh_account(world)
  must(world:run("host", { "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", world.home .. "/key" },
    { user = world.caller }))
  must(world:run("server", { "sh", "-ec", [[
    cd "$1"; mkdir -p account/.ssh; chmod 755 account; chmod 700 account/.ssh
    cp home/key.pub account/.ssh/authorized_keys; chmod 600 account/.ssh/authorized_keys
    echo "tester:x:0:0::$1/account:/bin/sh" > passwd
    dropbearkey -t ed25519 -f host.key]], "sh", world.dir }))
end

local function postgres_cluster(world)
  must(world:run("server", { "sh", "-ec", [[
    "$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)/initdb" -D "$1/pg" -U tester -A trust --no-sync >/dev/null
    echo "host all all all trust" >> "$1/pg/pg_hba.conf"]], "sh", world.home }, { user = "65534", timeout = 60000 }))
end

local function java_classes(world)
  must(world:run("server", { "javac", "-d", world.dir, world.dir .. "/Fetch.java" }, { timeout = 60000 }))
end

local function go_program(world)
  must(world:run("server", { "env", "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOPROXY=off", "GOCACHE=" .. world.dir .. "/go",
    "go", "build", "-o", world.dir .. "/fetch-go", world.dir .. "/fetch.go" }, { timeout = 240000 }))
end

-- alone: why it cannot serve where there is no user but root (a normal user's test run).
M.servers = {
  http = { argv = function(w) return { "lua5.4", "tests/support/file_server.lua", 80, w.dir } end,
    ports = { tcp = 80 }, needs = {}, prepare = function(w) w:file("hello", "served\n") end },
  tls = { argv = function(w) return { "node", w.dir .. "/tls.js", w.dir } end, ports = { tcp = 443 },
    needs = { "node", "openssl" }, prepare = certificates },
  ssh = { argv = function(w) return { "sh", "-c", [[mount --bind "$1/passwd" /etc/passwd && exec dropbear -F -E \
    -r "$1/host.key" -p 22 -P "$1/dropbear.pid"]], "sh", w.dir } end, ports = { tcp = 22 },
    needs = { "dropbear", "ssh-keygen" }, prepare = ssh_account,
    alone = "dropbear changes its groups, which root of a user namespace of one user cannot" },
  redis = { argv = function(w) return { "bash", "-c",
    [[exec -a redis-server redis-check-rdb --port 6379 --save '' --protected-mode no --dir "$1"]], "bash", w.dir } end,
    ports = { tcp = 6379 }, needs = { "redis-check-rdb" } },
  postgres = { argv = function(w) return { "sh", "-c", [[exec "$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)/postgres" \
    -D "$1/pg" -c listen_addresses='*' -c unix_socket_directories='' -c fsync=off]], "sh", w.home } end,
    ports = { tcp = 5432 }, user = "65534", needs = { "/usr/lib/postgresql/*/bin/postgres" }, prepare = postgres_cluster,
    alone = "postgres does not start as root, and there is no other user here" },
  dns = { needs = {} },  -- the world's own name server
  iperf3 = { argv = function() return { "iperf3", "-s" } end, ports = { tcp = 5201 }, needs = { "iperf3" } },
}

M.files["client.py"] = [[
import http.client, sys
c = http.client.HTTPConnection(sys.argv[1], 80, timeout=10)
c.request("GET", "/hello")
print(c.getresponse().read().decode(), end="")
]]
M.files["aio.py"] = [[
import asyncio, sys
async def main():
    r, w = await asyncio.open_connection(sys.argv[1], 80)
    w.write(b"GET /hello HTTP/1.0\r\n\r\n")
    print((await r.read()).decode(), end="")
    w.close()
asyncio.run(main())
]]
M.files["pool.py"] = [[
import concurrent.futures, sys, urllib.request
def get(i):
    return urllib.request.urlopen("http://" + sys.argv[1] + "/hello", timeout=20).read() == b"served\n"
with concurrent.futures.ThreadPoolExecutor(50) as pool:
    count = sum(pool.map(get, range(200)))
print("served" if count == 200 else "lost", count)
]]
M.files["fetch.js"] = [[
fetch("http://" + process.argv[2] + "/hello").then(async (r) => console.log(await r.text()),
  (e) => { console.log(e.message, e.cause && e.cause.code); process.exit(1) })
]]
M.files["net.js"] = [[
const s = require("net").connect(80, process.argv[2], () => s.write("GET /hello HTTP/1.0\r\n\r\n"))
s.on("data", (d) => process.stdout.write(d))
s.on("error", (e) => { console.log(e.message); process.exit(1) })
]]
M.files["dns.js"] = [[
require("dns").promises.resolve4(process.argv[2]).then((a) => console.log("served", a),
  (e) => { console.log(e.message); process.exit(1) })
]]
M.files["Fetch.java"] = [[
import java.net.URI;
import java.net.http.*;
public class Fetch {
  public static void main(String[] a) throws Exception {
    var request = HttpRequest.newBuilder(URI.create("http://" + a[0] + "/hello")).build();
    try {
      System.out.print(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body());
    } catch (java.io.IOException e) { System.out.println(e); System.exit(1); }
  }
}
]]
M.files["fetch.go"] = [[
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	answer, err := http.Get("http://" + os.Args[1] + "/hello")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	io.Copy(os.Stdout, answer.Body)
}
]]

local function to(port) return ('allow "tcp to plain.example port %d"'):format(port) end

local curl = "curl -sS -m 10 "
local ssh = "ssh -F none -o BatchMode=yes -o ConnectTimeout=10 -o LogLevel=ERROR -o StrictHostKeyChecking=no "
  .. "-o UserKnownHostsFile=/dev/null -i $HOME/key"
local addresses = { "203.0.113.9", "203.0.113.10" }
local names = { "plain.example", "other.example" }

M.cases = {
  { "curl", "HTTP", "http", to(80), curl .. "http://$1/hello" },
  { "curl", "HTTP to an IPv6 address", "http", [[allow "tcp to 2001:db8::9 port 80"]], curl .. "http://$1/hello",
    to = { "[2001:db8::9]", "[2001:db8::a]" } },
  { "curl", "HTTPS, the certificate checked", "tls", to(443), curl .. "--http1.1 --cacert $WORLD/ca.pem https://$1/" },
  { "curl", "HTTP/2", "tls", to(443), curl .. "--http2 --cacert $WORLD/ca.pem https://$1/ | grep HTTP/2" },
  { "wget", "HTTP", "http", to(80), "wget -nv -T 10 -t 1 -O - http://$1/hello" },
  { "git", "clone over HTTP", "http", to(80), "rm -rf clone; git clone -q http://$1/repo.git clone && cat clone/hello",
    prepare = repository },
  { "git", "clone over ssh", "ssh", to(22), ("rm -rf clone; GIT_SSH_COMMAND=%q git clone -q "):format(ssh)
    .. "tester@$1:$WORLD/repo.git clone && cat clone/hello", needs = { "ssh" }, prepare = repository },
  { "ssh", "a command on the far side", "ssh", to(22), ssh .. " tester@$1 echo served" },
  { "python3", "http.client", "http", to(80), "python3 $WORLD/client.py $1 2>&1 | tail -n 1" },
  { "python3", "asyncio", "http", to(80), "python3 $WORLD/aio.py $1 2>&1 | tail -n 1" },
  { "python3", "200 requests by 50 threads", "http", to(80), "python3 $WORLD/pool.py $1 2>&1 | tail -n 1" },
  { "node", "fetch", "http", to(80), "node $WORLD/fetch.js $1" },
  { "node", "net", "http", to(80), "node $WORLD/net.js $1" },
  { "node", "dns.promises", "dns", to(80), "node $WORLD/dns.js $1", to = names },
  { "go", "net/http in a static program", "http", to(80), "$WORLD/fetch-go $1", prepare = go_program },
  { "java", "HttpClient", "http", to(80), "java -cp $WORLD Fetch $1", needs = { "javac" }, prepare = java_classes },
  { "redis-cli", "SET and GET", "redis", to(6379),
    "redis-cli -h $1 SET key served >/dev/null && redis-cli -h $1 GET key | grep served" },
  { "psql", "a query", "postgres", to(5432), [[psql -h $1 -U tester -d postgres -Atc "select 'served'"]] },
  { "iperf3", "TCP", "iperf3", [[allow "tcp to 203.0.113.9 port 5201"]],
    "iperf3 -c $1 -n 20M | sed -n 's/.*receiver/served/p'",
    to = addresses },
  { "iperf3", "TCP from the server (-R)", "iperf3", [[allow "tcp to 203.0.113.9 port 5201"]],
    "iperf3 -R -c $1 -n 20M | sed -n 's/.*receiver/served/p'", to = addresses },
  { "iperf3", "UDP", "iperf3", [[allow "tcp to 203.0.113.0/24 port 5201" allow "udp to 203.0.113.9 port 5201"]],
    "timeout 10 iperf3 -u -b 20M -c $1 -n 1M | sed -n 's/.* (0%).*receiver/served/p'",
    to = addresses, outside = addresses[1] },
  { "dig", "A record", "dns", to(80),
    "dig $1 A | sed -n 's/.*IN.A.203.0.113.*/served/p; s/.*\\(status: [A-Z]*\\).*/\\1/p'",
    to = names },
  { "ping", "IPv4", "dns", [[allow "icmp to plain.example"]],
    "ping -4 -c 2 -i 0.2 -w 5 $1 | sed '/^PING/d; s/, 0% packet loss/ served/'" },
  { "ping", "IPv6", "dns", [[allow "icmpv6 to 2001:db8::9"]],
    "ping -c 2 -i 0.2 -w 5 $1 | sed '/^PING/d; s/, 0% packet loss/ served/'",
    to = { "2001:db8::9", "2001:db8::a" } },
}

return M
