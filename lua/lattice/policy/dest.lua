-- One word after to/from, or one element of a set: what kind of place it names.
--
-- An item is { kind, text } with text in canonical form; kind "prefix" and "range" have `prefixes`, "name" has
-- `name`, "set" has `set`. A problem is { message, expected?, suggestion?, at? }.
local addr = require("lattice.policy.addr")
local names = require("lattice.policy.names")
local suggest = require("lattice.policy.suggest")

local M = {}

local words = {
  any = { kind = "any", text = "any" }, host = { kind = "host", text = "host" },
  mesh = { kind = "mesh", text = "mesh" },
}
M.words = words

local find, match = string.find, string.match

local function ir_prefix(p)
  return { family = p.family, addr = addr.format(p.family, p.hi, p.lo), len = p.len }
end

local function problem(message, expected, suggestion, at)
  return nil, { message = message, expected = expected, suggestion = suggestion, at = at }
end

local function prefix(text)
  local family, hi, lo, len = addr.parse_prefix(text)
  if family then
    -- the strict form of an IPv4 address is also the canonical one
    local plain = family == 6 and addr.format(6, hi, lo) or match(text, "^[^/]*")
    local full = len == (family == 4 and 32 or 128)
    return {
      kind = "prefix", text = full and plain or plain .. "/" .. len,
      prefixes = { { family = family, addr = plain, len = len } },
    }
  end
  local what, fixed = hi, lo
  if what == "mapped" then
    return problem("a v4-mapped IPv6 address: write it as IPv4", nil, fixed)
  elseif what == "host" then
    return problem(("%s has bits set beyond its prefix length"):format(text), nil, fixed)
  elseif what == "length" then
    local six = text:find(":", 1, true)
    return problem(("'/%s' is not a prefix length"):format(text:match("/(.*)$")),
      six and "0 to 128" or "0 to 32", nil, text:find("/", 1, true))
  end
  if find(text, "/", 1, true) then
    return problem(("'%s' is not a prefix: its length must follow an IP address"):format(text),
      "such as 10.0.0.0/8 or 2001:db8::/32")
  end
  return problem(("'%s' is not an IPv4 address"):format(text),
    "four decimal parts, each at most 255 and without leading zeros")
end

local function range(text, first, last)
  local f1, hi1, lo1 = addr.parse(first)
  local f2, hi2, lo2 = addr.parse(last)
  if not f1 or not f2 then
    local bad = f1 and last or first
    local guess
    if f1 == 4 and last:find("^%d+$") then guess = first .. "-" .. first:gsub("%d+$", last) end
    return problem(("'%s' is not an IP address: a range has one on both sides"):format(bad),
      nil, guess)
  elseif f1 ~= f2 then
    return problem("a range must stay in one address family")
  elseif f1 == 6 and (addr.is_mapped(hi1, lo1) or addr.is_mapped(hi2, lo2)) then
    return problem("a v4-mapped IPv6 address: write it as IPv4")
  elseif addr.above(hi1, lo1, hi2, lo2) then
    return problem(("the range %s is reversed"):format(text), "the lower address first",
      last .. "-" .. first)
  end
  local prefixes = addr.range_prefixes(f1, hi1, lo1, hi2, lo2)
  for i, p in ipairs(prefixes) do prefixes[i] = ir_prefix(p) end
  local canonical = addr.format(f1, hi1, lo1) .. "-" .. addr.format(f2, hi2, lo2)
  return { kind = "range", text = canonical, prefixes = prefixes }
end

local function with_colon(text)
  if text:find("://", 1, true) then
    local bare = text:match("://([^/:]+)")
    return problem("a URL cannot be matched, a host can", nil, bare)
  end
  local host, port = text:match("^%[?([^%]]-)%]?:(%d+)$")
  if host and port and (not host:find(":", 1, true) or text:find("^%[")) then
    return problem("the port stands apart", nil, ("%s port %s"):format(host, port), #text - #port)
  end
  if text:find("%%") then
    return problem("an address with a scope cannot be matched", nil, text:match("^[^%%]+"))
  end
  return problem(("'%s' is not an IPv6 address"):format(text))
end

local function name(text, sets)
  local normal, message, at = names.normalize(text, true)
  if not normal then
    local expected = names.looks_numeric(text) and "an IPv4 address of four decimal parts" or nil
    return problem(("'%s': %s"):format(text, message), expected, nil, at)
  end
  if not normal:find(".", 1, true) and text:sub(-1) ~= "." then
    local known = { "any", "host", "mesh" }
    for _, set in ipairs(suggest.keys(sets)) do known[#known + 1] = set end
    local guess = normal == "localhost" and "host" or suggest.nearest(normal, known)
    return problem(("unknown word or set '%s'"):format(text),
      ("a name with a dot: write '%s.' for a name of one label"):format(text), guess)
  end
  return { kind = "name", name = normal, text = text:sub(-1) == "." and
    not normal:find(".", 1, true) and normal .. "." or normal }
end

--- What one word names. `sets` is the table of the policy's sets, by name.
---@param text string  folded
---@param sets table<string, any>
---@return table? item
---@return table? problem
function M.classify(text, sets)
  if words[text] then return words[text] end
  if find(text, "^%d+%.%d+%.%d+%.%d+/?%d*$") then return prefix(text) end
  local marked = match(text, "^@(.*)$")
  if marked or sets[text] then
    local set = marked or text
    if sets[set] then return { kind = "set", set = set, text = "@" .. set } end
    return problem(("there is no set '%s'"):format(set), nil,
      suggest.nearest(set, suggest.keys(sets)))
  end
  if text:find("/", 1, true) and not text:find("://", 1, true) then return prefix(text) end
  if addr.parse(text) then return prefix(text) end
  local first, last = text:match("^([^-]*)-([^-]*)$")
  if first and (addr.parse(first) or addr.parse(last)) then return range(text, first, last) end
  if text:find(":", 1, true) then return with_colon(text) end
  return name(text, sets)
end

return M
