-- Readers for the values in lattice.lua: each gets a value and gives what the agent works with, or reports what is wrong
-- with it. reader(ctx, source, line, value, key) -> value or nil.
local addr = require("lattice.policy.addr")
local settings = require("lattice.policy.settings")
local suggest = require("lattice.policy.suggest")

local M = {}

local describe = settings.describe

--- Reads a table by its known fields. Nothing is skipped: an unknown key is an error.
---@param ctx table
---@param what string  named in messages
---@param value any
---@param known table<string, function>
---@param needed string[]
---@return table?
function M.read(ctx, source, line, what, value, known, needed)
  if type(value) ~= "table" or settings.is_marker(value) then
    return ctx:problem(source, line, ("%s takes a table, not %s"):format(what, describe(value)))
  end
  local read, good = {}, true
  for key in pairs(value) do
    if not known[key] then
      local names = suggest.keys(known)
      good = ctx:problem(source, line, ("%s has no '%s'"):format(what, tostring(key)), table.concat(names, ", "),
        suggest.nearest(tostring(key), names))
    end
  end
  for _, key in ipairs(suggest.keys(known)) do
    if value[key] ~= nil then
      read[key] = known[key](ctx, source, line, value[key], key)
      if read[key] == nil then good = false end
    end
  end
  for _, key in ipairs(needed) do
    if value[key] == nil then good = ctx:problem(source, line, ("%s has no %s"):format(what, key)) end
  end
  return good ~= false and good ~= nil and read or nil
end

function M.integer(least, most, expected)
  return function(ctx, source, line, value, key)
    if math.type(value) == "integer" and value >= least and value <= most then return value end
    return ctx:problem(source, line, ("%s cannot be %s"):format(key, describe(value)), expected)
  end
end

function M.boolean(ctx, source, line, value, key)
  if type(value) == "boolean" then return value end
  return ctx:problem(source, line, ("%s cannot be %s"):format(key, describe(value)), "true or false")
end

function M.word(ctx, source, line, value, key)
  if type(value) == "string" and value:find("^[%w_.-]+$") and #value <= 64 then return value end
  return ctx:problem(source, line, ("%s cannot be %s"):format(key, describe(value)),
    "up to 64 letters, digits, '-', '_', '.'")
end

--- A path, made absolute: relative ones stand beside the config.
---@return string?
function M.path(ctx, source, line, value, key)
  if type(value) ~= "string" or value == "" or value:find("%c") or #value > 4000 then
    return ctx:problem(source, line, ("%s takes a path, not %s"):format(key, describe(value)))
  end
  if value:sub(1, 1) == "/" then return value end
  return ctx.folder .. value
end

--- file "NAME", or just the name; it must be there and a plain file.
function M.file(ctx, source, line, value, key)
  local path = value
  if settings.is_marker(value) and value.kind == "file" then path = value.target end
  path = M.path(ctx, source, line, path, key)
  if not path then return nil end
  local stat, why = ctx.stat(path)
  if not stat then
    return ctx:problem(source, line, ("%s: %s cannot be read: %s"):format(key, path, why))
  elseif stat.type ~= "file" then
    return ctx:problem(source, line, ("%s: %s is not a file"):format(key, path))
  elseif stat.mode & 7 ~= 0 then
    return ctx:problem(source, line, ("%s: every user can get at %s"):format(key, path), "chmod 0600 " .. path)
  end
  return path
end

--- Why a device cannot have this name, or nil.
---@return string? problem
---@return string? expected
function M.device_problem(name)
  if type(name) ~= "string" or not name:find("^[^%s%c/:%%]+$") or #name > 15 or name == "." or name == ".." then
    return ("a device cannot be called %s"):format(describe(name)), "1 to 15 characters, no '/', ':', '%' or space"
  elseif name == "lo" then
    return "lo is the host's own loopback: it is not guarded", "another device"
  end
  return nil
end

function M.device(ctx, source, line, value, key)
  local problem, expected = M.device_problem(value)
  if not problem then return value end
  return ctx:problem(source, line, ("%s: %s"):format(key, problem), expected)
end

local reasons = {
  address = "is no address", length = "has a prefix length that does not exist",
  host = "has bits beyond its prefix length", mapped = "is an IPv4 address written as IPv6",
}

function M.prefix(ctx, source, line, value, key)
  if type(value) ~= "string" then
    return ctx:problem(source, line, ("%s cannot be %s"):format(key, describe(value)), "\"10.0.0.0/8\"")
  end
  local family, what, fixed = addr.parse_prefix(value)
  if family then return value:find("/", 1, true) and value or value .. (family == 4 and "/32" or "/128") end
  return ctx:problem(source, line, ("%s: '%s' %s"):format(key, value, reasons[what]), nil,
    type(fixed) == "string" and fixed or nil)
end

-- An address with the length of its network: host bits are what it is about.
local function interface(ctx, source, line, value, key)
  local text, len = tostring(value):match("^([^/]+)/(%d+)$")
  local family = type(value) == "string" and text and addr.parse(text)
  local most = family == 4 and 32 or 128
  if family and tonumber(len) >= 1 and tonumber(len) <= most and not len:find("^0") then return value end
  return ctx:problem(source, line, ("%s cannot be %s"):format(key, describe(value)), "\"10.42.0.1/24\", \"fd42::1/64\"")
end

local function list_of(reader)
  return function(ctx, source, line, value, key)
    if type(value) == "string" then value = { value } end
    if type(value) ~= "table" or settings.is_marker(value) then
      return ctx:problem(source, line, ("%s is a list of texts"):format(key))
    end
    local list, count = {}, 0
    for _ in pairs(value) do count = count + 1 end
    for i, item in ipairs(value) do list[i] = reader(ctx, source, line, item, key) end
    if count ~= #value then return ctx:problem(source, line, ("%s is a list of texts"):format(key)) end
    return #list == count and list or nil
  end
end

M.prefixes, M.addresses, M.words = list_of(M.prefix), list_of(interface), list_of(M.word)

--- "192.0.2.1:51820" or "[2001:db8::1]:51820": a name would need an answer before the device is up.
function M.endpoint(ctx, source, line, value, key)
  local text, port = tostring(value):match("^%[([%x:.]+)%]:(%d+)$")
  local family = 6
  if not text then
    text, port = tostring(value):match("^([%d.]+):(%d+)$")
    family = 4
  end
  local number = tonumber(port)
  if text and #port < 6 and number >= 1 and number <= 65535 and addr.parse(text) == family then return value end
  return ctx:problem(source, line, ("%s cannot be %s"):format(key, describe(value)),
    "\"192.0.2.1:51820\" or \"[2001:db8::1]:51820\"")
end

--- 32 bytes in base64.
function M.public_key(ctx, source, line, value, key)
  if type(value) == "string" and #value == 44 and value:find("^[%w+/]+=$") then return value end
  return ctx:problem(source, line, ("%s cannot be %s"):format(key, describe(value)), "a public key, 44 characters of base64")
end

return M
