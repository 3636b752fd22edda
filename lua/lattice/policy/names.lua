-- Host names in rules and flows; the same rules as src/core/names.h.
local M = {}

local find = string.find

--- Does `name` match `pattern`? Both normalized. "*.x" covers every depth below x, not x.
---@param pattern string
---@param name string
---@return boolean
function M.matches(pattern, name)
  if pattern:byte() ~= 42 then return pattern == name end
  local tail = #pattern - 1
  return #name > tail and name:sub(-tail) == pattern:sub(2)
end

--- Does text look like an address that some resolvers would take as one ("127.1", "0x7f000001")?
---@param text string
---@return boolean
function M.looks_numeric(text)
  local last = text:match("([^.]*)%.?$")
  return find(last, "^%d+$") ~= nil or find(last, "^0[xX]%x*$") ~= nil
end

--- Lower case, without one trailing dot, checked. A wildcard is accepted when `wildcard` is true.
---@param text string
---@param wildcard? boolean
---@return string? name
---@return string? message
---@return integer? at  position in text
function M.normalize(text, wildcard)
  local name = text:lower()
  if name:sub(-1) == "." then name = name:sub(1, -2) end
  local body, shift = name, 0
  if wildcard and name:sub(1, 2) == "*." then body, shift = name:sub(3), 2 end
  if body == "" then return nil, "the name is empty", 1 end
  local odd = find(body, "[^%w._-]")
  if odd then
    local byte = body:byte(odd)
    if body:sub(odd, odd) == "*" then
      return nil, "a wildcard stands only at the start, as *.name", odd + shift
    elseif byte >= 0x80 then
      return nil, "a name is ASCII: write an international name in its xn-- form", odd + shift
    elseif byte < 0x20 or byte == 0x7f then
      return nil, "a control character in a name", odd + shift
    end
    return nil, ("'%s' cannot stand in a name"):format(body:sub(odd, odd)), odd + shift
  end
  if #name > 253 then return nil, "the name is longer than 253 characters", 1 end
  local at = 1
  while true do
    local dot = find(body, ".", at, true)
    local len = (dot or #body + 1) - at
    if len == 0 then return nil, "the name has an empty label", at + shift end
    if len > 63 then return nil, "a label is longer than 63 characters", at + shift end
    if not dot then break end
    at = dot + 1
  end
  if M.looks_numeric(body) then
    return nil, "this is neither an IP address nor a name", 1
  end
  return name
end

return M
