-- Lets specs find lua/ when they run from the top of the tree; the name returned is the top folder.
local top = "."
package.path = top .. "/lua/?.lua;" .. top .. "/lua/?/init.lua;" .. package.path

local M = { top = top }

--- The text of a shipped policy, as the program's own look-up gives it.
---@param name string
---@return string?
function M.shipped(name)
  local file = io.open(("%s/policies/%s.lua"):format(top, name), "rb")
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return text
end

--- A whole file.
function M.read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

return M
