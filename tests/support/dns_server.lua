-- A small scripted name server for e2e tests: lua5.4 tests/support/dns_server.lua ADDRESS ZONE LOG [PORT]
--
-- ZONE is a file, read again for every query, so a test can change it: one record a line, `name type value [ttl]`,
-- `#` comments, `*.name` for every name below. Types: A, AAAA, CNAME (followed in the answer), and instead of records
-- SERVFAIL, REFUSED, SILENT (no answer), TRUNCATE (TC over UDP, records over TCP). Names that are not there: NXDOMAIN.
-- LOG gets one line for each query seen: `name TYPE udp|tcp`, in lower case but the type.
local uv = require("luv")

local address, zone_path, log_path, port = arg[1], arg[2], arg[3], tonumber(arg[4] or 53)
if not log_path then
  io.stderr:write("usage: dns_server.lua ADDRESS ZONE LOG [PORT]\n")
  os.exit(2)
end
local log = assert(io.open(log_path, "a"))
local types = { [1] = "A", [5] = "CNAME", [12] = "PTR", [16] = "TXT", [28] = "AAAA", [65] = "HTTPS" }
local numbers = { A = 1, CNAME = 5, AAAA = 28 }

local function read_zone()
  local zone = {}
  for line in assert(io.open(zone_path)):lines() do
    local name, kind, value, ttl = line:gsub("#.*", ""):match("^%s*(%S+)%s+(%S+)%s*(%S*)%s*(%d*)")
    if name then
      zone[name:lower()] = zone[name:lower()] or {}
      table.insert(zone[name:lower()], { type = kind, value = value, ttl = tonumber(ttl) or 60 })
    end
  end
  return zone
end

local function look_up(zone, name)
  if zone[name] then return zone[name] end
  local rest = name:match("%.(.+)$")
  while rest do
    if zone["*." .. rest] then return zone["*." .. rest] end
    rest = rest:match("%.(.+)$")
  end
end

local function encode_name(name)
  return name:gsub("([^.]+)%.?", function(label) return string.pack("s1", label) end) .. "\0"
end

local function encode_address(kind, text)
  if kind == "A" then
    return string.char(text:match("^(%d+)%.(%d+)%.(%d+)%.(%d+)$"))
  end
  local head, tail = text:match("^(.-)::(.*)$")
  local function words(part)
    local out = {}
    for word in (part or ""):gmatch("[^:]+") do out[#out + 1] = string.pack(">I2", tonumber(word, 16)) end
    return table.concat(out)
  end
  local first, last = words(head or text), words(tail)
  return first .. ("\0"):rep(16 - #first - #last) .. last
end

-- Labels that hold a dot would confuse encode_name; none of the tests has one upstream.
local function decode_question(message)
  local labels, at = {}, 13
  while true do
    local length = message:byte(at)
    if not length or length > 63 then return nil end
    at = at + 1
    if length == 0 then break end
    labels[#labels + 1] = message:sub(at, at + length - 1)
    at = at + length
  end
  if #message < at + 3 then return nil end
  return table.concat(labels, "."), string.unpack(">I2", message, at), message:sub(13, at + 3)
end

local function record(owner, kind, ttl, data)
  return encode_name(owner) .. string.pack(">I2I2I4s2", numbers[kind], 1, ttl, data)
end

--- The answer to a query, or nil for silence.
local function answer(message, transport)
  if #message < 17 then return nil end
  local name, qtype, question = decode_question(message)
  if not name then return nil end
  local kind = types[qtype] or tostring(qtype)
  log:write(("%s %s %s\n"):format(name:lower(), kind, transport))
  log:flush()
  local zone, owner, records, rcode, cut = read_zone(), name, {}, 0, false
  local found = look_up(zone, owner:lower())
  if not found then rcode = 3 end
  for _ = 1, 40 do
    local alias
    for _, r in ipairs(found or {}) do
      if r.type == "SILENT" then return nil end
      if r.type == "SERVFAIL" then rcode = 2 end
      if r.type == "REFUSED" then rcode = 5 end
      if r.type == "TRUNCATE" and transport == "udp" then cut = true end
      if r.type == "CNAME" then
        alias = r.value
        records[#records + 1] = record(owner, "CNAME", r.ttl, encode_name(r.value))
      elseif r.type == kind then
        records[#records + 1] = record(owner, kind, r.ttl, encode_address(kind, r.value))
      end
    end
    if not alias then break end
    owner, found = alias, look_up(zone, alias:lower())
  end
  if cut then records = {} end
  local flags = 0x8180 | rcode | (cut and 0x200 or 0)
  return message:sub(1, 2) .. string.pack(">I2I2I2I2I2", flags, 1, #records, 0, 0) .. question
    .. table.concat(records)
end

local udp = uv.new_udp()
assert(udp:bind(address, port))
udp:recv_start(function(_, data, from)
  local reply = data and from and answer(data, "udp")
  if reply then udp:try_send(reply, from.ip, from.port) end
end)

uv.new_signal():start("sigpipe", function() end) -- a client that is killed must not end the server
local tcp = uv.new_tcp()
assert(tcp:bind(address, port))
assert(tcp:listen(64, function()
  local peer, buffer = uv.new_tcp(), ""
  tcp:accept(peer)
  peer:read_start(function(_, data)
    if not data then return peer:close() end
    buffer = buffer .. data
    while #buffer >= 2 and #buffer >= 2 + string.unpack(">I2", buffer) do
      local message, next = string.unpack(">s2", buffer)
      buffer = buffer:sub(next)
      local reply = answer(message, "tcp")
      if reply then peer:write(string.pack(">s2", reply)) end
    end
  end)
end))
uv.run()
