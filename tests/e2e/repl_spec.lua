-- The REPL against a real agent, under both enforcers: what it says is what is enforced, what it changes ends by itself
-- and is in the audit, and nothing that is typed into it hurts the agent.
-- Takes long.
package.path = "tests/support/?.lua;" .. package.path
local Agents = require("agents")
local json = require("dkjson")
local uv = require("luv")

local missing = Agents.missing()

-- What must end by itself, and what is then said.
local hostile = {
  ["an endless loop"] = { "while true do end", "stopped" },
  ["an endless loop in a coroutine"] = { "coroutine = nil; while true do pcall(error) end", "stopped" },
  ["a string of two gigabytes"] = { 'string.rep("x", 1 << 31)', "too many" },
  ["a table without end"] = { 'local t = {} while true do t[#t + 1] = ("x"):rep(1000) end', "memory" },
  ["a pattern that never ends"] = {
    '("a"):rep(30):find(("a?"):rep(30) .. ("a"):rep(30) .. "b") while true do end', "stopped" },
  ["recursion without end"] = { "local function f() return 1 + f() end f()", "memory" },
  ["an error object that cannot be told"] = {
    'error(setmetatable({}, { __tostring = function() error("no") end }))', "error object" },
  ["a way to files and programs"] = { 'io.open("/etc/shadow")', "nil value" },
}

