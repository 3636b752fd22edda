-- Reads audit logs: OCSF events, one JSON object a line, as src/core/record_ocsf.c writes them. A line at a time, in
-- bounded memory; a line that is no record is reported with its number and does not stop the reading.
local json = require("lattice.json")

local M = {}

local CHUNK = 1 << 16
local MAX_LINE = 1 << 20

---@class lattice.audit.Record
---@field at integer      line in the file
---@field raw string      the line itself
---@field seq integer     number in the run
---@field line? integer   number among the records meant for this file
---@field time integer    milliseconds since the epoch
---@field run string      id of the run
---@field run_name? string
---@field kind string     "verdict", "close", "dns", "unix", "start", "exit", "reload", "loss", "selfcheck", "handler",
---                        "agent", "operator"
---@field action string   "allow", "deny", "drop", "ask", "audit"
---@field passed boolean  the program got through (also where audit_only says: against the policy)
---@field audit_only boolean
---@field rule integer
---@field where? string
---@field text? string
---@field generation integer
---@field dir? "out"|"in"
---@field proto? integer
---@field addr? string    the far end
---@field port? integer   the destination's
---@field name? string
---@field pid? integer
---@field program? string
---@field exe? string
---@field uid? integer
---@field bytes_out? integer
---@field bytes_in? integer
---@field duration_ns? integer
---@field qtype? integer
---@field rcode? integer
---@field lost? integer
---@field status? integer

---@class lattice.audit.Problem
---@field at integer   line in the file
---@field what string
---@field torn boolean the last line, cut off while it was written

-- The value at a path of keys, if it has the type ("integer", "string", "boolean"); nil when it is not there. A value
-- of another type is an error of the record.
local function get(t, kind, ...)
  for i = 1, select("#", ...) do
    if type(t) ~= "table" then return nil end
    t = t[select(i, ...)]
  end
  if t == nil or t == json.null then return nil end
  if (kind == "integer" and math.type(t) or type(t)) ~= kind then
    error({ what = ("'%s' is no %s"):format(table.concat({ ... }, "."), kind) })
  end
  return t
end

local function need(t, kind, ...)
  local value = get(t, kind, ...)
  if value == nil then error({ what = ("'%s' is missing"):format(table.concat({ ... }, ".")) }) end
  return value
end

local function count(t, ...)
  local value = get(t, "integer", ...)
  if value and value < 0 then error({ what = ("'%s' is negative"):format(table.concat({ ... }, ".")) }) end
  return value
end

local function endpoint(record, event)
  local direction = get(event, "integer", "connection_info", "direction_id")
  record.proto = count(event, "connection_info", "protocol_num")
  if direction == 1 or direction == 2 then record.dir = direction == 1 and "in" or "out" end
  local far = record.dir == "in" and "src_endpoint" or "dst_endpoint"
  record.addr = get(event, "string", far, "ip")
  record.port = count(event, "dst_endpoint", "port")
  record.name = get(event, "string", "unmapped", "lattice", "name") or get(event, "string", far, "hostname")
end

local function user_id(text) return math.tointeger(tonumber(text or "")) end

local function process(record, event)
  local at = "actor"
  record.uid = user_id(get(event, "string", at, "user", "uid")) -- an operator: no program of theirs is known
  if get(event, "integer", "actor", "process", "pid") == nil then return end
  record.pid = count(event, at, "process", "pid")
  record.program = get(event, "string", at, "process", "name")
  record.exe = get(event, "string", at, "process", "file", "path")
  record.uid = user_id(get(event, "string", at, "process", "user", "uid"))
end

-- Throws { what = ... } when the event is no record of ours.
local function convert(event)
  local own = type(event.unmapped) == "table" and event.unmapped.lattice
  if type(own) ~= "table" then error({ what = "it has no unmapped.lattice: not a record of Lattice" }) end
  local record = {
    seq = count(event, "metadata", "sequence") or need(event, "integer", "metadata", "sequence"),
    time = count(event, "time") or need(event, "integer", "time"),
    run = get(event, "string", "metadata", "correlation_uid") or "",
    kind = need(own, "string", "kind"),
    action = need(own, "string", "action"),
    audit_only = get(own, "boolean", "audit_only") or false,
    rule = count(own, "rule") or 0,
    generation = count(own, "generation") or 0,
    policy = get(event, "string", "policy", "name"),
    by_handler = get(own, "boolean", "by_handler") or false,
  }
  for _, key in ipairs({ "line", "errno", "duration_ns", "qtype", "rcode", "lost" }) do
    record[key] = count(own, key)
  end
  record.where, record.text = get(own, "string", "where"), get(own, "string", "text")
  record.run_name, record.mode = get(own, "string", "run"), get(own, "string", "mode")
  record.status = get(own, "integer", "status")
  record.bytes_out, record.bytes_in = count(event, "traffic", "bytes_out"), count(event, "traffic", "bytes_in")
  record.passed = record.action == "allow" or record.action == "audit" or record.audit_only
  endpoint(record, event)
  process(record, event)
  return record
end

--- One line to a record; nil and what is wrong with it.
---@param text string
---@return lattice.audit.Record?
---@return string? what
function M.parse(text)
  local event, why = json.decode(text)
  if type(event) ~= "table" then return nil, "not a JSON object: " .. (why or type(event)) end
  local ok, record = pcall(convert, event)
  if ok then
    record.raw = text
    return record
  end
  if type(record) ~= "table" then error(record, 0) end
  return nil, record.what
end

-- Lines of a file, each with whether it ended in a newline; a line beyond MAX_LINE is given as false.
local function lines(file)
  local buffer, at, ended, skipping = "", 1, false, false
  return function()
    while true do
      local stop = buffer:find("\n", at, true)
      if stop then
        local line = buffer:sub(at, stop - 1)
        at = stop + 1
        if skipping then
          skipping = false
          return false, true
        end
        return line, true
      end
      if ended then
        local rest = buffer:sub(at)
        buffer, at = "", 1
        if skipping then
          skipping = false
          return false, false
        end
        if rest == "" then return nil end
        return rest, false
      end
      if #buffer - at >= MAX_LINE then
        skipping, buffer, at = true, "", 1
      end
      local more = file:read(CHUNK)
      if more then
        buffer, at = (skipping and "" or buffer:sub(at)) .. more, 1
      else
        ended = true
      end
    end
  end
end

--- The records of an open file. What is no record goes to on_problem (if given) and is left out.
---@param file file*
---@param on_problem? fun(problem: lattice.audit.Problem)
---@return fun(): lattice.audit.Record?
function M.each(file, on_problem)
  local next_line, at = lines(file), 0
  return function()
    while true do
      local text, whole = next_line()
      if text == nil then return nil end
      at = at + 1
      local record, what = nil, "the line is longer than 1 MB"
      if text then record, what = M.parse(text) end
      if record then
        record.at = at
        return record
      end
      if on_problem then on_problem({ at = at, what = what, torn = not whole }) end
    end
  end
end

--- The records of a file by its path ("-": stdin). Throws when it cannot be opened.
---@param path string
---@param on_problem? fun(problem: lattice.audit.Problem)
---@return fun(): lattice.audit.Record?
---@return nil
---@return nil
---@return file* closed when a generic for ends
function M.records(path, on_problem)
  local file = path == "-" and io.stdin or assert(io.open(path, "rb"))
  return M.each(file, on_problem), nil, nil, file
end

return M
