-- Verdict events for people, and the options that choose among them.
local M = {}

--- The filter options of a command.
---@param parser table
function M.options(parser)
  parser:flag("--denied", "Only what was refused.")
  parser:option("--proto", "Only this protocol: tcp, udp, icmp, icmpv6 or a number."):argname("PROTO"):count("*")
    :target("protos")
  parser:option("--to", "Only this remote address or prefix (of what comes in: where it is from).")
    :argname("ADDRESS"):count("*")
  parser:option("--port", "Only this destination port, or range: 443, 8000-8999."):argname("PORT"):count("*")
    :target("ports")
  parser:option("--dir", "Only this direction."):choices({ "in", "out" })
  parser:option("--rule", "Only what this rule decided; 0 is the default."):argname("N"):count("*"):target("rules")
  parser:option("--run", "Of a run of a user, by its id (lattice status), instead of the node."):argname("ID")
  parser:option("--device", "Only this device."):argname("NAME"):count("*"):target("devices")
end

local function number_list(list)
  local numbers = {}
  for i, word in ipairs(list) do numbers[i] = math.tointeger(tonumber(word)) or word end
  return #numbers > 0 and numbers or nil
end

local function some(list) return list and #list > 0 and list or nil end

--- The filter that the arguments ask for, and a test made of it; nil, why when it is wrong.
---@param args table
---@return lattice.control.Filter?
---@return (fun(event: table): boolean)|string
function M.filter(args)
  local spec = {
    denied = args.denied or nil, protos = some(args.protos), to = some(args.to), ports = some(args.ports),
    dir = args.dir, rules = number_list(args.rules), devices = some(args.devices), run = args.run,
  }
  local test, why = require("lattice.control.filter").compile(spec)
  if not test then return nil, why end
  return spec, test
end

local function endpoint(host, port)
  if not port or port == 0 then return host end
  return (host:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(host, port)
end

local icmp = { [1] = true, [58] = true }

local styles = { allow = "green", audit = "yellow" }

--- "14:02:11.532 DENY  out tcp 10.42.0.1:40000 → 10.42.0.9:5432  wf0  agent.lua:14: no quic".
---@param event table
---@param out lattice.cli.Output
---@return string
function M.line(event, out)
  local format = require("lattice.audit.format")
  local plain = format.plain
  local ms = math.min(event.time_ms or 0, 253402300799000)
  local action = event.action or event.verdict or "?"
  local near_port, far_port = event.sport, event.port -- the port that is judged is the destination's
  local kind = icmp[event.proto] and event.port and " type " .. event.port or ""
  if icmp[event.proto] then near_port, far_port = nil, nil end
  if event.dir == "in" then near_port, far_port = far_port, near_port end
  local near = endpoint(plain(event.local_addr or "?"), near_port)
  local far = endpoint(plain(event.addr or "?"), far_port)
  local parts = {
    os.date("%H:%M:%S", ms // 1000) .. (".%03d"):format(ms % 1000),
    out:paint(styles[action] or "red", ("%-5s"):format(plain(action:upper()))),
    ("%-3s %s%s %s %s %s"):format(plain(event.dir or "?"), format.proto(event.proto), kind, near,
      event.dir == "in" and "←" or "→", far),
  }
  if event.names and event.names[1] then parts[#parts] = parts[#parts] .. " (" .. plain(event.names[1]) .. ")" end
  if event.device then parts[#parts + 1] = " " .. plain(event.device) end
  parts[#parts + 1] = " " .. plain(event.where or "") .. (event.reason and ": " .. plain(event.reason) or "")
  return table.concat(parts, " ")
end

-- A line of `lattice watch --json`, or of an audit log.
local function parse(line)
  local value = require("lattice.json").decode(line)
  if type(value) ~= "table" then return nil end
  if value.unmapped == nil then return value.verdict and value or nil end
  local record = require("lattice.audit.reader").parse(line)
  if not record or record.kind ~= "verdict" then return nil end
  return {
    time_ms = record.time, verdict = record.passed and "allow" or "deny", action = record.action, dir = record.dir,
    proto = record.proto, addr = record.addr, port = record.port, rule = record.rule, where = record.where,
    names = record.name and { record.name } or nil, generation = record.generation,
    local_addr = value[record.dir == "in" and "dst_endpoint" or "src_endpoint"] and
      value[record.dir == "in" and "dst_endpoint" or "src_endpoint"].ip,
    sport = value.src_endpoint and math.tointeger(value.src_endpoint.port), device = value.unmapped.lattice.device,
  }
end

--- The events of a file ("-": stdin) of `watch --json` lines or audit records.
---@param path string
---@return (fun(): table?)? next
---@return string? why
function M.from_file(path)
  local file, why = io.stdin, nil
  if path ~= "-" then file, why = io.open(path, "rb") end
  if not file then return nil, why end
  local next_line = file:lines()
  return function()
    for line in next_line do
      local event = parse(line)
      if event then return event end
    end
    return nil
  end
end

return M
