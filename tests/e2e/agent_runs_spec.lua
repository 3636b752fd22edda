-- Kernel-mode runs of ordinary users that the agent walls: who may, what is judged, and that nothing opens and nothing stays
-- when a connection, the caller or the agent ends.
package.path = "tests/support/?.lua;" .. package.path
local Agents = require("agents")
local json, uv = Agents.json, Agents.uv

local USER, OTHER = "65534", "65533"

local missing = Agents.missing() or not Agents.has("python3") and "python3 is not installed" or nil
if not missing and Agents.in_userns then missing = "cgroups are for the host's root" end
local able, why = Agents.able("ebpf")
if not missing and not able then missing = why end

local policy = [[
policy "agent"
allow "tcp to 203.0.113.2, 2001:db8::2 port 80"
allow "udp to 203.0.113.2 port 53"
allow "tcp to service.example port 81"
]]

describe("runs that the agent walls for users", function()
  if missing then return pending("all of it", missing) end
  local nodes, socket, made

  local function groups()
    local p = io.popen("ls -d /sys/fs/cgroup/*/lattice/run-* /sys/fs/cgroup/lattice/run-* 2>/dev/null")
    local text = p:read("a")
    p:close()
    return text
  end

  local function configure(runs)
    nodes:configure({ enforcer = "ebpf", socket = socket, extra = runs, policy = 'default "allow"' })
  end

  local function object(value) return json.encode(setmetatable(value or {}, { __jsontype = "object" })) end

  -- A caller of its own uid, in the node's network, with the host's cgroups in sight.
  local function caller(args, opts)
    opts = opts or {}
    local p = nodes:start("node", { "setpriv", "--reuid", opts.user or USER, "--regid", opts.user or USER, "--clear-groups",
      "python3", "-u", Agents.root .. "/tests/support/run_client.py", socket, object(args) },
      { stdin = "open", mode = "kernel" })
    p:expect("init %w+")
    return p
  end

  local function item(p, key)
    local text = p:expect(function() return p.out:match("item ([^\n]*" .. key .. "[^\n]*)") end)
    return assert(json.decode(text))[key]
  end

  local function started(p) return item(p, "started") end

  -- The last answer of the agent.
  local function answer(p)
    return assert(json.decode((p:expect("answer ([^\n]*)\n"))))
  end

  local function say(p, line, want)
    local from = #p.out
    p:write(line .. "\n")
    return p:expect(function() return p.out:match(want, from + 1) end)
  end

  local function try(p, ...) return say(p, "try " .. table.concat({ ... }, " "), "try ([^\n]+)\n") end

  local function ask(p, verb, args)
    return assert(json.decode(say(p, "ask " .. verb .. " " .. object(args), "answer ([^\n]*)\n")))
  end

  local function all_gone()
    Agents.await("the end of all runs", function() return groups() == "" end)
  end

  setup(function()
    nodes = Agents.new()
    assert(uv.fs_chmod(nodes.dir, tonumber("755", 8)))
    assert(uv.fs_mkdir(nodes.dir .. "/run", tonumber("755", 8)))
    socket = nodes.dir .. "/run/control.sock"
    nodes:file("agent.lua", policy)
    nodes:file("other.lua", "")
    made = ([[runs { { user = %s, policies = { "agent.lua" }, limits = { pids = 40, memory = "200M" }, most = 2 } }]])
      :format(USER)
    configure(made)
    nodes:up({ mode = "kernel" })
  end)

  teardown(function()
    nodes:close()
    all_gone()
  end)

  it("judges what the command does, and nobody else", function()
    local p = caller({ name = "curl" })
    local run = started(p)
    assert.same({ 1, 3 }, { run.generation, run.rules })
    assert.equal(40, run.limits.pids)
    assert.equal("open", try(p, "tcp", "203.0.113.2", 80))
    assert.equal("open", try(p, "tcp", "2001:db8::2", 80))
    assert.equal("open", try(p, "udp", "203.0.113.2", 53))
    assert.equal("refused", try(p, "tcp", "203.0.113.2", 81))
    assert.equal("refused", try(p, "tcp", "2001:db8::2", 81))
    assert.is_not.equal("open", try(p, "udp", "203.0.113.2", 54))
    assert.is_not.equal("open", try(p, "tcp", "127.0.0.1", 22))
    assert.equal("open", nodes:attempt("node", "tcp", "203.0.113.2", 81)) -- the node's policy lets everything
    p:write("end\n")
    p:wait()
    all_gone()
  end)

  it("tells its supervisor, and the agent's audit, with run, uid and pid", function()
    local p = caller({ name = "teller" })
    local run = started(p)
    try(p, "tcp", "203.0.113.2", 81)
    assert.matches("^%x+$", item(p, "events"))
    local status = json.decode(nodes:lattice({ "--socket", socket, "status", "--json" }).out)
    assert.same({ run.id, 65534, "teller" }, { status.runs[1].id, status.runs[1].uid, status.runs[1].name })
    local shown = nodes:lattice({ "--socket", socket, "watch", "--run", run.id, "--last", "5", "--stop", "--json" }).out
    assert.equal(81, json.decode(shown:match("[^\n]+")).port)
    assert.matches(run.id, nodes:lattice({ "--socket", socket, "status" }).out, 1, true)
    p:write("end\n")
    p:wait()
    all_gone()
    local denied
    for _, record in ipairs(Agents.records(nodes.dir .. "/audit.jsonl")) do
      local more = record.unmapped and record.unmapped.lattice or {}
      if more.run == run.id or (json.encode(record):find(run.id, 1, true)) then
        local port = record.dst_endpoint and record.dst_endpoint.port
        if port == 81 then denied = record end
      end
    end
    assert.truthy(denied)
    assert.truthy(json.encode(denied):find("65534", 1, true))
  end)

  it("tells the ends of flows, also of those that nobody closed", function()
    local p = caller({ name = "ends" })
    local run = started(p)
    assert.equal("open", try(p, "udp", "203.0.113.2", 53))
    assert.equal("open", say(p, "keep 203.0.113.2 80", "keep (%a+)\n"))
    p:write("end\n")
    p:wait()
    all_gone()
    local ends = {}
    for _, record in ipairs(Agents.records(nodes.dir .. "/audit.jsonl")) do
      if record.unmapped.lattice.kind == "close" and json.encode(record):find(run.id, 1, true) then
        ends[record.dst_endpoint.port] = (ends[record.dst_endpoint.port] or 0) + 1
      end
    end
    assert.same({ [53] = 1, [80] = 1 }, ends)
  end)

  it("opens what a name of the policy resolved to, and no other", function()
    local p = caller({})
    started(p)
    assert.equal("refused", try(p, "tcp", "203.0.113.2", 81))
    assert.is_true(ask(p, "run-pin", { pins = { { addr = "203.0.113.2", names = { "service.example" } } } }).ok)
    assert.equal("open", try(p, "tcp", "203.0.113.2", 81))
    local refused = ask(p, "run-pin", { pins = { { addr = "203.0.113.2", names = { "evil.example" } } } })
    assert.matches("no rule of the policy knows the name 'evil.example'", refused.error.text)
    refused = ask(p, "run-pin", { pins = { { addr = "127.0.0.1", names = { "service.example" } } } })
    assert.matches("private address 127.0.0.1", refused.error.text)
    assert.is_true(ask(p, "run-pin", { pins = setmetatable({}, { __jsontype = "array" }) }).ok)
    assert.equal("refused", try(p, "tcp", "203.0.113.2", 81))
    p:write("end\n")
    p:wait()
  end)

  it("takes answers, which open nothing that a rule decides", function()
    local p = caller({})
    started(p)
    local answer_ = { addr = "203.0.113.2", proto = 6, port = 81, pid = 0, allow = true, ms = 60000 }
    assert.is_true(ask(p, "run-answer", answer_).ok)
    assert.equal("refused", try(p, "tcp", "203.0.113.2", 81))
    p:write("end\n")
    p:wait()
  end)

  it("takes no nonsense, and goes on", function()
    local p = caller({})
    started(p)
    local odd = { "null", "1", '""', "[]", "{}", "-1", "1e300", '"\\u0000"', "[[]]", '[{"addr":1,"names":[]}]',
      '[{"addr":"203.0.113.2","names":[{}]}]', '[{"addr":"203.0.113.2","names":["a.example"],"x":[[[[[]]]]]}]' }
    for _, verb in ipairs({ "run-pin", "run-answer", "run-reload", "runs", "run", "attach", "detach", "nonsense" }) do
      for _, value in ipairs(odd) do
        for _, key in ipairs({ "pins", "addr", "pid", "policy" }) do
          local frame = json.decode(say(p, ('ask %s {"%s": %s}'):format(verb, key, value), "answer ([^\n]*)\n"))
          local fine = verb == "run-reload" or verb == "runs" or verb == "run-pin" and (value == "[]" or value == "{}")
          assert.is_true(fine or not frame.ok, verb .. " " .. value)
          if frame.error then assert.is_not.equal("EFAULT", frame.error.code, frame.error.text) end
        end
      end
    end
    assert.equal("open", try(p, "tcp", "203.0.113.2", 80))
    assert.equal("refused", try(p, "tcp", "203.0.113.2", 81))
    p:write("end\n")
    p:wait()
  end)

  it("takes a new policy at SIGHUP, and when the supervisor asks", function()
    local p = caller({})
    local run = started(p)
    nodes:file("agent.lua", policy .. 'allow "tcp to 203.0.113.2 port 81"\n')
    nodes:reload()
    local digest = p:expect(function() return p.out:match('"reload": 2') and p.out:match('"digest": "(%x+)"') end)
    assert.truthy(digest)
    assert.equal("open", try(p, "tcp", "203.0.113.2", 81))
    nodes:file("agent.lua", policy)
    local result = ask(p, "run-reload", {}).result
    assert.same({ 3, true, run.digest }, { result.generation, result.changed, result.digest })
    assert.equal("refused", try(p, "tcp", "203.0.113.2", 81))
    assert.is_false(ask(p, "run-reload", {}).result.changed)
    nodes:file("agent.lua", 'allow "tpc to any"')
    assert.matches("unknown protocol 'tpc'", ask(p, "run-reload", {}).error.text)
    nodes:file("agent.lua", policy)
    p:write("end\n")
    p:wait()
  end)

  it("ends a run that the config does not let be any more", function()
    local p = caller({})
    started(p)
    configure((made:gsub("agent.lua", "other.lua")))
    nodes:reload()
    p:expect("init ended")
    assert.matches("does not let it be", answer(p).result.ended)
    p:write("end\n")
    p:wait()
    all_gone()
    configure(made)
    nodes:reload()
  end)

  local refused = {
    { "another user", {}, { user = OTHER }, "uid 65533 is not in|only root may" },
    { "a policy that is not the user's", { policy = "/etc/passwd" }, {}, "the policy is none of this user's" },
    { "a process that is no child", { pid = "other" }, {}, "is no child of process" },
    { "a process of another user", { pid = 1 }, {}, "process 1 is not uid 65534's" },
    { "a process that is not there", { pid = 0x7ffffff0 }, {}, "process 2147483632" },
    { "a port that is not the user's", { dns_port = 1025 }, {}, "has no socket of uid 65534" },
    { "no number", { pid = "x" }, {}, "pid is the number" },
    { "a name with control characters", { name = "a\nb" }, {}, "name is a text" },
  }
  for _, case in ipairs(refused) do
    it("refuses " .. case[1], function()
      local p = caller(case[2], case[3])
      local text = answer(p).error.text
      local found = false
      for part in case[4]:gmatch("[^|]+") do found = found or text:find(part, 1, true) ~= nil end
      assert.is_true(found, text)
      p:write("end\n")
      p:wait()
      all_gone()
    end)
  end

  it("refuses a policy that includes a file of the user's own", function()
    nodes:file("theirs.lua", 'allow "tcp to any"\n')
    assert(uv.fs_chown(nodes.dir .. "/theirs.lua", math.tointeger(tonumber(USER)), 0))
    nodes:file("agent.lua", policy .. 'include "theirs.lua"\n')
    local p = caller({})
    assert.matches("theirs.lua belongs to uid 65534", answer(p).error.text)
    nodes:file("agent.lua", policy)
    p:write("end\n")
    p:wait()
    all_gone()
  end)

  it("has bounds: runs of a user, one on a connection", function()
    local a, b = caller({}), caller({})
    started(a)
    started(b)
    local c = caller({})
    assert.matches("uid 65534 has 2 runs already, and may have 2", answer(c).error.text)
    assert.matches("a run on this connection already", ask(a, "run", { pid = 1 }).error.text)
    for _, p in ipairs({ a, b, c }) do
      p:write("end\n")
      p:wait()
    end
    all_gone()
  end)

  it("leaves the other verbs to those who may", function()
    local p = caller({})
    started(p)
    for _, verb in ipairs({ "status", "reload", "down", "watch", "attach", "repl", "counters" }) do
      assert.equal("EPERM", ask(p, verb, {}).error.code, verb)
    end
    assert.same({ 65534 and 1 }, { ask(p, "runs", {}).result.running })
    p:write("end\n")
    p:wait()
  end)

  for _, how in ipairs({ "cut", "kill", "hang" }) do
    it("ends with all of its processes when its connection ends: " .. how, function()
      local p = caller({})
      started(p)
      local grandchild = math.tointeger(tonumber(say(p, "spawn", "spawn (%d+)\n")))
      if how == "kill" then p:kill("sigkill") elseif how == "cut" then say(p, "cut", "cut\n") end
      if how == "hang" then
        say(p, "hang", "") -- does not read: the run goes on
        assert.equal("open", try(p, "tcp", "203.0.113.2", 80))
        p:write("end\n")
      end
      all_gone()
      Agents.await("the end of the grandchild", function() return not uv.fs_stat("/proc/" .. grandchild) end)
      p:kill("sigkill")
      p:wait()
    end)
  end

  it("opens nothing and leaves nothing when the agent is killed; the next one starts clean", function()
    local p = caller({})
    started(p)
    assert.equal("refused", try(p, "tcp", "203.0.113.2", 81))
    local grandchild = math.tointeger(tonumber(say(p, "spawn", "spawn (%d+)\n")))
    nodes.agent:kill("sigkill")
    nodes.agent:wait()
    p:expect("closed")
    all_gone()
    Agents.await("the end of the grandchild", function() return not uv.fs_stat("/proc/" .. grandchild) end)
    p:expect("init ended")
    p:write("end\n")
    p:wait()
    nodes:up({ mode = "kernel" })
    local again = caller({})
    started(again)
    again:write("end\n")
    again:wait()
  end)

  it("ends runs when the agent stops", function()
    local p = caller({})
    started(p)
    assert.equal(0, nodes:down())
    p:expect("init ended")
    p:write("end\n")
    p:wait()
    all_gone()
    nodes:up({ mode = "kernel" })
  end)
end)
