-- IP addresses, prefixes and ranges as numbers; the same forms and classes as src/base/addr.h.
-- An address is (family, hi, lo): two 64-bit halves, IPv4 in the low 32 bits of lo.
local M = {}

local ult = math.ult

local find, match, sub, tointeger = string.find, string.match, string.sub, math.tointeger

local function parse4(text)
  local a, b, c, d = match(text, "^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$")
  if not a or find(text, "%f[%d]0%d") then return nil end
  a, b, c, d = tointeger(a), tointeger(b), tointeger(c), tointeger(d)
  if a > 255 or b > 255 or c > 255 or d > 255 then return nil end
  return a << 24 | b << 16 | c << 8 | d
end

--- Splits "a:b:c" into its 16-bit words; an IPv4 tail gives two. Appends to `words`.
local function words6(text, words, tail_allowed)
  if text == "" then return true end
  if text:find("^:") or text:find(":$") or text:find("::", 1, true) then return false end
  local from = 1
  while true do
    local colon = text:find(":", from, true)
    local part = text:sub(from, colon and colon - 1)
    if part:find("^%x%x?%x?%x?$") then
      words[#words + 1] = tonumber(part, 16)
    else
      local value = not colon and tail_allowed and parse4(part)
      if not value then return false end
      words[#words + 1] = value >> 16
      words[#words + 1] = value & 0xffff
    end
    if not colon then return true end
    from = colon + 1
  end
end

local function parse6(text)
  local words = {}
  local gap = text:find("::", 1, true)
  if gap then
    local back = {}
    if not words6(text:sub(1, gap - 1), words, false) then return nil end
    if not words6(text:sub(gap + 2), back, true) then return nil end
    if #words + #back > 7 then return nil end
    for _ = 1, 8 - #words - #back do words[#words + 1] = 0 end
    for i = 1, #back do words[#words + 1] = back[i] end
  elseif not words6(text, words, true) then
    return nil
  end
  if #words ~= 8 then return nil end
  local hi = words[1] << 48 | words[2] << 32 | words[3] << 16 | words[4]
  local lo = words[5] << 48 | words[6] << 32 | words[7] << 16 | words[8]
  return hi, lo
end

--- Is this an IPv6 number in ::ffff:0:0/96?
---@param hi integer
---@param lo integer
---@return boolean
function M.is_mapped(hi, lo)
  return hi == 0 and lo >> 32 == 0xffff
end

--- Parses a numeric address; only the forms that inet_pton takes.
---@param text string
---@return integer? family  4 or 6
---@return integer? hi
---@return integer? lo
function M.parse(text)
  if not find(text, ":", 1, true) then
    local value = parse4(text)
    if value then return 4, 0, value end
    return nil
  end
  local hi, lo = parse6(text)
  if hi then return 6, hi, lo end
  return nil
end

--- Like parse, and a v4-mapped IPv6 address becomes the IPv4 address.
---@param text string
---@return integer? family
---@return integer? hi
---@return integer? lo
function M.parse_flat(text)
  local family, hi, lo = M.parse(text)
  if family == 6 and M.is_mapped(hi, lo) then return 4, 0, lo & 0xffffffff end
  return family, hi, lo
end

local function format4(value)
  return ("%d.%d.%d.%d"):format(value >> 24 & 255, value >> 16 & 255, value >> 8 & 255,
    value & 255)
end

local function format6(hi, lo)
  local words = {}
  for i = 0, 3 do
    words[i + 1] = hi >> (48 - 16 * i) & 0xffff
    words[i + 5] = lo >> (48 - 16 * i) & 0xffff
  end
  local best, best_len, at = 0, 1, 1
  while at <= 8 do
    local stop = at
    while words[stop] == 0 do stop = stop + 1 end
    if stop - at > best_len then best, best_len = at, stop - at end
    at = stop + 1
  end
  if best == 1 and (best_len == 6 or best_len == 5 and words[6] == 0xffff) then
    return (best_len == 6 and "::" or "::ffff:") .. format4(lo & 0xffffffff)
  end
  local parts, gap_done = {}, false
  for i = 1, 8 do
    if best > 0 and i >= best and i < best + best_len then
      if not gap_done then
        parts[#parts + 1] = (i == 1 and ":" or "") .. (best + best_len == 9 and ":" or "")
        gap_done = true
      end
    else
      parts[#parts + 1] = ("%x"):format(words[i])
    end
  end
  return table.concat(parts, ":")
end

--- The text form, as inet_ntop writes it.
---@param family integer
---@param hi integer
---@param lo integer
---@return string
function M.format(family, hi, lo)
  if family == 4 then return format4(lo) end
  return format6(hi, lo)
end

--- The masks of a prefix length: high half, low half.
---@param family integer
---@param len integer
---@return integer hi
---@return integer lo
function M.mask(family, len)
  if family == 4 then return 0, (0xffffffff << (32 - len)) & 0xffffffff end
  if len <= 64 then return len == 0 and 0 or -1 << (64 - len), 0 end
  return -1, -1 << (128 - len)
end

--- Prefix text ("10.0.0.0/8" or an address) to numbers. On failure nil and one of "address",
--- "length", "host" (bits beyond the prefix), "mapped"; for "host" and "mapped" also the corrected text.
---@param text string
---@return integer? family
---@return integer|string hi_or_what
---@return integer|string|nil lo_or_fixed
---@return integer? len
function M.parse_prefix(text)
  local slash = find(text, "/", 1, true)
  local family, hi, lo = M.parse(slash and sub(text, 1, slash - 1) or text)
  if not family then return nil, "address" end
  if family == 6 and M.is_mapped(hi, lo) then return nil, "mapped", format4(lo & 0xffffffff) end
  local bits = family == 4 and 32 or 128
  local len = bits
  if slash then
    local len_text = sub(text, slash + 1)
    len = (find(len_text, "^[1-9]%d?%d?$") or len_text == "0") and tointeger(len_text)
    if not len or len > bits then return nil, "length" end
    local mask_hi, mask_lo = M.mask(family, len)
    if hi & mask_hi ~= hi or lo & mask_lo ~= lo then
      return nil, "host", M.format(family, hi & mask_hi, lo & mask_lo) .. "/" .. len
    end
  end
  return family, hi, lo, len
end

local function above(hi_a, lo_a, hi_b, lo_b)
  return ult(hi_b, hi_a) or hi_a == hi_b and ult(lo_b, lo_a)
end

--- Is address a beyond address b?
M.above = above

--- The prefixes that cover exactly first..last (both of one family).
---@param family integer
---@return table[] prefixes  { family, hi, lo, len }
function M.range_prefixes(family, first_hi, first_lo, last_hi, last_lo)
  local bits = family == 4 and 32 or 128
  local list, hi, lo = {}, first_hi, first_lo
  while true do
    local size, end_hi, end_lo = 0, hi, lo
    while size < bits do
      local bit_hi = size >= 64 and 1 << (size - 64) or 0
      local bit_lo = size < 64 and 1 << size or 0
      if hi & bit_hi ~= 0 or lo & bit_lo ~= 0 then break end
      local next_hi, next_lo = end_hi | bit_hi, end_lo | bit_lo
      if above(next_hi, next_lo, last_hi, last_lo) then break end
      size, end_hi, end_lo = size + 1, next_hi, next_lo
    end
    list[#list + 1] = { family = family, hi = hi, lo = lo, len = bits - size }
    if end_hi == last_hi and end_lo == last_lo then return list end
    lo = end_lo + 1
    hi = lo == 0 and end_hi + 1 or end_hi
  end
end

local function private4(v)
  local a, b, c = v >> 24 & 255, v >> 16 & 255, v >> 8 & 255
  return a == 0 or a == 10 or a == 127 or (a == 100 and b & 0xc0 == 64)
    or (a == 169 and b == 254) or (a == 172 and b & 0xf0 == 16) or (a == 192 and b == 168)
    or (a == 192 and b == 0 and c == 0) or a >= 224
end

--- Addresses that a name must not lead to unless its rule says private = true.
---@return boolean
function M.is_private(family, hi, lo)
  if family == 4 then return private4(lo) end
  if hi == 0 and lo >> 32 == 0 then return true end -- ::, ::1, v4-compatible
  if M.is_mapped(hi, lo) then return private4(lo & 0xffffffff) end
  -- Where the IPv4 address inside is not certain (local-use NAT64, Teredo), it counts as private.
  if hi >> 16 == 0x0064ff9b0001 or hi >> 32 == 0x20010000 then return true end
  if hi == 0x0064ff9b00000000 and lo >> 32 == 0 then return private4(lo & 0xffffffff) end
  if hi == 0 and lo >> 32 == 0xffff0000 then return private4(lo & 0xffffffff) end -- translated
  if hi >> 48 == 0x2002 then return private4(hi >> 16 & 0xffffffff) end -- 6to4
  local first = hi >> 56
  return first & 0xfe == 0xfc or first == 0xff or first == 0xfe and hi >> 48 & 0xc0 >= 0x80
end

return M
