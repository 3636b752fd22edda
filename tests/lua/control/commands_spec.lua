-- The commands that talk to an agent, against one that is not there: what they print, and their exit status.
local uv = require("luv")
local lattice = os.getenv("LATTICE")

describe("the commands for an agent", function()
  if not lattice then
    pending("all of it", "LATTICE does not name the program")
    return
  end
  local dir, socket, agent

  local function until_(what)
    local timer, late = uv.new_timer(), false
    timer:start(10000, 0, function() late = true end)
    while not what() and not late do uv.run("once") end
    timer:close()
    return not late
  end

  local function spawn(...)
    local one = { out = "", err = "", stdin = uv.new_pipe(false) }
    local out, err, ends = uv.new_pipe(false), uv.new_pipe(false), 0
    local function ended() ends = ends + 1 end
    one.handle = assert(uv.spawn(lattice, { args = { ... }, stdio = { one.stdin, out, err } }, function(code, signal)
      one.code, one.signal = code, signal
      one.handle:close()
    end))
    for name, pipe in pairs({ out = out, err = err }) do
      pipe:read_start(function(_, bytes)
        if bytes then one[name] = one[name] .. bytes else pipe:close(ended) end
      end)
    end
    function one.wait()
      assert(until_(function() return one.code and ends == 2 end), one.out .. one.err)
      if not one.stdin:is_closing() then one.stdin:close() end
      uv.run("nowait")
      return one.code, one.out, one.err
    end
    return one
  end

  local function run(...) return spawn("--socket", socket, ...).wait() end

  setup(function()
    dir = assert(uv.fs_mkdtemp("/tmp/lattice-commands-XXXXXX"))
    socket = dir .. "/control.sock"
    agent = spawn("lua", "tests/support/fake_agentd.lua", socket, dir .. "/audit.jsonl")
    assert(until_(function() return agent.out ~= "" or agent.code end))
    assert(agent.out == "ready\n", agent.err)
  end)

  teardown(function()
    if not agent.stdin:is_closing() then agent.stdin:close() end
    agent.wait()
    os.execute("rm -rf '" .. dir .. "'")
  end)

  it("status shows one screen", function()
    local code, out, err = run("status")
    assert.equal(0, code, err)
    for _, want in ipairs({ "iptables: the strongest that this host can run", "passed over ebpf: load a program",
      "node, generation 4: 2 rules, default deny", "node.lua:7: unknown protocol 'tpc'",
      "wf0  wireguard  up  10.42.0.1/24  mtu 1420  port 51820", "10.42.0.2/32  handshake ",
      "10 allowed (8.79 KiB), 6 denied", "17 seen, 2 lost in the kernel" }) do
      assert.truthy(out:find(want, 1, true), want .. "\n" .. out)
    end
    for line in out:gmatch("[^\n]+") do assert.is_nil(line:find("[%c]")) end
    code, out = run("status", "--json")
    assert.equal(0, code)
    assert.truthy(out:find('"schema":"lattice/status/v1"', 1, true))
    assert.truthy(out:find('"passed_over":[{"name":"ebpf"', 1, true))
  end)

  it("take the socket before or after their name", function()
    assert.equal(0, (spawn("status", "--socket", socket).wait()))
    assert.equal(0, (spawn("--socket=" .. socket, "status").wait()))
    local code, _, err = spawn("--socket", socket, "check", "x.lua").wait()
    assert.equal(2, code)
    assert.matches("it takes no %-%-socket", (err:gsub("so ", "")))
    assert.equal(2, (spawn("--socket", socket).wait()))
    assert.equal(2, (spawn("--socket").wait()))
  end)

  it("say what to do where no agent is, with 4", function()
    for _, command in ipairs({ "status", "watch", "top", "reload", "metrics", "log", "version" }) do
      local code, out, err = spawn("--socket", dir .. "/none.sock", command).wait()
      assert.equal(4, code, command)
      assert.equal("", out)
      assert.truthy(err:find("no agent answers on " .. dir .. "/none.sock: start latticed", 1, true), err)
    end
    local code, out = spawn("--socket", dir .. "/none.sock", "status", "--json").wait()
    assert.equal(4, code)
    assert.truthy(out:find('"schema":"lattice/error/v1"', 1, true))
  end)

  it("reload says what changed; what is refused is 3 with file and line", function()
    local code, out = run("reload", "--preview")
    assert.equal(0, code)
    assert.equal("nothing was changed; a reload would be: 1 rule added, 2 removed, 3 open flows to cut\n"
      .. "  + node.lua:3 allow ...\n", out)
    code, out = run("reload")
    assert.equal(0, code)
    assert.matches("^generation 5 is in force: 1 rule added, 2 removed, 3 open flows cut %(12 ms%)", out)
    agent.stdin:write("refuse node.lua:7: unknown protocol 'tpc'\n")
    local err
    assert(until_(function()
      code, out, err = run("reload")
      return code ~= 0
    end))
    assert.equal(3, code)
    assert.equal("", out)
    assert.equal("node.lua:7: unknown protocol 'tpc'\n", err)
  end)

  it("watch follows, filters, and ends with its reader", function()
    agent.stdin:write("event 22 deny\nevent 443 allow\nevent 5432 deny\n")
    local code, out
    assert(until_(function()
      code, out = run("watch", "--stop", "--denied")
      return code ~= 0 or select(2, out:gsub("\n", "")) == 2
    end))
    assert.equal(0, code)
    assert.matches("^%d%d:%d%d:%d%d%.%d%d%d DENY  out tcp 10.42.0.1:40000 → 10.42.0.9:22  wf0  default\n", out)
    code, out = run("watch", "--stop", "--json", "--last", "1", "--to", "10.42.0.0/16", "--proto", "tcp")
    assert.equal(0, code)
    assert.matches('^{.*"port":5432.*"schema":"lattice/event/v1".*}\n$', out)
    assert.equal(2, (run("watch", "--proto", "tpc")))
    assert.equal(2, (run("watch", "--to", "10.42.0.0/33")))
    assert.equal(2, (run("watch", "--last", "0")))
    local pipe = io.popen(("'%s' --socket '%s' watch --last 1 | head -n 1"):format(lattice, socket))
    agent.stdin:write("event 80 deny\nevent 81 deny\nevent 82 deny\n")
    uv.run("nowait")
    assert.matches("DENY", pipe:read("a"))
    pipe:close()
    local live = spawn("--socket", socket, "watch", "--port", "8000-8999", "--json")
    assert(until_(function()
      agent.stdin:write("event 8080 allow\nevent 9090 allow\n")
      return live.out:find("\n") or live.code
    end))
    live.handle:kill("sigint")
    code, out = live.wait()
    assert.equal(0, code)
    assert.truthy(out:find('"port":8080', 1, true))
    assert.is_nil(out:find('"port":9090', 1, true))
  end)

  it("watch reads files of events, too", function()
    local file = assert(io.open(dir .. "/events", "w"))
    file:write('{"verdict":"deny","action":"deny","dir":"out","proto":6,"addr":"10.0.0.1","port":22,"rule":0,"time_ms":1}\n',
      "no json\n", '{"verdict":"allow","action":"allow","dir":"out","proto":17,"addr":"10.0.0.2","port":53,"rule":3}\n')
    file:close()
    local code, out = spawn("watch", "--from", dir .. "/events", "--rule", "3").wait()
    assert.equal(0, code)
    assert.matches("ALLOW out udp %? → 10.0.0.2:53", out)
    assert.equal(1, (spawn("watch", "--from", dir .. "/none").wait()))
  end)

  it("top prints one table where there is no terminal", function()
    local code, out = run("top")
    assert.equal(0, code)
    assert.matches("packets/s%s+packets%s+bytes/s%s+bytes%s+action rule\n.*ALLOW%s+node.lua:3", out)
    code, out = run("top", "--by", "remote")
    assert.equal(0, code)
    assert.matches("10.42.0.2\n$", out)
    code, out = run("top", "--by", "port", "--json")
    assert.equal(0, code)
    assert.truthy(out:find('"label":"out tcp 80"', 1, true))
    assert.equal(2, (run("top", "--interval", "0")))
    assert.equal(2, (run("top", "--by", "nonsense")))
  end)

  it("explain asks the enforcer", function()
    local code, out = run("explain", "tcp to 10.42.0.2 port 80")
    assert.equal(0, code)
    assert.equal("ALLOW  tcp to 10.42.0.2 port 80\n"
      .. '  by    node.lua:3  allow "tcp to 10.42.0.2 port 80"  (rule 1, generation 4)\n'
      .. "  as    iptables has it loaded\n", out)
    assert.equal(0, (spawn("explain", "--live", "--socket", socket, "tcp", "to", "10.42.0.2", "port", "80").wait()))
    assert.equal(2, (run("explain", "tcp to 10.42.0.2")))
    assert.equal(2, (spawn("explain", "some-file.lua").wait()))
  end)

  it("metrics, version and log give what the agent has", function()
    local code, out = run("metrics")
    assert.equal(0, code)
    assert.matches("\nlattice_policy_rules 2\n", out)
    code, out = run("version")
    assert.equal(0, code)
    assert.matches("^latticed %d", out)
    local err
    code, out, err = run("log")
    assert.equal(1, code)
    assert.matches("ENOENT", err .. out)
    local line = '{"metadata":{"sequence":%d},"time":1700000000000,"unmapped":{"lattice":{"kind":"verdict","action":"deny",'
      .. '"rule":0,"where":"default"}},"connection_info":{"direction_id":2,"protocol_num":6},'
      .. '"dst_endpoint":{"ip":"10.0.0.%d","port":22}}\n'
    local file = assert(io.open(dir .. "/audit.jsonl", "w"))
    for i = 1, 9000 do file:write(line:format(i, i % 250)) end -- several pieces
    file:close()
    code, out, err = run("log", "--denied", "--host", "10.0.0.7")
    assert.equal(0, code, err)
    assert.equal(36, select(2, out:gsub("DENY", "")))
    assert.equal(2, (run("log", dir .. "/audit.jsonl")))
  end)

  it("and all others have a manual page that roff takes", function()
    local _, list = spawn("help", "--json").wait()
    local roff = os.execute("command -v nroff >/dev/null 2>&1")
    for name in list:gmatch('"name":"([%w-]+)"') do
      local code, page = spawn("help", "--man", name).wait()
      assert.equal(0, code)
      assert.matches("^%.TH LATTICE", page)
      assert.truthy(page:find("\n.SH EXAMPLES\n", 1, true), name)
      for line in page:gmatch("[^\n]+") do
        local request = line:find("^[.']")
        assert.truthy(not request or line:find("^%.[TS]H ") or line:find("^%.[nf][fi]$"), line)
      end
      if roff then
        local file = assert(io.open(dir .. "/page", "w"))
        file:write(page)
        file:close()
        local pipe = io.popen(("nroff -man -ww '%s/page' 2>&1 >/dev/null"):format(dir))
        assert.equal("", pipe:read("a"), name)
        pipe:close()
      end
    end
    assert.equal(2, (spawn("help", "--man").wait()))
  end)

  it("down removes the agent", function()
    local code, out, err = run("down")
    assert.equal(0, code, err)
    assert.matches("^the agent has removed everything and stopped", out)
    assert.equal(0, (agent.wait()))
    assert.equal(4, (run("status")))
    assert.is_nil(uv.fs_stat(socket))
  end)
end)
