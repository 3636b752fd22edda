-- lattice run --mode kernel by an ordinary user: the agent walls it. The same verdicts, names, reloads and records as of any
-- run; and what a user cannot have by it.
package.path = "tests/support/?.lua;" .. package.path
local Agents = require("agents")
local json, uv = Agents.json, Agents.uv

local USER = "65534"

local missing = Agents.missing() or not Agents.has("python3") and "python3 is not installed"
  or not Agents.has("curl") and "curl is not installed" or nil
if not missing and Agents.in_userns then missing = "cgroups are for the host's root" end
local able, why = Agents.able("ebpf")
if not missing and not able then missing = why end

local policy = [[
policy "agent"
allow "tcp to 203.0.113.2 port 80"
allow "tcp to service.example port 81"
limits { pids = 50 }
]]

describe("lattice run --mode kernel of a user, walled by the agent", function()
  if missing then return pending("all of it", missing) end
  local nodes, socket, count = nil, nil, 0

  local function groups()
    local p = io.popen("ls -d /sys/fs/cgroup/*/lattice/run-* /sys/fs/cgroup/lattice/run-* 2>/dev/null")
    local text = p:read("a")
    p:close()
    return text
  end

  local function all_gone()
    Agents.await("the end of all runs", function() return groups() == "" end)
  end

  -- opts: user, options (of run), stdin, env
  local function start(command, opts)
    opts = opts or {}
    count = count + 1
    local audit = ("%s/home/audit%d.jsonl"):format(nodes.dir, count)
    local argv = { "setpriv", "--reuid", opts.user or USER, "--regid", opts.user or USER, "--clear-groups",
      Agents.lattice_path, "--socket", socket, "run", "--mode", opts.mode or "kernel", "-v", "--audit", audit }
    for _, word in ipairs(opts.options or { "--policy", nodes.dir .. "/agent.lua" }) do argv[#argv + 1] = word end
    argv[#argv + 1] = "--"
    for _, word in ipairs(command) do argv[#argv + 1] = word end
    local p = nodes:start("node", argv, { mode = "kernel", cwd = nodes.dir .. "/home", stdin = opts.stdin or "",
      env = { HOME = nodes.dir .. "/home" } })
    p.audit = audit
    return p
  end

  local function run(command, opts) return start(command, opts):wait(20000) end

  local function curl(...) return run({ "curl", "-sS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", ... }) end

  -- Records of one kind, decoded.
  local function records(path, kind)
    local list = {}
    for _, record in ipairs(Agents.records(path)) do
      if record.unmapped.lattice.kind == kind then list[#list + 1] = record end
    end
    return list
  end

  setup(function()
    nodes = Agents.bare()
    assert(uv.fs_chmod(nodes.dir, tonumber("755", 8)))
    for _, name in ipairs({ "run", "home" }) do assert(uv.fs_mkdir(nodes.dir .. "/" .. name, tonumber("755", 8))) end
    assert(uv.fs_chmod(nodes.dir .. "/home", tonumber("1777", 8)))
    socket = nodes.dir .. "/run/control.sock"
    nodes.sh_here(("mkdir -p /etc/netns/%s; echo nameserver 203.0.113.2 > /etc/netns/%s/resolv.conf")
      :format(nodes.node, nodes.node))
    for _, port in ipairs({ "80", "81" }) do
      nodes:start("peer", { "python3", "-u", "-m", "http.server", port }):expect("Serving")
    end
    nodes:serve({ "lua5.4", "tests/support/dns_server.lua", "203.0.113.2",
      nodes:file("zone", "service.example A 203.0.113.2 60\nother.example A 203.0.113.2 60\nhome.example A 10.0.0.7 60\n"),
      nodes.dir .. "/queries" }, { ns = "peer", udp = 53 })
    nodes:file("agent.lua", policy)
    nodes:configure({ enforcer = "ebpf", socket = socket, policy = 'default "allow"',
      extra = ('runs { { user = %s, policies = { "agent.lua" }, limits = { memory = "300M" } } }'):format(USER) })
    nodes:up({ mode = "kernel" })
  end)

  teardown(function()
    os.execute(("rm -rf /etc/netns/%s"):format(nodes.node))
    nodes:close()
    all_gone()
  end)

  after_each(all_gone)

  it("lets the command reach what the policy names, at native sockets", function()
    local p = curl("http://203.0.113.2/")
    assert.same({ 0, "200" }, { p.status, p.out })
    assert.matches("mode kernel: forced by %-%-mode; walled by the agent", p.err)
    assert.equal(65534, math.tointeger(tonumber(records(p.audit, "verdict")[1].actor.process.user.uid)))
    assert.matches("mode kernel", records(p.audit, "start")[1].unmapped.lattice.text)
    assert.equal("by the programs", records(p.audit, "selfcheck")[1].unmapped.lattice.text:match("by the programs"))
  end)

  it("refuses what it does not, and the record says by which rule", function()
    local p = curl("http://203.0.113.2:81/")
    assert.is_not.equal(0, p.status)
    local denied = records(p.audit, "verdict")[1]
    local lattice = denied.unmapped.lattice
    assert.same({ "deny", 0, 81 }, { lattice.action, lattice.rule, denied.dst_endpoint.port })
    assert.matches("denied", p.err)
  end)

  it("opens a name by its answer, which the agent pinned before it left", function()
    local p = curl("http://service.example:81/")
    assert.same({ 0, "200" }, { p.status, p.out }, p.err)
    assert.equal("service.example", records(p.audit, "verdict")[1].dst_endpoint.hostname)
    p = curl("http://other.example:81/")
    assert.is_not.equal(0, p.status)
  end)

  it("passes status, signals and stdin through", function()
    assert.equal(7, run({ "sh", "-c", "exit 7" }).status)
    assert.equal("hello\n", run({ "cat" }, { stdin = "hello\n" }).out)
    assert.equal(128 + 15, run({ "sh", "-c", "kill -TERM $$" }).status)
    assert.equal("0000000000000000\n", run({ "sh", "-c", "sed -n 's/^CapEff:\\t//p' /proc/self/status" }).out)
  end)

  it("holds the stricter of both limits", function()
    local p = start({ "sh", "-c", "echo up; sleep 1000" })
    p:expect("up")
    local status = json.decode(nodes:lattice({ "--socket", socket, "status", "--json" }).out)
    assert.same({ 50, 300 << 20 }, { status.runs[1].limits.pids, status.runs[1].limits.memory })
    p:kill("sigterm")
    assert.equal(128 + 15, p:wait().status)
  end)

  it("takes a new policy when the agent reloads, and when its own user says so", function()
    local p = start({ "sh", "-c", [[while read -r url; do curl -s -m 3 -o /dev/null -w '%{http_code}\n' "$url"; done]] },
      { stdin = "open" })
    local function get(want)
      local from = #p.out
      p:write("http://203.0.113.2:81/\n")
      assert.equal(want, p:expect(function() return p.out:match("(%d+)\n", from + 1) end))
    end
    get("000")
    nodes:file("agent.lua", policy .. 'allow "tcp to 203.0.113.2 port 81"\n')
    nodes:reload()
    p:expect("generation 2")
    get("200")
    nodes:file("agent.lua", policy)
    p:kill("sighup")
    p:expect("generation 3")
    get("000")
    p:kill("sigterm")
    p:wait()
    assert.equal(2, #records(p.audit, "reload"))
  end)

  it("asks its own supervisor where the policy says so, and no answer opens what a rule decides", function()
    nodes:file("agent.lua", [[
      deny "tcp to 203.0.113.2 port 82"
      ask "tcp to 203.0.113.2 port 80-81"
      on("ask", function(flow) return flow.port == 80 and "allow" or "deny", { scope = "run" } end)
    ]])
    local p = run({ "sh", "-c", "for port in 80 80 81; do curl -s -m 3 -o /dev/null -w '%{http_code}\\n' "
      .. "http://203.0.113.2:$port/; done" })
    assert.equal("200\n200\n000\n", p.out, p.err)
    nodes:file("agent.lua", policy)
  end)

  it("ends the command when the agent is killed, and says so", function()
    local p = start({ "sh", "-c", "echo up; sleep 1000" })
    p:expect("up")
    nodes.agent:kill("sigkill")
    nodes.agent:wait()
    assert.equal(125, p:wait().status)
    assert.matches("the agent ended the run: .*the command was killed", p.err)
    all_gone()
    nodes:up({ mode = "kernel" })
    assert.equal("200", curl("http://203.0.113.2/").out)
  end)

  it("leaves nothing when its supervisor is killed", function()
    local p = start({ "sh", "-c", "setsid sleep 4321 & echo up; wait" })
    p:expect("up")
    p:kill("sigkill")
    p:wait()
    all_gone()
    local left = io.popen("pgrep -f '^sleep 4321$'")
    assert.equal("", left:read("a"))
    left:close()
  end)

  local refused = {
    { "rules of its own", { "--allow", "tcp to any" }, "takes policies of its own" },
    { "another policy", { "--policy", "lab-open" }, "the agent lets you run by: " },
    { "learning", { "--policy", "AGENT", "--learn", "x.lua" }, "lets nothing pass that its policy denies" },
    { "another device", { "--policy", "AGENT", "--network", "eth0" }, "the agent binds your runs to no device" },
  }
  for _, case in ipairs(refused) do
    it("refuses " .. case[1], function()
      local options = {}
      for i, word in ipairs(case[2]) do options[i] = word:gsub("AGENT", nodes.dir .. "/agent.lua") end
      local p = run({ "true" }, { options = options })
      assert.equal(125, p.status)
      assert.truthy(p.err:find(case[3], 1, true), p.err)
    end)
  end

  it("is not for another user, who gets user mode by --mode auto", function()
    local p = run({ "true" }, { user = "65533" })
    assert.equal(125, p.status)
    assert.matches("not for you", p.err)
    p = run({ "true" }, { user = "65533", mode = "auto" })
    assert.equal(0, p.status, p.err)
    assert.matches("not kernel: CAP_BPF and CAP_NET_ADMIN missing", p.err)
    p = run({ "true" }, { mode = "auto" })
    assert.matches("mode kernel: .*walled by the agent", p.err)
  end)
end)