for enforcer, why in Agents.enforcers(missing) do
  describe("lattice repl with " .. enforcer, function()
    if why then return pending("all of it", why) end
    local nodes, agent, socket

    local function repl(code, ...)
      local p = nodes:lattice({ "--socket", socket, "repl", "--eval", code, ... })
      return p.out, p.status, p.err
    end

    local function reach(port)
      return nodes:try("node", "python3 -c 'import socket; socket.create_connection((\"203.0.113.2\", "
        .. port .. "), 2)'")
    end

    setup(function()
      nodes = Agents.bare()
      assert(uv.fs_chmod(nodes.dir, tonumber("755", 8)))
      socket = nodes.dir .. "/run/control.sock"
      nodes:configure({ policy = 'policy "node"\nallow "tcp to 203.0.113.2 port 80"\nallow "icmp to any"\n',
        enforcer = enforcer, socket = socket, extra = 'group "nogroup"' })
      nodes:start("peer", { "python3", "-u", "-m", "http.server", "80" }):expect("Serving")
      nodes:start("peer", { "python3", "-u", "-m", "http.server", "81" }):expect("Serving")
      agent = nodes:up()
    end)

    teardown(function()
      agent:kill("sigterm")
      Agents.await("the end of the agent", function() return agent.status end)
      nodes:close()
    end)

    it("shows the rules in force with their counters", function()
      assert.is_true(reach(80))
      local out, status = repl("rules()")
      assert.equal(0, status, out)
      local packets = out:match("allow \"tcp to 203%.0%.113%.2 port 80\"%s+%S+%s+(%d+)")
      assert.truthy(tonumber(packets) >= 1, out)
    end)

    it("explains by what is loaded", function()
      local out = json.decode((repl('explain "tcp to 203.0.113.2 port 80"', "--json")))
      assert.equal("allow", out.values[1].verdict)
      assert.equal(1, out.values[1].rule)
      out = json.decode((repl('explain "tcp to 203.0.113.2 port 81"', "--json")))
      assert.equal("deny", out.values[1].verdict)
    end)

    it("a session without --write changes nothing", function()
      local _, status, err = repl('allow("tcp to 203.0.113.2 port 81")')
      assert.equal(1, status)
      assert.truthy(err:find("--write", 1, true), err)
      assert.is_false(reach(81))
    end)

    it("a temporary rule opens its path, is shown, is in the audit, and ends", function()
      local ttl = 4 * (math.tointeger(tonumber(os.getenv("LATTICE_PATIENCE"))) or 1)
      local out, status = repl(('allow("tcp to 203.0.113.2 port 81", { ttl = %d, reason = "a test" })'):format(ttl),
        "--write")
      assert.equal(0, status)
      assert.equal("1", out:match("^%d+"))
      assert.is_true(reach(81))
      assert.truthy(repl("temporary()"):find("tcp to 203.0.113.2 port 81", 1, true))
      local verdict = json.decode((repl('explain "tcp to 203.0.113.2 port 81"', "--json"))).values[1]
      assert.equal("allow", verdict.verdict)
      assert.truthy(verdict.where:find("^temporary:1 %(uid 0%)"), verdict.where)
      local status_text = nodes:lattice({ "--socket", socket, "status" }).out
      assert.truthy(status_text:find("port 81", 1, true), status_text)
      Agents.await("the end of the rule", function() return not reach(81) end, 20000 + 1000 * ttl)
      local audit = assert(io.open(nodes.dir .. "/audit.jsonl")):read("a")
      assert.truthy(audit:find("repl: allow", 1, true), audit)
    end)

    for name, case in pairs(hostile) do
      it("the agent survives " .. name, function()
        local out, status, err = repl(case[1])
        assert.equal(1, status, out)
        assert.truthy(err:find(case[2], 1, true), err)
        assert.equal("2\n", (repl("1 + 1")))
        assert.is_nil(agent.status)
      end)
    end

    it("what is written without end is cut, and said to be", function()
      local out, status = repl('for _ = 1, 10000 do print(("x"):rep(100)) end')
      assert.equal(0, status)
      assert.truthy(#out < 200 << 10)
      assert.truthy(out:find("cut", 1, true))
    end)

    it("an evaluation at work does not delay others", function()
      local busy = nodes:start("node", { Agents.lattice_path, "--socket", socket, "repl", "--eval",
        'print("begun") watch { seconds = 30 }' })
      busy:expect("begun")
      assert.equal("2\n", (repl("1 + 1")))
      busy:kill("sigint")
      assert.truthy(Agents.await("its end", function() return busy.status end, 10000))
    end)

    it("lines of stdin are a script; a text that is not whole goes on", function()
      local p = nodes:sh("node", ("printf 'x = 20\\nfor i = 1, 2 do\\nx = x + 1\\nend\\nprint(x)\\n' | "
        .. "'%s' --socket '%s' repl"):format(Agents.lattice_path, socket))
      assert.equal("22\n", p)
    end)

    it("at a terminal: completion, a line given up, several lines, the end", function()
      local text = nodes:sh("node", ("HOME='%s' python3 tests/support/repl_terminal.py '%s' '%s'")
        :format(nodes.dir, Agents.lattice_path, socket))
      assert.truthy(text:find("generation = 1", 1, true) or text:find("number: 1", 1, true), text)
      assert.truthy(text:find("\n42\r", 1, true), text)
      assert.truthy(text:find("status 0", 1, true), text)
      local history = assert(uv.fs_stat(nodes.dir .. "/.local/state/lattice/history"))
      assert.equal(tonumber("600", 8), history.mode & tonumber("777", 8))
    end)

    it("without an agent it says so and ends with 4", function()
      local p = nodes:lattice({ "--socket", nodes.dir .. "/none.sock", "repl", "--eval", "1" })
      assert.equal(4, p.status)
    end)
  end)
end

if missing then pending(missing) end

describe("examples/repl-session", function()
  it("shows a session and leaves nothing behind", function()
    if missing then return pending(missing) end
    local function namespaces()
      local pipe = assert(io.popen("ip netns list | grep -c ^repl"))
      local count = pipe:read("a")
      pipe:close()
      return count
    end
    local before = namespaces()
    local pipe = assert(io.popen(("LATTICE='%s' examples/repl-session/run 2>&1"):format(Agents.lattice_path)))
    local text = pipe:read("a")
    assert.is_true(pipe:close(), text)
    assert.truthy(text:find('verdict: "allow"', 1, true), text)
    assert.truthy(text:find("remove(1): removed", 1, true), text)
    assert.equal(before, namespaces())
  end)
end)
