-- A record as one line for people.
local M = {}

local protos = { [1] = "icmp", [6] = "tcp", [17] = "udp", [58] = "icmpv6" }
local qtypes = { [1] = "A", [2] = "NS", [5] = "CNAME", [12] = "PTR", [15] = "MX", [16] = "TXT", [28] = "AAAA",
  [33] = "SRV", [65] = "HTTPS" }
local rcodes = { [0] = "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED" }

--- Text that others chose: nothing in it acts on a terminal or ends the line.
---@param text string
---@return string
function M.plain(text)
  return (text:gsub("[%c\x7f-\xff]", function(c) return ("\\x%02x"):format(c:byte()) end))
end

--- "tcp", "udp", ... or the number.
---@param proto integer?
---@return string
function M.proto(proto) return protos[proto] or tostring(proto or "?") end

local function endpoint(host, port)
  if not port or port == 0 then return host end
  return (host:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(host, port)
end

local function who(record)
  if not record.pid then return "-" end
  return ("%s[%d]"):format(M.plain(record.program or "?"), record.pid)
end

local function destination(record)
  local host = record.name or record.addr or "?"
  local text = endpoint(M.plain(host), record.port)
  if record.name and record.addr then text = text .. " (" .. M.plain(record.addr) .. ")" end
  return text
end

--- The place of a flow as rule text: "tcp to api.example port 443".
---@param record lattice.audit.Record
---@return string?
function M.rule_text(record)
  local host = record.name or record.addr
  if not host or not record.proto then return nil end
  if host == record.name and not host:find(".", 1, true) then host = host .. "." end
  local text = ("%s%s %s %s"):format(record.dir == "in" and "in " or "", M.proto(record.proto),
    record.dir == "in" and "from" or "to", M.plain(host))
  if (record.proto == 6 or record.proto == 17) and record.port then text = text .. " port " .. record.port end
  return text
end

local function ending(record, parts)
  if record.where then parts[#parts + 1] = " " .. M.plain(record.where) end
  if record.text and record.text ~= "" and record.kind ~= "unix" then
    parts[#parts + 1] = '"' .. M.plain(record.text) .. '"'
  end
end

local body = {}

function body.verdict(record)
  local parts = { who(record), record.dir == "in" and "←" or "→", destination(record), M.proto(record.proto) }
  ending(record, parts)
  local rule = not record.passed and M.rule_text(record)
  if rule then parts[#parts + 1] = (' (allow "%s")'):format(rule) end
  return table.concat(parts, " ")
end

function body.unix(record)
  local parts = { who(record), "→ unix", M.plain(record.text or "?") }
  ending(record, parts)
  return table.concat(parts, " ")
end

function body.dns(record)
  local parts = { who(record), "dns", M.plain(record.name or "?"),
    qtypes[record.qtype] or "TYPE" .. (record.qtype or "?"), rcodes[record.rcode or 0] or "rcode " .. record.rcode }
  ending(record, parts)
  return table.concat(parts, " ")
end

function body.close(record)
  return ("%s %s %s %s  out %d in %d bytes, %.3f s"):format(who(record), record.dir == "in" and "←" or "→",
    destination(record), M.proto(record.proto), record.bytes_out or 0, record.bytes_in or 0,
    (record.duration_ns or 0) / 1e9)
end

function body.exit(record) return ("status %d"):format(record.status or 0) end

function body.loss(record) return ("%d records could not be written"):format(record.lost or 0) end

function body.limit(record)
  local parts = { M.plain(record.name or "?") }
  ending(record, parts)
  return table.concat(parts, " ")
end

function body.operator(record)
  local parts = { "uid " .. (record.uid or "?") }
  ending(record, parts)
  return table.concat(parts, " ")
end

local function other(record)
  local parts = { record.generation > 0 and "generation " .. record.generation or nil }
  if record.pid then parts[#parts + 1] = who(record) end
  ending(record, parts)
  return table.concat(parts, " ")
end

local judged = { verdict = true, unix = true, dns = true }

--- What the line says it is: "ALLOW", "DENY", "AUDIT", "CLOSE", "START", ...
---@param record lattice.audit.Record
---@return string
function M.word(record)
  if not judged[record.kind] then return M.plain(record.kind:upper()) end
  return record.audit_only and "AUDIT" or M.plain(record.action:upper())
end

--- "14:02:11 DENY  python3[812] → api.example:443 tcp  agent.lua:14 ..."
---@param record lattice.audit.Record
---@param paint? fun(style: string, text: string): string
---@return string
function M.line(record, paint)
  local word = M.word(record)
  local padded = ("%-5s"):format(word)
  if paint and judged[record.kind] then
    padded = paint(not record.passed and "red" or word == "AUDIT" and "yellow" or "green", padded)
  end
  -- Years beyond 9999 (a broken clock) are not for os.date.
  local seconds = math.min(record.time // 1000, 253402300799)
  return ("%s %s %s"):format(os.date("%H:%M:%S", seconds), padded, (body[record.kind] or other)(record))
end

return M
