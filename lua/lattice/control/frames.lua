-- Frames of the control socket: 4 bytes of length, big-endian, and one JSON object of that length. The same on both
-- sides; docs/control.md has the protocol.
local json = require("lattice.json")

local M = {}

--- The version that requests carry as `v`.
M.VERSION = 1
--- Bytes of one frame: what an agent takes, and what a client takes.
M.MAX_REQUEST = 1 << 20
M.MAX_ANSWER = 16 << 20

local HEADER = 4

---@class lattice.control.Decoder
---@field limit integer
---@field parts string[]
---@field have integer   bytes in parts
---@field need integer?  bytes of the frame that is coming, header included
---@field broken string? why nothing more can be read
local Decoder = {}
Decoder.__index = Decoder

--- Takes bytes as they come. What it holds is bounded by the limit and one read.
---@param limit integer  bytes that a frame may have
---@return lattice.control.Decoder
function M.decoder(limit)
  return setmetatable({ limit = limit, parts = {}, have = 0 }, Decoder)
end

-- All bytes as one string, and nothing else kept.
local function gather(self)
  local text = #self.parts == 1 and self.parts[1] or table.concat(self.parts)
  self.parts = { text }
  return text
end

--- The objects that end in these bytes, in order. nil and a reason when the stream cannot be understood: it ends there.
---@param bytes string
---@return table[]?
---@return string? reason
function Decoder:feed(bytes)
  if self.broken then return nil, self.broken end
  self.parts[#self.parts + 1], self.have = bytes, self.have + #bytes
  local found = {}
  if self.have < (self.need or HEADER) then return found end
  local text, at = gather(self), 1
  while #text - at + 1 >= HEADER do
    local length = string.unpack(">I4", text, at)
    if length > self.limit then
      self.broken = ("a frame of %d bytes; at most %d are taken"):format(length, self.limit)
      break
    end
    self.need = HEADER + length
    if #text - at + 1 < self.need then break end
    local value, why = json.decode(text:sub(at + HEADER, at + self.need - 1))
    if type(value) ~= "table" or #value > 0 then
      self.broken = "a frame that is no JSON object" .. (why and ": " .. why or "")
      break
    end
    found[#found + 1] = value
    at, self.need = at + self.need, nil
  end
  text = text:sub(at)
  self.parts, self.have = { text }, #text
  if self.broken and #found == 0 then return nil, self.broken end
  return found, self.broken
end

-- Strings of others may be no UTF-8, which JSON cannot hold: each byte that is not ASCII becomes \xNN then.
local function scrub(value, depth)
  if type(value) == "string" then
    if utf8.len(value) then return value end
    return (value:gsub("[\x80-\xff]", function(c) return ("\\x%02x"):format(c:byte()) end))
  elseif type(value) == "number" and (value ~= value or value == math.huge or value == -math.huge) then
    return tostring(value)
  elseif type(value) ~= "table" or depth > 60 then
    return value
  end
  local copy = setmetatable({}, getmetatable(value))
  for key, one in pairs(value) do copy[scrub(key, depth + 1)] = scrub(one, depth + 1) end
  return copy
end

--- An object as a frame; nil and why when it cannot be one.
---@param value table
---@param limit integer
---@return string?
---@return string? why
function M.encode(value, limit)
  local ok, text = pcall(json.encode, value)
  if not ok then ok, text = pcall(json.encode, scrub(value, 0)) end
  if not ok then return nil, tostring(text) end
  if #text > limit then
    return nil, ("the answer has %d bytes; at most %d can be sent"):format(#text, limit)
  end
  return string.pack(">s4", text)
end

return M
