-- Audit lines as src/core/record_ocsf.c writes them, with what a test wants to be different.
local json = require("lattice.json")

local M = {}

local function base(kind, fields)
  return {
    time = fields.time or 1790000000123, class_uid = 4001, activity_id = 1,
    metadata = { sequence = fields.seq or 1, correlation_uid = fields.run or "r1", version = "1.6.0" },
    policy = { name = "agent", version = "1" },
    unmapped = { lattice = {
      kind = kind, action = fields.action or "allow", rule = fields.rule or 0, generation = 1,
      line = fields.line or fields.seq or 1, where = fields.where or "default", text = fields.text,
      name = fields.name, audit_only = fields.audit_only, run = "agent", mode = "user",
      lost = fields.lost, status = fields.status, qtype = fields.qtype, rcode = fields.rcode,
    } },
  }
end

--- The JSON line of a record of this kind.
---@param kind string
---@param fields? table
---@return string
function M.line(kind, fields)
  fields = fields or {}
  local event = base(kind, fields)
  if kind == "verdict" or kind == "close" then
    local incoming = fields.dir == "in"
    local far = { ip = fields.addr or "203.0.113.9", hostname = fields.name }
    local near = { ip = "192.0.0.2" }
    event.src_endpoint, event.dst_endpoint = incoming and far or near, incoming and near or far
    event.src_endpoint.port, event.dst_endpoint.port = 40000, fields.port or 443
    event.connection_info = { direction_id = incoming and 1 or 2, protocol_num = fields.proto or 6 }
  end
  if fields.program then
    event.actor = { process = { pid = 812, name = fields.program,
      file = { path = "/usr/bin/" .. fields.program }, user = { uid = "1000" } } }
  end
  return json.encode(event)
end

--- A temporary file with this text; it is removed when the variable that holds it goes (<close>).
---@param text string
---@return table file  its path is file.path
function M.file(text)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  return setmetatable({ path = path }, { __close = function() os.remove(path) end })
end

return M
