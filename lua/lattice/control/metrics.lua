-- The agent's state as Prometheus text (exposition format 0.0.4). Names and labels: no host, address or pid in any.
local M = {}

local function escape(value)
  return (tostring(value):gsub("[\\\"\n]", { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" }))
end

local function labels(list)
  local parts = {}
  for i = 1, #list, 2 do
    if list[i + 1] ~= nil then parts[#parts + 1] = ('%s="%s"'):format(list[i], escape(list[i + 1])) end
  end
  return #parts > 0 and "{" .. table.concat(parts, ",") .. "}" or ""
end

local function number(value)
  return math.type(value) == "integer" and tostring(value) or ("%.9g"):format(value)
end

---@class lattice.control.Metrics
local Metrics = {}
Metrics.__index = Metrics

-- rows: { { value, label, text, ... }, ... }
function Metrics:add(name, kind, help, rows)
  if #rows == 0 then return end
  self[#self + 1] = ("# HELP %s %s\n# TYPE %s %s\n"):format(name, help, name, kind)
  for _, row in ipairs(rows) do
    self[#self + 1] = ("%s%s %s\n"):format(name, labels(table.move(row, 2, #row, 1, {})), number(row[1] or 0))
  end
end

local passes = { allow = "allow", audit = "allow" }

-- Packets by verdict; which direction a rule is for is in its text.
local function verdicts(status, counters)
  local sums, order = {}, {}
  for _, one in ipairs(counters) do
    local verdict = passes[one.action] or "deny"
    local direction = one.text and (one.text:match("^%a+ \"in ") or one.text:match("^in ")) and "in"
      or one.text and "out" or "any"
    local key = verdict .. direction
    if not sums[key] then
      sums[key] = { 0, "verdict", verdict, "direction", direction, "enforcer", status.enforcer.name, "policy",
        status.policy and status.policy.name }
      order[#order + 1] = sums[key]
    end
    sums[key][1] = sums[key][1] + one.packets
  end
  return order
end

local function rule_rows(counters, field)
  local rows = {}
  for i, one in ipairs(counters) do
    rows[i] = { one[field], "rule", one.rule, "action", one.action, "where", one.where }
  end
  return rows
end

local function device_rows(status)
  local up, handshakes, received, sent = {}, {}, {}, {}
  for i, device in ipairs(status.devices or {}) do
    up[i] = { device.up and 1 or 0, "device", device.name, "kind", device.kind }
    for _, peer in ipairs(device.wireguard and device.wireguard.peers or {}) do
      local who = { "device", device.name, "peer", peer.key }
      handshakes[#handshakes + 1] = { peer.handshake, table.unpack(who) }
      received[#received + 1] = { peer.rx, table.unpack(who) }
      sent[#sent + 1] = { peer.tx, table.unpack(who) }
    end
  end
  return up, handshakes, received, sent
end

--- The text.
---@param status lattice.agent.Status
---@param counters table[]  as the verb `counters` gives them
---@param version table     of lattice.sys
---@return string
function M.text(status, counters, version)
  local out = setmetatable({}, Metrics)
  local policy, events, reloads = status.policy or {}, status.events or {}, status.reloads or {}
  out:add("lattice_build_info", "gauge", "What this agent was built from.", { { 1, "version", version.version,
    "edition", version.edition, "lua", version.libraries.lua, "libbpf", version.libraries.libbpf } })
  out:add("lattice_start_timestamp_seconds", "gauge", "When the agent started.", { { status.started } })
  out:add("lattice_enforcer_info", "gauge", "The enforcer in force.", { { 1, "enforcer", status.enforcer.name } })
  out:add("lattice_policy_info", "gauge", "The policy in force.",
    { { 1, "digest", policy.digest, "policy", policy.name } })
  out:add("lattice_policy_generation", "gauge", "Its number.", { { status.generation } })
  out:add("lattice_policy_rules", "gauge", "How many rules it has.", { { policy.rules or 0 } })
  if policy.loaded then
    out:add("lattice_policy_loaded_timestamp_seconds", "gauge", "When it came into force.", { { policy.loaded } })
  end
  out:add("lattice_policy_reloads_total", "counter", "Reloads by result.",
    { { reloads.ok or 0, "result", "ok" }, { reloads.refused or 0, "result", "refused" } })
  out:add("lattice_verdicts_total", "counter", "Packets judged, in this generation.", verdicts(status, counters))
  out:add("lattice_rule_packets_total", "counter", "Packets by rule, in this generation; 0 is the default.",
    rule_rows(counters, "packets"))
  out:add("lattice_rule_bytes_total", "counter", "Bytes by rule, in this generation.", rule_rows(counters, "bytes"))
  out:add("lattice_events_total", "counter", "Verdict events seen.", { { events.seen or 0 } })
  out:add("lattice_events_lost_total", "counter", "Verdict events lost, by where.",
    { { events.lost_in_kernel or 0, "reason", "kernel" }, { events.lost or 0, "reason", "agent" } })
  out:add("lattice_audit_dropped_total", "counter", "Audit records that could not be written.",
    { { events.audit_lost or 0 } })
  out:add("lattice_temporary_rules", "gauge", "Temporary rules in force.", { { #(status.temporary or {}) } })
  local up, handshakes, received, sent = device_rows(status)
  out:add("lattice_device_up", "gauge", "Whether a guarded device is up.", up)
  out:add("lattice_peer_handshake_timestamp_seconds", "gauge", "Latest handshake of a peer; 0: none.", handshakes)
  out:add("lattice_peer_received_bytes_total", "counter", "Bytes from a peer.", received)
  out:add("lattice_peer_sent_bytes_total", "counter", "Bytes to a peer.", sent)
  return table.concat(out)
end

return M
