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

--- for enforcer, why in Agents.enforcers(missing): each; why: the reason of a skip. missing: one for all.
---@param missing? string
function Agents.enforcers(missing)
  local names, at = { "iptables", "ebpf" }, 0
  return function()
    at = at + 1
    if not names[at] then return nil end
    local able, why = not missing, missing
    if able then able, why = Agents.able(names[at]) end
    return names[at], not able and why or nil
  end
end

function Agents.able(name)
  if name == "ebpf" and os.getenv("LATTICE_NO_EBPF") then return false, os.getenv("LATTICE_NO_EBPF") end
  local p = io.popen(Nodes.latticed_path .. " --version 2>&1")
  local edition = p:read("a"):match("%((%a+)%)")
  p:close()
  if name == "ebpf" and edition ~= "pro" then return false, "the community edition has no eBPF" end
  return true
end

--- Makes the nodes alone.
function Agents.bare(opts)
  return setmetatable(Nodes.new(opts), Agents)
end

--- Makes the nodes and the servers on both ends.
function Agents.new(opts)
  local self = Agents.bare(opts)
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

--- Writes lattice.lua and p.lua; what: { policy, enforcer, extra, device (an existing one) or devices (text), socket }.
function Agents:configure(what)
  self:policy(what.policy or "")
  self.socket = what.socket or self.dir .. "/control.sock"
  local lines = {
    what.devices or ("device %q { kind = \"existing\" }"):format(what.device or "eth0"), 'policy "p.lua"',
    ("enforcer %q"):format(what.enforcer or "auto"), ("control %q"):format(self.socket),
    ("pins %q"):format(self.dir .. "/pins"), ("audit { to = file %q }"):format(self.dir .. "/audit.jsonl"),
    what.extra or "",
  }
  self.config = self:file(what.name or "lattice.lua", table.concat(lines, "\n") .. "\n")
  return self.config
end

--- A mesh with the peer: its end, and a config for a wf0 of the agent's own. what: as configure's, and allowed (more
--- prefixes behind the peer).
function Agents:configure_wf0(what)
  local peer_private, peer_public = self:keys()
  local private, public = self:keys()
  local allowed = { '"10.42.0.2/32"', '"fd42::2/128"' }
  for _, prefix in ipairs(what.allowed or {}) do allowed[#allowed + 1] = ("%q"):format(prefix) end
  self:file("wf0.key", private, tonumber("600", 8))
  what.devices = ([[
device "wf0" { address = { "10.42.0.1/24", "fd42::1/64" },
  wireguard = { key = file "wf0.key", listen = 51820, peers = { { key = "%s", endpoint = "203.0.113.2:51820",
    allowed = { %s } } } } }]]):format(peer_public, table.concat(allowed, ", "))
  self:configure(what)
  self:peer_end(public, { private = peer_private })
end

--- Starts the agent and waits until it guards. opts.under: words of a command that it is started by.
function Agents:up(opts)
  local argv = table.move(opts and opts.under or {}, 1, opts and opts.under and #opts.under or 0, 1, {})
  for _, word in ipairs({ Nodes.latticed_path, "--config", self.config, "-v" }) do argv[#argv + 1] = word end
  local p = self:start("node", argv, opts)
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
