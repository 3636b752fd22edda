-- Running processes on a device: sandbox.attach_pid, detach_pid, list_bindings from scripts and by the agent. What they send
-- leaves by that device or not at all, whatever becomes of the device, the script and the agent.
package.path = "tests/support/?.lua;" .. package.path
local Agents = require("agents")
local json, uv = Agents.json, Agents.uv

local missing = Agents.missing() or not Agents.has("python3") and "python3 is not installed" or nil
if not missing and Agents.in_userns then missing = "cgroups are for the host's root" end
local able, why = Agents.able("ebpf")
if not missing and not able then missing = why end

-- A second way to the peer.
local wf0 = [[
  ip link add wf0 type veth peer name wf0 netns PEER
  ip addr add 10.42.0.1/24 dev wf0; ip addr add fd42::1/64 dev wf0 nodad; ip link set wf0 up
  ip netns exec PEER sysctl -qw net.ipv4.conf.all.arp_ignore=1 # what is not of wf0 does not answer there
  ip -n PEER addr add 10.42.0.2/24 dev wf0; ip -n PEER addr add fd42::2/64 dev wf0 nodad; ip -n PEER link set wf0 up]]

describe("a running process that is bound to a device", function()
  if missing then return pending("all of it", missing) end
  local nodes, made

  local function up() nodes:sh("node", (wf0:gsub("PEER", nodes.peer))) end

  local function program()
    local p = nodes:start("node", { "python3", "-u", Agents.root .. "/tests/support/run_client.py", "-" },
      { stdin = "open", mode = "kernel" })
    p.number = math.tointeger(tonumber(p:expect("init (%d+)")))
    made[#made + 1] = p
    return p
  end

  local function say(p, line, want)
    local from = #p.out
    p:write(line .. "\n")
    return p:expect(function() return p.out:match(want, from + 1) end)
  end

  local function try(p, ...) return say(p, "try " .. table.concat({ ... }, " "), "try ([^\n]+)\n") end

  -- A script of `lattice lua` as root in the node; what it printed.
  local function script(text, ...)
    local p = nodes:run("node", { Agents.lattice_path, "lua", "-e", 'local sandbox = require("lattice.sandbox") '
      .. text:format(...) }, { mode = "kernel" })
    assert.equal(0, p.status, p.err)
    return p.out
  end

  local function attach(p, more)
    return script('print(sandbox.attach_pid(%d, "wf0"%s) and "bound" or select(2, sandbox.attach_pid(%d, "wf0")))', p.number,
      more and ", " .. more or "", p.number)
  end

  local function detach(p) return script("assert(sandbox.detach_pid(%d))", p.number) end

  local function groups()
    local p = io.popen("find /sys/fs/cgroup -type d -name 'lattice-bind-*' 2>/dev/null")
    local text = p:read("a")
    p:close()
    return text
  end

  setup(function()
    nodes = Agents.new()
  end)
  teardown(function() nodes:close() end)

  before_each(function()
    made = {}
    up()
  end)

  after_each(function()
    for _, p in ipairs(made) do
      p:kill("sigkill")
      p:wait()
    end
    pcall(nodes.sh, nodes, "node", "ip link del wf0")
    script("sandbox.list_bindings()") -- removes the empty ones
    assert.equal("", groups())
  end)

  it("reaches others by that device alone, in both families, and others are not touched", function()
    local p, other = program(), program()
    assert.equal("open", try(p, "tcp", "203.0.113.2", 80))
    assert.equal("bound\n", attach(p))
    assert.equal("open", try(p, "tcp", "10.42.0.2", 80))
    assert.equal("open", try(p, "tcp", "fd42::2", 80))
    assert.equal("open", try(p, "udp", "10.42.0.2", 53))
    assert.is_not.equal("open", try(p, "tcp", "203.0.113.2", 80))
    assert.is_not.equal("open", try(p, "tcp", "2001:db8::2", 80))
    assert.is_not.equal("open", try(p, "udp", "203.0.113.2", 53))
    assert.equal("open", try(other, "tcp", "203.0.113.2", 80))
    assert.equal("listen ok", "listen " .. say(p, "listen 4999", "listen (ok)"))
    assert.equal("open", try(p, "tcp", "127.0.0.1", 4999)) -- loopback is not bound
    detach(p)
    assert.equal("open", try(p, "tcp", "203.0.113.2", 80))
  end)

  it("is judged by a policy, if one is given", function()
    local p = program()
    local file = nodes:file("bound.lua", 'allow "tcp to 10.42.0.2 port 80"\n')
    assert.equal("bound\n", attach(p, ("{ policy = %q }"):format(file)))
    assert.equal("open", try(p, "tcp", "10.42.0.2", 80))
    assert.equal("refused", try(p, "tcp", "10.42.0.2", 81))
    assert.is_not.equal("open", try(p, "udp", "10.42.0.2", 53))
    assert.is_not.equal("open", try(p, "tcp", "203.0.113.2", 80))
  end)

  it("is bound with its children, those that it has and those that it makes", function()
    local p = program()
    local before = math.tointeger(tonumber(say(p, "spawn", "spawn (%d+)\n")))
    attach(p)
    local after = math.tointeger(tonumber(say(p, "spawn", "spawn (%d+)\n")))
    local list = script('print(require("lattice.json").encode(sandbox.list_bindings()))')
    local one = json.decode(list)[1]
    assert.same({ p.number, "wf0", 3, false }, { one.pid, one.device, one.processes, one.mine })
    for _, pid in ipairs({ before, after }) do
      local file = io.open(("/proc/%d/cgroup"):format(pid))
      assert.truthy(file:read("a"):find("lattice-bind-" .. p.number, 1, true))
      file:close()
    end
    uv.kill(before, "sigkill")
    uv.kill(after, "sigkill")
  end)

  it("sends nothing when the device is gone, also when another of that name comes", function()
    local p = program()
    attach(p)
    assert.equal("open", try(p, "tcp", "10.42.0.2", 80))
    nodes:sh("node", "ip link del wf0; ip route add 10.42.0.0/24 via 203.0.113.2")
    nodes:sh("peer", "ip addr add 10.42.0.2/32 dev lo") -- now there is another way to it
    local other = program()
    assert.equal("open", try(other, "tcp", "10.42.0.2", 80))
    assert.is_not.equal("open", try(p, "tcp", "10.42.0.2", 80))
    assert.is_not.equal("open", try(p, "tcp", "203.0.113.2", 80))
    nodes:sh("node", "ip route del 10.42.0.0/24 via 203.0.113.2")
    nodes:sh("peer", "ip addr del 10.42.0.2/32 dev lo")
    up()
    assert.is_not.equal("open", try(p, "tcp", "203.0.113.2", 80))
    detach(p)
    attach(p)
    assert.equal("open", try(p, "tcp", "10.42.0.2", 80))
  end)

  it("keeps what was open before, and says how much that was", function()
    local p = program()
    assert.equal("open", say(p, "keep 203.0.113.2 80", "keep (%a+)\n"))
    local text = script('print(sandbox.attach_pid(%d, "wf0").open_before)', p.number)
    assert.is_true(math.tointeger(tonumber(text:match("%d+"))) >= 1, text)
    assert.equal("open", say(p, "use", "use (%a+)\n"))
  end)

  it("is refused twice, and for a device that is not there, which leaves nothing", function()
    local p = program()
    assert.matches("no device", script('print(select(2, sandbox.attach_pid(%d, "nodev0")))', p.number))
    assert.equal("", groups())
    attach(p)
    assert.matches("is bound to 'wf0' already", script('print(select(2, sandbox.attach_pid(%d, "wf0")))', p.number))
  end)

  it("outlives the agent that bound it, and the next one ends it", function()
    nodes:configure({ enforcer = "ebpf", policy = 'default "allow"', extra = "runs {}" })
    nodes:up({ mode = "kernel" })
    local function ask(verb, args)
      return script([[
        local c = assert(require("lattice.control.client").open(%q))
        local result, err = c:call(%q, %s)
        c:close()
        print(require("lattice.json").encode(result or err))]], nodes.socket, verb, args or "{}")
    end
    local p = program()
    local binding = json.decode(ask("attach", ('{ pid = %d, device = "wf0" }'):format(p.number)))
    assert.equal(p.number, binding.pid, json.encode(binding))
    assert.is_not.equal("open", try(p, "tcp", "203.0.113.2", 80))
    nodes.agent:kill("sigkill")
    nodes.agent:wait()
    assert.is_not.equal("open", try(p, "tcp", "203.0.113.2", 80))
    assert.equal("open", try(p, "tcp", "10.42.0.2", 80))
    nodes:up({ mode = "kernel" })
    local status = json.decode(nodes:run("node", { Agents.lattice_path, "--socket", nodes.socket, "status", "--json" },
      { mode = "kernel" }).out)
    assert.same({ p.number, false }, { status.bindings[1].pid, status.bindings[1].mine })
    assert.equal("EEXIST", json.decode(ask("attach", ('{ pid = %d, device = "wf0" }'):format(p.number))).code)
    assert.equal(p.number, json.decode(ask("detach", ("{ pid = %d }"):format(p.number))).pid)
    assert.equal("open", try(p, "tcp", "203.0.113.2", 80))
    assert.equal("EINVAL", json.decode(ask("attach", '{ pid = 0, device = "wf0" }')).code)
    assert.equal("EINVAL", json.decode(ask("attach", '{ pid = 1, device = "lo" }')).code)
    assert.equal("ENOENT", json.decode(ask("detach", "{ pid = 1 }")).code)
    local audit = Agents.read(nodes.dir .. "/audit.jsonl")
    assert.truthy(audit:find(("attach process %d to 'wf0': bound"):format(p.number), 1, true))
    nodes:down()
  end)
end)
