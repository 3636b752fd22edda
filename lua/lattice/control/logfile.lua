-- The verb `log`: the agent's own audit file, in pieces, for those who may ask the agent but not read the file.
-- args: { offset?, bytes? }; gives { path, size, offset, text }. A negative offset counts from the end.
local uv = require("luv")

local M = {}

local MOST = 1 << 20

--- The file that the agent's configuration sends records to; nil when there is none.
---@param agent lattice.agent.Agent
---@return string?
function M.path(agent)
  for _, route in ipairs(agent.config.audit or {}) do
    if route.sink == "file" and route.target then return route.target end
  end
  return nil
end

local function range(args, size)
  local offset, bytes = args.offset or 0, args.bytes or MOST
  if math.type(offset) ~= "integer" or math.type(bytes) ~= "integer" or bytes < 0 then return nil end
  if offset < 0 then offset = math.max(0, size + offset) end
  return offset, math.min(bytes, MOST)
end

-- JSON holds UTF-8 only; the file is ours and is, but a piece may end within a character: it is cut before it.
local function whole(text)
  for cut = 0, math.min(3, #text) do
    if utf8.len(text, 1, #text - cut) then return text:sub(1, #text - cut) end
  end
  return text
end

--- Answers one request.
---@param agent lattice.agent.Agent
---@param request lattice.control.Request
---@param reply lattice.control.Reply
function M.read(agent, request, reply)
  local path = M.path(agent)
  if not path then
    return reply.error('the agent has no audit file (audit { to = file "audit.jsonl" } in its configuration); '
      .. "lattice watch shows events as they come", "ENOENT", 1)
  end
  local function fail(err) reply.error(err, err:match("^(%u+)"), 1) end
  uv.fs_open(path, "r", 0, function(err, fd)
    if err then return fail(err) end
    uv.fs_fstat(fd, function(err2, stat)
      local offset, bytes
      if not err2 then offset, bytes = range(request.args, stat.size) end
      if not offset then
        uv.fs_close(fd)
        return reply.error(err2 or "log: offset and bytes are whole numbers", "EINVAL", err2 and 1 or 2)
      end
      uv.fs_read(fd, bytes, offset, function(err3, text)
        uv.fs_close(fd)
        if err3 then return fail(err3) end
        reply({ path = path, size = stat.size, offset = offset, text = whole(text) })
      end)
    end)
  end)
end

return M
