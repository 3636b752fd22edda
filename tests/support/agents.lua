-- A node with `latticed` on it, for tests/e2e/agent_*_spec.lua: nodes.lua, a config for an existing device (eth0), traffic
-- by probe.py in both namespaces.
local Nodes = require("nodes")
local json = require("dkjson")
local uv = require("luv")

---@class Agents: Nodes
local Agents = setmetatable({}, { __index = Nodes })
Agents.__index = Agents

local PROBE = { "python3", "-u", Nodes.root .. "/tests/support/probe.py" }

-- TCP and UDP ports that both ends echo on.
Agents.tcp, Agents.udp = "80,81,22", "53,54,7"

--- Which enforcers can be tested here, and the reasons for those that cannot.
function Agents.enforcers()
  local list, reasons = {}, {}
  for _, name in ipairs({ "iptables", "ebpf" }) do
    local able, why = Agents.able(name)
    if able then list[#list + 1] = name else reasons[name] = why end
  end
  return list, reasons
end

function Agents.able(name)
  local p = io.popen(Nodes.latticed_path .. " --version 2>&1")
  local edition = p:read("a"):match("%((%a+)%)")
  p:close()
  if name == "ebpf" and edition ~= "pro" then return false, "the community edition has no eBPF" end
  return true
end

--- Makes the nodes and the servers on both ends.
function Agents.new(opts)
  local self = setmetatable(Nodes.new(opts), Agents)
  for _, where in ipairs({ "node", "peer" }) do
    for _, family in ipairs({ "4", "6" }) do
      local p = self:probe(where, "serve", family, Agents.tcp, Agents.udp)
      p:expect("ready")
      self[where .. family] = p
    end
  end
  return self
end

function Agents:probe(where, ...)
  local argv = table.move(PROBE, 1, #PROBE, 1, {})
  for _, word in ipairs({ ... }) do argv[#argv + 1] = tostring(word) end
  return self:start(where, argv)
end

--- "open", "refused" or "silent".
function Agents:attempt(where, proto, address, port, ms, source)
  local p = self:probe(where, "try", proto, address, port or 0, ms or 700, source):wait()
  return (p.out:gsub("%s+$", ""))
end

--- Many attempts, some at a time: each { where, proto, address, port, source = ... }; fn(attempt, result) for each.
function Agents:attempts(list, ms, fn)
  for from = 1, #list, 12 do
    local running = {}
    for i = from, math.min(from + 11, #list) do
      local a = list[i]
      local words = { a[2], a[3], a[4] or 0, ms or 700, a.source }
      running[#running + 1] = { a, self:probe(a[1], "try", table.unpack(words)) }
    end
    for _, pair in ipairs(running) do fn(pair[1], (pair[2]:wait().out:gsub("%s+$", ""))) end
  end
end

--- Whether it gets through.
function Agents:open(...) return self:attempt(...) == "open" end

--- Sends until stopped: result() ends it and gives { sent, echoed, missing }.
function Agents:sender(where, address, port, rate)
  local p = self:probe(where, "send", address, port, rate or 1000)
  p:expect("sending")
  function p.result()
    p:kill("sigterm")
    p:wait()
    return assert(json.decode(p.out:match("{.*}")))
  end
  return p
end

--- Puts another policy in place of p.lua, at once: a reload may read it at any time.
function Agents:policy(text)
  assert(uv.fs_rename(self:file("p.lua.new", text), self.dir .. "/p.lua"))
end

--- Writes lattice.lua and p.lua; what: { policy, enforcer, extra, device }.
function Agents:configure(what)
  self:policy(what.policy or "")
  local lines = {
    ("device %q { kind = \"existing\" }"):format(what.device or "eth0"), 'policy "p.lua"',
    ("enforcer %q"):format(what.enforcer or "auto"), ("control %q"):format(self.dir .. "/control.sock"),
    ("pins %q"):format(self.dir .. "/pins"), ("audit { to = file %q }"):format(self.dir .. "/audit.jsonl"),
    what.extra or "",
  }
  self.config = self:file(what.name or "lattice.lua", table.concat(lines, "\n") .. "\n")
  return self.config
end

--- Starts the agent and waits until it guards.
function Agents:up(opts)
  local p = self:latticed({ "--config", self.config, "-v" }, opts)
  self.agent = p
  p:expect(function() return p.err:find("guarding", 1, true) end, 20000)
  return p
end

--- Ends it by a signal; its status.
function Agents:down(signal)
  self.agent:kill(signal or "sigterm")
  return self.agent:wait(20000).status
end

--- A reload by SIGHUP, waited for. want: "reload: generation" or "reload refused".
function Agents:reload(policy, want)
  if policy then self:policy(policy) end
  local from = #self.agent.err
  self.agent:kill("sighup")
  self.agent:expect(function() return self.agent.err:find(want or "reload: generation", from + 1, true) end, 20000)
  return self.agent.err:sub(from + 1)
end

--- What must be the same before and after: rules without counters and dates, mounts, pins, locks.
function Agents:trace()
  local script = [[
    iptables-save; ip6tables-save; iptables-legacy-save 2>/dev/null || true
    tc qdisc show; tc filter show dev eth0 ingress; tc filter show dev eth0 egress
    grep -c DIR /proc/self/mountinfo || true
    ls -A DIR/pins 2>/dev/null || true
    ls /run/lattice 2>/dev/null | grep $(stat -Lc %i /proc/self/ns/net) || true]]
  local text = self:sh("node", (script:gsub("DIR", self.dir)))
  -- a chain's counters, comments with dates, and tables that exist only because somebody looked
  text = text:gsub("#[^\n]*\n", ""):gsub("%[%d+:%d+%]", ""):gsub("%*%a+\n([^*]-)COMMIT\n", function(body)
    return not body:find("\n%-A") and "" or nil
  end)
  return text
end

--- Ends everything; a bpffs that a killed agent left mounted, and its lock, go, too.
function Agents:close()
  self:stop()
  for _, where in ipairs({ "node", "peer" }) do
    pcall(self.sh, self, where, "rm -f /run/lattice/agent-$(stat -Lc %i /proc/self/ns/net).lock")
  end
  os.execute(("for m in $(grep -o '%s/[^ ]*' /proc/self/mounts); do umount $m; done"):format(self.dir))
  Nodes.close(self)
end

Agents.json, Agents.uv = json, uv
return Agents
