-- lattice run --learn: the policy that it writes lets the same program run again in full, and nothing that it did not see.
-- And what lattice log says about the records of real runs.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")

local zone = [[
api.example      A      203.0.113.9   60
api.example      AAAA   2001:db8::9   60
twin.example     A      203.0.113.9   60
two.example      A      203.0.113.10  60
only.example     A      203.0.113.11  60
db.example       A      10.9.8.7      60
]]

-- Every TCP connection to port 80 or 8080 is told "served"; UDP to port 7 is echoed.
local server = [[
local uv = require("luv")
uv.new_signal():start("sigpipe", function() end) -- a client that is killed must not end the server
local listeners = {}
for i, port in ipairs({ 80, 8080 }) do
  listeners[i] = uv.new_tcp()
  assert(listeners[i]:bind("::", port))
  listeners[i]:listen(128, function()
    local peer = uv.new_tcp()
    listeners[i]:accept(peer)
    peer:write("served\n", function() peer:close() end)
  end)
end
for _, ip in ipairs({ "203.0.113.10", "203.0.113.11" }) do -- each answers from the address that was asked
  local echo = uv.new_udp()
  assert(echo:bind(ip, 7))
  echo:recv_start(function(_, data, from) if data then echo:send(data, from.ip, from.port) end end)
end
uv.run()
]]

-- get HOST PORT, udp HOST, look NAME: one line each of what a program sees.
local tools = [[
import socket, sys
def get(host, port=80):
    try:
        with socket.create_connection((host, port), 10) as s:
            print("get", host, port, s.recv(64).decode().strip())
    except OSError as e:
        print("get", host, port, type(e).__name__)
def udp(host):
    try:
        info = socket.getaddrinfo(host, 7, type=socket.SOCK_DGRAM)[0]
        with socket.socket(info[0], socket.SOCK_DGRAM) as s:
            s.settimeout(10)
            s.connect(info[4])
            s.send(b"ping")
            print("udp", host, s.recv(64).decode())
    except OSError as e:
        print("udp", host, type(e).__name__)
def look(name):
    try:
        print("look", name, len(socket.getaddrinfo(name, 1)) > 0)
    except OSError as e:
        print("look", name, type(e).__name__)
]]

local program = tools .. [[
get("api.example"); get("api.example", 8080); get("two.example"); get("203.0.113.9"); get("2001:db8::9")
get("198.51.100.9"); get("db.example")
udp("two.example"); udp("203.0.113.11")
look("only.example"); look("missing.example")
]]

local expected = [[
get api.example 80 served
get api.example 8080 served
get two.example 80 served
get 203.0.113.9 80 served
get 2001:db8::9 80 served
get 198.51.100.9 80 served
get db.example 80 served
udp two.example ping
udp 203.0.113.11 ping
look only.example True
look missing.example gaierror
]]

local missing = World.missing()
if not missing and not World.has("python3") then missing = "python3 is not installed (apt-get install python3)" end

describe("a learned policy", function()
  if missing then
    pending("all of it", missing)
    return
  end
  local world

  setup(function()
    world = World.new()
    world:serve({ "lua5.4", "tests/support/dns_server.lua", "203.0.113.9", world:file("zone", zone),
      world.dir .. "/queries" }, { udp = 53 })
    world:serve({ "lua5.4", world:file("server.lua", server) }, { tcp = { 80, 8080 }, udp = 7 })
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

  local function learn(text)
    local path = world.home .. "/learned.lua"
    local script = world:file("program.py", text)
    local p = world:lattice({ "run", "--learn", path, "--", "python3", script })
    assert.equal(0, p.status, p.err)
    return path, p.out, script
  end

  local function again(path, script)
    local audit = world.home .. "/again.jsonl"
    os.remove(audit)
    local p = world:lattice({ "run", "--policy", path, "--audit", audit, "--", "python3", script })
    return p, audit
  end

  it("checks clean and lets the same run pass in full", function()
    local path, out, script = learn(program)
    assert.equal(expected, out)
    assert.equal(0, world:lattice({ "check", path }).status)
    local p, audit = again(path, script)
    assert.equal(out, p.out)
    assert.same({}, World.find(World.records(audit), { action = "deny", kind = "verdict" }))
    assert.same({}, World.find(World.records(audit), { action = "deny", kind = "dns" }))
  end)

  it("names what it saw: names, private ones marked, ports merged, addresses where no name was known", function()
    local path = learn(program)
    local text = World.read(path)
    for _, rule in ipairs({
      'allow "tcp to api.example port 80, 8080" --', 'allow "udp to two.example port 7" --',
      'allow("tcp to db.example port 80", { private = true })', 'allow "tcp to 198.51.100.9 port 80" --',
      'allow "udp to 203.0.113.11 port 7" --', '"icmp to only.example"', "python3", "Everything was let pass",
    }) do
      assert.truthy(text:find(rule, 1, true), rule .. " is missing in\n" .. text)
    end
  end)

  it("covers both of two names with one address, whichever is asked for first", function()
    local path = learn(tools .. 'look("twin.example"); get("api.example")\n')
    local other = world:file("twins.py", tools .. 'look("api.example"); get("twin.example")\n')
    assert.equal("look api.example True\nget twin.example 80 served\n", again(path, other).out)
  end)

  it("refuses what it did not see", function()
    local path = learn(tools .. 'get("api.example")\n')
    local other = world:file("other.py", tools .. [[
get("api.example", 8080); get("two.example"); get("203.0.113.10"); udp("203.0.113.9"); get("api.example")
]])
    local p = again(path, other)
    assert.equal("get api.example 8080 ConnectionRefusedError\nget two.example 80 gaierror\n"
      .. "get 203.0.113.10 80 ConnectionRefusedError\nudp 203.0.113.9 ConnectionRefusedError\n"
      .. "get api.example 80 served\n", p.out)
  end)

  it("lattice log shows its records, and says complete for a whole log", function()
    local path, _, script = learn(program)
    local _, audit = again(path, script)
    local p = world:lattice({ "log", "--check", audit })
    assert.equal(0, p.status, p.out .. p.err)
    assert.truthy(p.out:find("^complete: %d+ records, 1 run\n$"), p.out)
    p = world:lattice({ "log", "--host", "*.example", "--kind", "verdict", audit })
    assert.truthy(p.out:find("ALLOW python3[^\n]+ → api.example:8080 %(203.0.113.9%) tcp"), p.out)
    assert.equal(0, #world:lattice({ "log", "--denied", audit }).out)
  end)

  it("lattice log --check names the very record that was taken out, and a run without its end", function()
    local path, _, script = learn(program)
    local _, audit = again(path, script)
    local lines = {}
    for line in World.read(audit):gmatch("[^\n]+\n") do lines[#lines + 1] = line end
    local at = #lines // 2
    local number = World.records(audit)[at].unmapped.lattice.line
    local holed = world:file("holed.jsonl", table.concat(lines, "", 1, at - 1) .. table.concat(lines, "", at + 1))
    local p = world:lattice({ "log", "--check", holed })
    assert.equal(1, p.status)
    assert.truthy(p.out:find(("record %d is missing"):format(number), 1, true), p.out)
    local cut = world:file("cut.jsonl", table.concat(lines, "", 1, #lines - 1))
    p = world:lattice({ "log", "--check", cut })
    assert.equal(1, p.status)
    assert.truthy(p.out:find("no record of its end", 1, true), p.out)
  end)
end)
