-- lattice status: what the agent on this node does, on one screen.
local M = {
  name = "status",
  summary = "Show what the agent on this node enforces, and on what.",
  agent = true,
  examples = {
    "lattice status",
    "lattice --socket /run/lattice-b/control.sock status",
    "lattice status --json | jq .enforcer.passed_over",
  },
}

local function plain(text) return require("lattice.audit.format").plain(tostring(text)) end

local function sum(counters)
  local allowed, denied, bytes = 0, 0, 0
  for _, one in ipairs(counters) do
    if one.action == "allow" or one.action == "audit" then
      allowed, bytes = allowed + one.packets, bytes + one.bytes
    else
      denied = denied + one.packets
    end
  end
  return allowed, denied, bytes
end

-- Lines of a block: the first one after its title, the others below it.
local function block(out, title, lines)
  for i, line in ipairs(lines) do
    out:print(out:paint("bold", ("%-11s"):format(i == 1 and title or "")) .. line)
  end
end

local function peer_line(peer, now, support)
  local shook = peer.handshake and peer.handshake > 0
    and "handshake " .. support.duration(now - peer.handshake) .. " ago" or "no handshake yet"
  return ("  peer %s  %s  %s  %s  received %s, sent %s"):format(plain(peer.key):sub(1, 12) .. "…",
    plain(peer.endpoint or "no endpoint"), plain(table.concat(peer.allowed or {}, " ")), shook,
    support.bytes(peer.rx or 0), support.bytes(peer.tx or 0))
end

local function device_lines(status, support, out)
  local lines = {}
  for _, device in ipairs(status.devices or {}) do
    local wireguard = device.wireguard
    local parts = { plain(device.name), plain(device.kind or "?"),
      device.up and out:paint("green", "up") or out:paint("red", "down") }
    for _, address in ipairs(device.address or {}) do parts[#parts + 1] = plain(address) end
    if device.mtu then parts[#parts + 1] = "mtu " .. device.mtu end
    if wireguard and wireguard.listen then parts[#parts + 1] = "port " .. wireguard.listen end
    if wireguard and wireguard.backend then parts[#parts + 1] = "by " .. plain(wireguard.backend) end
    lines[#lines + 1] = table.concat(parts, "  ")
    for _, peer in ipairs(wireguard and wireguard.peers or {}) do
      lines[#lines + 1] = peer_line(peer, status.now, support)
    end
  end
  if #lines == 0 then lines[1] = "none" end
  return lines
end

local function enforcer_lines(status)
  local enforcer = status.enforcer or {}
  local lines = { ("%s: %s"):format(plain(enforcer.name or "none"), plain(enforcer.reason or "")) }
  for _, one in ipairs(enforcer.passed_over or {}) do
    lines[#lines + 1] = ("passed over %s: %s"):format(plain(one.name), plain(one.reason))
  end
  return lines
end

local function policy_lines(status, support)
  local policy = status.policy or {}
  local lines = { ("%s, generation %d: %s, default %s%s"):format(plain(policy.name or "none"), status.generation or 0,
    support.count(policy.rules or 0, "rule"), plain(policy.default or "deny"),
    policy.loaded and ", loaded " .. support.duration(status.now - policy.loaded) .. " ago" or "") }
  if policy.digest then lines[1] = lines[1] .. ", digest " .. plain(policy.digest):sub(1, 12) end
  for _, file in ipairs(policy.files or {}) do lines[#lines + 1] = plain(file) end
  local reloads = status.reloads or {}
  if (reloads.ok or 0) + (reloads.refused or 0) > 0 then
    lines[#lines + 1] = ("%s, %d refused%s"):format(support.count(reloads.ok or 0, "reload"), reloads.refused or 0,
      reloads.last_error and ": " .. plain(reloads.last_error) or "")
  end
  return lines
end

local function temporary_lines(status, support)
  local lines = {}
  for i, rule in ipairs(status.temporary or {}) do
    lines[i] = ("%d  %s \"%s\"  %s left, by uid %d"):format(rule.id, plain(rule.action), plain(rule.text),
      support.duration(rule.until_s - status.now), rule.uid)
  end
  if #lines == 0 then lines[1] = "none" end
  return lines
end

local function run_lines(status, support)
  local lines = {}
  for _, run in ipairs(status.runs or {}) do
    lines[#lines + 1] = ("%s  %s  uid %d (%s)  %s  generation %d%s  processes %d, up %s"):format(plain(run.id),
      plain(run.name), run.uid, plain(run.user), plain(run.policy), run.generation,
      run.network and "  on " .. plain(run.network) or "", run.processes, support.duration(status.now - run.started))
  end
  return lines
end

local function binding_lines(status)
  local lines = {}
  for _, one in ipairs(status.bindings or {}) do
    lines[#lines + 1] = ("%d (%s) on %s, %d in it%s%s"):format(one.pid, plain(one.comm or "ended"), plain(one.device),
      one.processes, one.policy and ", by " .. plain(table.concat(one.policy, " ")) or "",
      one.mine and "" or ", of one that has ended")
  end
  return lines
end

local function event_line(status)
  local events = status.events or {}
  return ("%d seen, %d lost in the kernel, %d lost in the agent; audit: %d lost"):format(events.seen or 0,
    events.lost_in_kernel or 0, events.lost or 0, events.audit_lost or 0)
end

local function show(status, counters, out)
  local support = require("lattice.cli.support.agent")
  block(out, "agent", { ("latticed %s (%s), pid %d, up %s, %s"):format(plain(status.version), plain(status.edition),
    status.pid, support.duration(status.now - status.started), plain(status.config or "")) })
  block(out, "enforcer", enforcer_lines(status))
  block(out, "policy", policy_lines(status, support))
  block(out, "devices", device_lines(status, support, out))
  if counters then
    local allowed, denied, bytes = sum(counters)
    block(out, "packets", { ("%d allowed (%s), %d denied, in this generation"):format(allowed,
      support.bytes(bytes), denied) })
  end
  block(out, "temporary", temporary_lines(status, support))
  block(out, "runs", run_lines(status, support))
  block(out, "bindings", binding_lines(status))
  block(out, "events", { event_line(status) })
end

function M.run(args, out)
  local support = require("lattice.cli.support.agent")
  local c, code = support.open(args, out)
  if not c then return code end
  local status, err = c:call("status")
  local counters = status and c:call("counters")
  c:close()
  if not status then return support.fail(err, out) end
  if out.as_json then
    status.counters = counters and counters.counters
    out:json("status", status)
  else
    show(status, counters and counters.counters, out)
  end
  return 0
end

return M
