-- The control socket against an agent that is not there: what is answered, who is refused, what is bounded.
package.path = "tests/support/?.lua;" .. package.path
local client = require("lattice.control.client")
local control_raw = require("control_raw")
local fake = require("fake_agent")
local frames = require("lattice.control.frames")
local server = require("lattice.control.server")
local sys = require("lattice.sys")
local uv = require("luv")

local send, until_ = control_raw.send, control_raw.until_

describe("the control socket", function()
  local dir, agent, control, open_clients

  local function open(options)
    options = options or {}
    options.path = options.path or dir .. "/control.sock"
    local result
    server.open(agent, options, function(...) result = table.pack(...) end)
    assert(until_(function() return result end))
    return table.unpack(result, 1, 3)
  end

  local function connect(path)
    local c, err = client.open(path or dir .. "/control.sock")
    if c then open_clients[#open_clients + 1] = c end
    return c, err
  end

  local function raw() return control_raw.connect(dir .. "/control.sock") end

  before_each(function()
    dir = assert(uv.fs_mkdtemp("/tmp/lattice-control-XXXXXX"))
    agent, open_clients = fake.new(), {}
    control = assert(open())
  end)

  after_each(function()
    for _, c in ipairs(open_clients) do c:close() end
    local closed
    control:close(function() closed = true end)
    assert(until_(function() return closed end))
    assert.is_nil(uv.fs_stat(dir .. "/control.sock"))
    assert(uv.fs_rmdir(dir))
  end)

  it("answers what the agent says", function()
    local c = assert(connect())
    local status = assert(c:call("status"))
    assert.equal("iptables", status.enforcer.name)
    assert.equal(sys.version().edition, status.edition)
    assert.equal(sys.pid(), status.pid)
    local counters = assert(c:call("counters")).counters
    assert.same({ 1, 2, 0 }, { counters[1].rule, counters[2].rule, counters[3].rule })
    assert.equal("node.lua:4", counters[2].where)
    assert.equal("deny", counters[3].action)
    assert.equal(1, #assert(c:call("flows", { limit = 5 })).flows)
    assert.same({ "flows", 5, n = 2 }, agent.calls[#agent.calls])
  end)

  it("explains by the agent, and refuses what is no flow", function()
    local c = assert(connect())
    local verdict = assert(c:call("explain", { flow = "tcp to 10.42.0.2 port 80" }))
    assert.equal("node.lua:3", verdict.where)
    assert.equal("tcp to 10.42.0.2 port 80", verdict.flow)
    local none, err = c:call("explain", { flow = "tpc to 10.42.0.2" })
    assert.is_nil(none)
    assert.equal(2, err.exit)
    assert.matches("flow:%d+.*unknown protocol 'tpc'", err.text)
    none, err = c:call("explain", { flow = "tcp to db.example port 1" })
    assert.is_nil(none)
    assert.matches("say which one the name stands for", err.text)
  end)

  it("reloads, with the operator in the audit; a refused reload is exit status 3", function()
    local c = assert(connect())
    local result = assert(c:call("reload", {}))
    assert.equal(5, result.generation)
    assert.same({ "note", sys.uid(), "reload", n = 3 }, agent.calls[1])
    assert.same({ preview = false, by = "uid " .. sys.uid() }, agent.calls[2][2])
    assert(c:call("reload", { preview = true }))
    assert.equal(3, #agent.calls)
    agent.refuse = "node.lua:7: unknown protocol 'tpc'"
    local none, err = c:call("reload", {})
    assert.is_nil(none)
    assert.same({ text = "node.lua:7: unknown protocol 'tpc'", code = "policy", exit = 3 }, err)
  end)

  it("takes temporary rules from those who may", function()
    local c = assert(connect())
    assert.equal(7, assert(c:call("temporary-add", { action = "allow", text = "tcp to 10.0.0.7 port 80", ttl = 60 })).id)
    assert.equal(60, agent.calls[1][4].ttl)
    assert.equal(sys.uid(), agent.calls[1][4].uid)
    assert.equal("note", agent.calls[2][1])
    for _, wrong in ipairs({ {}, { ttl = 0 }, { ttl = "60" }, { ttl = 60 }, { ttl = 60, action = "ask", text = "" } }) do
      assert.equal(2, select(2, c:call("temporary-add", wrong)).exit)
    end
    local _, err = c:call("temporary-add", { action = "deny", text = "nonsense", ttl = 5 })
    assert.equal(3, err.exit)
    assert(c:call("temporary-remove", { id = 7 }))
    assert.matches("no temporary rule 8", select(2, c:call("temporary-remove", { id = 8 })).text)
  end)

  it("streams events from the past and new ones, until it is cancelled", function()
    local c = assert(connect())
    for port = 1, 5 do agent:emit(fake.event({ port = port })) end
    agent:emit(fake.event({ verdict = "allow", action = "allow" }))
    local seen, result = {}, nil
    local id = c:request("watch", { denied = true, last = 2 }, {
      item = function(event) seen[#seen + 1] = event.port end, done = function(r) result = r end,
    })
    assert(until_(function() return #seen == 2 end))
    agent:emit(fake.event({ port = 6 }))
    agent:emit(fake.event({ port = 7, verdict = "allow" }))
    agent:emit(fake.event({ port = 8 }))
    assert(until_(function() return #seen == 4 end))
    assert.same({ 4, 5, 6, 8 }, seen)
    c:cancel(id)
    assert(until_(function() return result end))
    assert.is_nil(next(agent.watchers))
  end)

  it("ends the streams of one who goes away", function()
    local c = assert(connect())
    c:request("watch", {}, { done = function() end })
    assert(until_(function() return next(agent.watchers) end))
    c:close()
    assert(until_(function() return not next(agent.watchers) end))
  end)

  it("loses the events of one who does not read, counts them, and keeps no memory for them", function()
    local one = raw()
    one.pipe:read_stop()
    send(one, { v = 1, id = 1, verb = "watch" })
    assert(until_(function() return next(agent.watchers) end))
    local reason = ("x"):rep(1000)
    collectgarbage()
    local before = collectgarbage("count")
    for i = 1, 20000 do
      agent.past = {}
      agent:emit(fake.event({ port = i % 65536, reason = reason }))
      if i % 100 == 0 then uv.run("nowait") end
    end
    collectgarbage()
    assert.is_true(collectgarbage("count") - before < 4096)
    local lost, items, decoder = 0, 0, frames.decoder(frames.MAX_ANSWER)
    one.pipe:read_start(function(_, bytes)
      for _, frame in ipairs(bytes and assert(decoder:feed(bytes)) or {}) do
        items, lost = items + 1, lost + (frame.lost or 0)
      end
    end)
    assert(until_(function()
      agent:emit(fake.event({ port = 9 }))
      return lost > 0
    end))
    assert.is_true(items > 100, items)
    assert.is_true(lost > 10000, lost)
    one.pipe:close()
  end)

  it("refuses what is no request, with a reason, and goes on", function()
    local one = raw()
    local wrong = {
      { { id = 1, verb = "status" }, "speaks version 1 of the protocol, not nil" },
      { { v = 2, id = 1, verb = "status" }, "speaks version 1 of the protocol, not 2" },
      { { v = 1, verb = "status" }, "needs an integer id" },
      { { v = 1, id = "1", verb = "status" }, "needs an integer id" },
      { { v = 1, id = 1 }, "has a verb" }, { { v = 1, id = 1, verb = 1 }, "has a verb" },
      { { v = 1, id = 1, verb = "status", args = 5 }, "a table of arguments" },
      { { v = 1, id = 1, verb = "statis" }, "no verb 'statis'; there are: counters, down," },
    }
    for i, case in ipairs(wrong) do
      send(one, case[1])
      assert(until_(function() return #one.got == i end))
      assert.is_false(one.got[i].ok)
      assert.equal(2, one.got[i].error.exit)
      assert.truthy(one.got[i].error.text:find(case[2], 1, true), one.got[i].error.text)
    end
    send(one, { cancel = 99 })
    send(one, { v = 1, id = 5, verb = "version" })
    assert(until_(function() return #one.got == #wrong + 1 end))
    assert.is_true(one.got[#wrong + 1].ok)
    one.pipe:close()
  end)

  it("says what is wrong with a frame, and closes", function()
    local cases = {
      [string.pack(">I4", 1 << 30)] = "at most 1048576", [string.pack(">s4", "no json")] = "no JSON object",
    }
    for bytes, why in pairs(cases) do
      local one = raw()
      one.pipe:write(bytes)
      assert(until_(function() return one.ended end))
      assert.equal(1, #one.got)
      assert.truthy(one.got[1].error.text:find(why, 1, true))
    end
  end)

  it("answers an error of a verb, and lives", function()
    control:verb("broken", { run = function() error("here") end })
    control:verb("odd", { run = function(_, reply) reply({ text = "\xff", fn = "x" }) end })
    control:verb("worse", { run = function(_, reply) reply({ print }) end })
    control:verb("twice", { run = function(_, reply) reply({ n = 1 }) reply({ n = 2 }) reply.error("late") end })
    local c = assert(connect())
    local _, err = c:call("broken")
    assert.matches("internal error in broken: .*here", err.text)
    assert.equal("\\xff", assert(c:call("odd")).text)
    assert.matches("cannot encode", select(2, c:call("worse")).text)
    assert.equal(1, assert(c:call("twice")).n)
    assert(c:call("version"))
  end)

  it("has bounds for requests at once and for connections", function()
    control:verb("never", { run = function() end })
    local one = raw()
    for id = 1, 17 do send(one, { v = 1, id = id, verb = "never" }) end
    assert(until_(function() return #one.got == 1 end))
    assert.equal(17, one.got[1].id)
    assert.matches("more than 16 requests", one.got[1].error.text)
    one.pipe:close()
    control.limits.connections = 2
    assert(connect() and connect())
    local third = assert(connect())
    local _, err = third:call("version")
    assert.matches("too many connections", err.text)
    open_clients[1]:close()
    assert(until_(function() return control.counts.write == 1 end))
    assert(assert(connect()):call("version"))
  end)

  it("closes one who asks nothing, unless a verb says to keep it", function()
    control.limits.idle_ms = 50
    control:verb("keep", { run = function(request, reply)
      request.session.keep = true
      reply({})
    end })
    local idle, kept = raw(), raw()
    send(kept, { v = 1, id = 1, verb = "keep" })
    assert(until_(function() return idle.ended end))
    assert.is_false(kept.ended)
    kept.pipe:close()
  end)

  it("tells verbs when their connection ends", function()
    local told = {}
    control:verb("open", { run = function(request, reply)
      request.session.n = (request.session.n or 0) + 1
      reply.closed(function() told[#told + 1] = "closed" end)
      reply({ n = request.session.n })
    end })
    local c = assert(connect())
    assert.equal(1, assert(c:call("open")).n)
    assert.equal(2, assert(c:call("open")).n)
    c:close()
    assert(until_(function() return #told == 2 end))
  end)

  it("lets users who may run commands use the verbs of runs, and no others", function()
    control:verb("run-it", { runs = true, run = function(request, reply) reply({ uid = request.uid }) end })
    local c = assert(connect())
    assert.equal(sys.uid(), assert(c:call("run-it")).uid)
    for one in pairs(control.connections) do one.access = "run" end
    assert(c:call("run-it"))
    for _, verb in ipairs({ "status", "reload", "watch", "version", "down" }) do
      local _, err = c:call(verb)
      assert.same({ "EPERM", 5 }, { err.code, err.exit })
      assert.matches("may run commands here, and nothing else", err.text)
    end
    assert.equal(0, #agent.calls)
  end)

  it("is everybody's to connect to where there are such users, and is closed again when there are none", function()
    local path = dir .. "/control.sock"
    assert.equal(384, uv.fs_stat(path).mode & 511)
    control:everybody_may(true)
    assert.equal(438, uv.fs_stat(path).mode & 511) -- 0666
    assert.equal(489, uv.fs_stat(dir).mode & 511)  -- 0751: nobody lists it
    control:everybody_may(false)
    assert.equal(384, uv.fs_stat(path).mode & 511)
    assert.equal(488, uv.fs_stat(dir).mode & 511)
  end)

  it("is of the mode that lets the group in, and nobody else", function()
    local stat = uv.fs_stat(dir .. "/control.sock")
    assert.equal(384, stat.mode & 511) -- without a group: 0600
    agent = fake.new()
    local second = assert(open({ path = dir .. "/sub/x.sock", group = "root" }))
    assert.equal(432, uv.fs_stat(dir .. "/sub/x.sock").mode & 511)
    assert.equal(488, uv.fs_stat(dir .. "/sub").mode & 511)
    local closed
    second:close(function() closed = true end)
    assert(until_(function() return closed end))
    -- left by an agent that had no group: an empty directory of ours is put right, one with other things is left alone
    assert(uv.fs_chmod(dir .. "/sub", 448))
    second = assert(open({ path = dir .. "/sub/x.sock", group = "root" }))
    assert.equal(488, uv.fs_stat(dir .. "/sub").mode & 511)
    assert(uv.fs_mkdir(dir .. "/sub/more", 448))
    assert(uv.fs_chmod(dir .. "/sub", 448))
    local third = assert(open({ path = dir .. "/sub/y.sock", group = "root" }))
    assert.equal(448, uv.fs_stat(dir .. "/sub").mode & 511)
    for _, one in ipairs({ second, third }) do
      closed = nil
      one:close(function() closed = true end)
      assert(until_(function() return closed end))
    end
    assert(uv.fs_rmdir(dir .. "/sub/more"))
    assert(uv.fs_rmdir(dir .. "/sub"))
  end)

  it("is not taken from an agent that lives, and is from a dead one", function()
    local none, err, code = open()
    assert.is_nil(none)
    assert.equal("EADDRINUSE", code)
    assert.matches("another agent answers there; stop it %(lattice %-%-socket " .. dir:gsub("%p", "%%%0"), err)
    assert(assert(connect()):call("version"))
    -- a socket that nobody listens on: bound by a process that is gone
    local dead = uv.new_pipe(false)
    assert(dead:bind(dir .. "/dead.sock"))
    assert.equal("ECONNREFUSED", select(2, connect(dir .. "/dead.sock")).code)
    local second = assert(open({ path = dir .. "/dead.sock" }))
    assert(assert(connect(dir .. "/dead.sock")):call("version"))
    local closed
    second:close(function() closed = true end)
    assert(until_(function() return closed end))
    dead:close()
    uv.run("nowait")
  end)

  it("never replaces what is no socket, nor lies where everybody may write", function()
    local file = assert(io.open(dir .. "/file", "w"))
    file:close()
    local none, err = open({ path = dir .. "/file" })
    assert.is_nil(none)
    assert.matches("is no socket", err)
    assert(uv.fs_unlink(dir .. "/file"))
    assert(uv.fs_mkdir(dir .. "/open", 511))
    assert(uv.fs_chmod(dir .. "/open", 511))
    none, err = open({ path = dir .. "/open/x.sock" })
    assert.is_nil(none)
    assert.matches("chmod o%-w", err)
    assert(uv.fs_rmdir(dir .. "/open"))
    assert.is_nil((open({ path = "relative.sock" })))
    assert.is_nil((open({ path = "/" .. ("x"):rep(107) })))
    assert.matches("no user 'nobody%-here'", select(2, open({ path = dir .. "/y.sock", writers = { "nobody-here" } })))
  end)

  it("says how to reach an agent that is not there", function()
    local none, err = connect(dir .. "/none.sock")
    assert.is_nil(none)
    assert.equal(4, err.exit)
    assert.matches("no agent answers on .*/none.sock: start latticed", err.text)
  end)

  it("finishes what is under way when it closes", function()
    local later
    control:verb("slow", { run = function(_, reply) later = reply end })
    local c = assert(connect())
    local result, ended
    c:request("slow", {}, { done = function(r) result = r end })
    c:request("watch", {}, { done = function(_, e) ended = e or true end })
    assert(until_(function() return later and next(agent.watchers) end))
    local closed
    control:close(function() closed = true end)
    assert(until_(function() return ended end))
    later({ n = 1 })
    assert(until_(function() return closed end))
    assert.equal(1, result.n)
    assert.is_nil(next(agent.watchers))
  end)

  it("answers who asked for the end after its own end", function()
    local finish
    function agent:down(done) finish = done end
    local c = assert(connect())
    local result, closed
    c:request("down", {}, { done = function(r) result = r end })
    assert(until_(function() return finish end))
    control:close(function() closed = true end)
    assert.is_true(closed)
    assert.is_nil(uv.fs_stat(dir .. "/control.sock"))
    finish()
    assert(until_(function() return result end))
  end)

  it("gives the agent's audit file in pieces", function()
    local c = assert(connect())
    assert.matches("has no audit file", select(2, c:call("log")).text)
    agent.config.audit = { { sink = "syslog" }, { sink = "file", target = dir .. "/audit.jsonl" } }
    assert.matches("^ENOENT", select(2, c:call("log")).text)
    local file = assert(io.open(dir .. "/audit.jsonl", "w"))
    file:write("first\nzweite ä\n")
    file:close()
    assert.same({ path = dir .. "/audit.jsonl", size = 16, offset = 0, text = "first\nzweite ä\n" }, c:call("log"))
    assert.equal("zweite ", c:call("log", { offset = 6, bytes = 8 }).text)
    assert.equal("ä\n", c:call("log", { offset = -3 }).text)
    assert.equal("", c:call("log", { offset = 99 }).text)
    assert.equal(2, select(2, c:call("log", { offset = "1" })).exit)
    assert(uv.fs_unlink(dir .. "/audit.jsonl"))
  end)

  it("gives metrics that Prometheus reads", function()
    local text = assert(assert(connect()):call("metrics")).text
    for line in text:gmatch("[^\n]+") do
      assert.truthy(line:match("^# [HT][EY][LP][PE] lattice_[%w_]+ .") or line:match("^lattice_[%w_]+ %-?%d+$")
        or line:match('^lattice_[%w_]+{.+="[^"]*"} %-?%d+$'), line)
    end
    for _, want in ipairs({ "lattice_build_info{version=", 'lattice_policy_reloads_total{result="refused"} 1',
      'lattice_rule_packets_total{rule="0",action="deny",where="default"} 5',
      'lattice_events_lost_total{reason="kernel"} 2', 'lattice_device_up{device="wf0",kind="wireguard"} 1' }) do
      assert.truthy(text:find(want, 1, true), text)
    end
  end)
end)
