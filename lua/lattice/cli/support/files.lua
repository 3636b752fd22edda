-- Files below a folder, by libuv (the program's own, or the lua-luv package in plain Lua).
local M = {}

local MAX_DEPTH = 16

local function walk(uv, folder, depth, found)
  local scan = uv.fs_scandir(folder)
  if not scan or depth > MAX_DEPTH then return end
  while true do
    local name, kind = uv.fs_scandir_next(scan)
    if not name then return end
    local path = folder .. "/" .. name
    if kind == "directory" and name:sub(1, 1) ~= "." then
      walk(uv, path, depth + 1, found)
    elseif kind == "file" and name:find("%.lua$") then
      found[#found + 1] = path
    end
  end
end

--- The Lua files of a path: itself, or all below it, sorted.
---@param path string
---@return string[]? files
---@return string? error
function M.lua_files(path)
  local uv = require("luv")
  local stat, why = uv.fs_stat(path)
  if not stat then return nil, why end
  if stat.type ~= "directory" then return { path } end
  local found = {}
  walk(uv, (path:gsub("(.)/+$", "%1")), 1, found)
  table.sort(found)
  return found
end

return M
