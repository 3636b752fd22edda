-- The words that are no rules: where audit records go, which unix sockets may be reached, limits. Each checks its
-- argument at once and adds to the load (see words.lua for ctx).
local suggest = require("lattice.policy.suggest")
local terms = require("lattice.policy.terms")

local M = {}

local markers = setmetatable({}, { __mode = "k" }) -- what file, unix and syslog returned

local function size_or_none(v) return v == 0 and 0 or terms.size(v) end

local limit_readers = {
  memory = { terms.size, "a size such as \"2G\"" },
  swap = { size_or_none, "a size, or 0 for none" },
  file_size = { terms.size, "a size such as \"100M\"" },
  stack = { terms.size, "a size such as \"8M\"" },
  core = { size_or_none, "a size, or 0 for no core files" },
  cpu_time = { terms.seconds, "a time such as \"10m\"" },
  io = { terms.size, "bytes a second, such as \"50M\"" },
  cpu = { function(v) return type(v) == "number" and v > 0 and v <= 4096 and v end, "cores, such as 1.5" },
  pids = { function(v) return math.type(v) == "integer" and v > 0 and v < 1 << 22 and v end, "a number" },
  files = { function(v) return math.type(v) == "integer" and v > 0 and v < 1 << 30 and v end, "a number" },
}
local route_words = {
  "all", "allow", "ask", "audit", "deny", "dns", "drop", "reload", "run", "unix",
}
local function contains(list, value)
  for _, one in ipairs(list) do
    if one == value then return true end
  end
  return false
end

local function describe(value)
  if type(value) == "string" then return ("'%s'"):format(value:sub(1, 60)) end
  if type(value) == "number" or type(value) == "boolean" then return tostring(value) end
  return "a " .. type(value)
end

M.contains, M.describe = contains, describe

--- What a word such as file returns: recognised by what takes it.
---@param kind "file"|"unix"|"syslog"
---@param target? string
function M.marker(kind, target)
  local value = { kind = kind, target = target }
  markers[value] = kind
  return value
end

--- Is this the value of such a word?
function M.is_marker(value) return markers[value] ~= nil end

--- Does `audit` get a route, or a rule?
function M.is_route(arg)
  if type(arg) ~= "table" then return false end
  return arg[1] ~= nil or markers[arg.to] ~= nil or arg.rotate ~= nil
end

function M.add_route(ctx, arg)
  local source, line = ctx.place()
  local function bad(...) ctx:problem(source, line, ...) end
  local route = { match = {} }
  for _, word in ipairs(arg) do
    if type(word) ~= "string" or not contains(route_words, word) then
      return bad(("audit cannot select %s"):format(describe(word)), table.concat(route_words, ", "),
        type(word) == "string" and suggest.nearest(word, route_words) or nil)
    end
    route.match[#route.match + 1] = word
  end
  if #route.match == 0 then route.match[1] = "all" end
  for key in pairs(arg) do
    if math.type(key) ~= "integer" and key ~= "to" and key ~= "rotate" then
      return bad(("unknown key '%s' in audit"):format(tostring(key)), "to, rotate",
        suggest.nearest(tostring(key), { "to", "rotate" }))
    end
  end
  local to = markers[arg.to] and arg.to
  if not to then
    return bad("audit names no sink", "to = file \"...\", to = unix \"...\" or to = syslog()")
  end
  if to.kind == "unix" then to.consumed = true end
  route.sink, route.target = to.kind, to.target
  if arg.rotate ~= nil then
    route.rotate = terms.size(arg.rotate)
    if not route.rotate or to.kind ~= "file" then
      return bad("rotate is a size, and only for a file", "such as \"10M\"")
    end
  end
  ctx.routes[#ctx.routes + 1] = route
end

local function path_problem(path)
  if type(path) ~= "string" or path == "" then return "a path is a text" end
  if path:find("%c") then return "a path has no control characters" end
  if #path > 4095 then return "the path is too long" end
  return nil
end

function M.add_unix(ctx, arg)
  local source, line = ctx.place()
  local list = type(arg) == "table" and arg or { arg }
  local made = M.marker("unix", list[1])
  for _, path in ipairs(list) do
    local message = path_problem(path)
    if not message and path:sub(1, 1) ~= "/" then message = "the path of a unix socket is absolute" end
    if not message and #path > 107 then message = "the path of a unix socket has at most 107 bytes" end
    if message then
      ctx:problem(source, line, message, "such as unix \"/run/service.sock\"")
    else
      ctx.unix[#ctx.unix + 1] = { path = path, marker = made }
    end
  end
  if #list == 0 then ctx:problem(source, line, "unix names no path") end
  return made
end

function M.add_limits(ctx, arg)
  local source, line = ctx.place()
  if type(arg) ~= "table" then return ctx:problem(source, line, "limits takes a table") end
  for key, value in pairs(arg) do
    local reader = limit_readers[key]
    local read = reader and reader[1](value)
    if not reader then
      local known = suggest.keys(limit_readers)
      ctx:problem(source, line, ("unknown limit '%s'"):format(tostring(key)), table.concat(known, ", "),
        suggest.nearest(tostring(key), known))
    elseif not read then
      ctx:problem(source, line, ("limit %s cannot be %s"):format(key, describe(value)), reader[2])
    elseif not ctx.limits[key] or source.depth <= ctx.limits[key].depth then
      ctx.limits[key] = { value = read, depth = source.depth }
    end
  end
end

--- file "x.jsonl" as a sink.
function M.file(ctx, path)
  local source, line = ctx.place()
  local message = path_problem(path)
  if message then ctx:problem(source, line, message, "file \"audit.jsonl\"") end
  return M.marker("file", path)
end

return M
