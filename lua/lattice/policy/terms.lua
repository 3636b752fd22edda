-- The words with a fixed meaning: protocols, services, errnos, units. Sizes, times and rates become numbers here.
local suggest = require("lattice.policy.suggest")

local M = {}

M.protos = { tcp = 6, udp = 17, icmp = 1, icmpv6 = 58 }
M.proto_names = { [6] = "tcp", [17] = "udp", [1] = "icmp", [58] = "icmpv6" }
M.proto_words = { "any", "icmp", "icmpv6", "tcp", "udp" }
M.with_ports = { [6] = true, [17] = true }

-- Only services whose port is the same for everybody.
M.services = {
  amqp = 5672, dns = 53, domain = 53, ftp = 21, git = 9418, http = 80, https = 443, imap = 143,
  imaps = 993, ldap = 389, ldaps = 636, memcached = 11211, mongodb = 27017, mqtt = 1883,
  mysql = 3306, nats = 4222, ntp = 123, pop3 = 110, pop3s = 995, postgres = 5432,
  postgresql = 5432, rdp = 3389, redis = 6379, rsync = 873, smtp = 25, snmp = 161, ssh = 22,
  submission = 587, telnet = 23, whois = 43,
}

M.actions = { allow = true, deny = true, drop = true, ask = true, audit = true }
M.action_words = { "allow", "deny", "drop", "ask", "audit" }
-- Let pass (perhaps after a question): such names are resolved.
M.opens = { allow = true, audit = true, ask = true }

M.errnos = {
  EACCES = true, ECONNREFUSED = true, EHOSTUNREACH = true, ENETUNREACH = true, EPERM = true,
}

local size_units = { [""] = 1, k = 1 << 10, m = 1 << 20, g = 1 << 30, t = 1 << 40 }
local time_units = { [""] = 1, s = 1, m = 60, min = 60, h = 3600, d = 86400 }

--- "2G", "512M", 4096 -> bytes.
---@param value string|number
---@return integer? bytes
function M.size(value)
  if math.type(value) == "integer" then return value > 0 and value or nil end
  if type(value) ~= "string" then return nil end
  local number, unit = value:lower():match("^(%d+%.?%d*)%s*([kmgt]?)i?b?$")
  if not number or #number > 15 then return nil end
  local bytes = tonumber(number) * size_units[unit]
  if bytes < 1 or bytes > 1 << 62 then return nil end
  return math.floor(bytes)
end

--- "90s", "10m", "1h", 30 -> seconds.
---@param value string|number
---@return integer? seconds
function M.seconds(value)
  if math.type(value) == "integer" then value = tostring(value) end
  if type(value) ~= "string" then return nil end
  local number, unit = value:lower():match("^(%d+)%s*(%a*)$")
  local factor = number and time_units[unit]
  local seconds = factor and #number < 10 and tonumber(number) * factor
  if not seconds or seconds < 1 or seconds > 0xffffffff then return nil end
  return seconds
end

--- "20/s" or 20 -> new flows a second.
---@param value string|number
---@return integer?
function M.rate(value)
  if type(value) == "string" then
    local number = value:match("^(%d+)%s*/%s*s$") or value:match("^(%d+)$")
    value = number and #number < 10 and tonumber(number)
  end
  if math.type(value) ~= "integer" or value < 1 or value > 0xffffffff then return nil end
  return value
end

--- A protocol word or number. On failure nil, message, expected, suggestion.
---@param text string  folded
---@return integer|"any"|nil
---@return string? message
---@return string? expected
---@return string? suggestion
function M.proto(text)
  if text == "any" then return "any" end
  local known = M.protos[text]
  if known then return known end
  if text:find("^%d+$") then
    local number = #text <= 3 and tonumber(text)
    if number and number >= 1 and number <= 254 then return number end
    return nil, ("protocol %s is out of range"):format(text), "1 to 254"
  end
  return nil, ("unknown protocol '%s'"):format(text), "tcp, udp, icmp, icmpv6, any or a number",
    suggest.nearest(text, M.proto_words)
end

local function port_number(text)
  if text:find("^%d+$") and #text <= 6 then
    local number = tonumber(text)
    if number >= 1 and number <= 65535 then return number end
    return nil, ("port %s is out of range"):format(text), "1 to 65535"
  end
  return nil, nil
end

--- A port, a range or a service word. On failure nil, nil, message, expected, suggestion.
---@param text string  folded
---@return integer? lo
---@return integer? hi
---@return string? message
---@return string? expected
---@return string? suggestion
function M.port(text)
  local service = M.services[text]
  if service then return service, service end
  local number, message, expected = port_number(text)
  if number then return number, number end
  if message then return nil, nil, message, expected end
  local lo_text, hi_text = text:match("^(%d*)%-(%d*)$")
  if lo_text then
    local lo, lo_message, lo_expected = port_number(lo_text)
    local hi, hi_message, hi_expected = port_number(hi_text)
    if lo and hi then
      if lo <= hi then return lo, hi end
      return nil, nil, ("the port range %s is reversed"):format(text), "the lower port first",
        hi .. "-" .. lo
    end
    return nil, nil, lo_message or hi_message or ("the port range '%s' has no end"):format(text),
      lo_expected or hi_expected or "LO-HI"
  end
  return nil, nil, ("unknown port '%s'"):format(text),
    "a number, LO-HI or a service such as https", suggest.nearest(text, suggest.keys(M.services))
end

return M
