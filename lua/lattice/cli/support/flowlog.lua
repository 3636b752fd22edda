-- The flows of an audit log (OCSF Network Activity, JSON lines), each once with how often it was seen.
local policy = require("lattice.policy")

local M = {}

local MAX_LINE = 1 << 20

local function decoder()
  local found, json = pcall(require, "lattice.json")
  if not found then json = require("dkjson") end
  return function(text)
    local ok, value = pcall(json.decode, text)
    return ok and type(value) == "table" and value or nil
  end
end

local function integer(value, low, high)
  value = math.tointeger(value)
  return value and value >= low and value <= high and value or nil
end

local function endpoint(record, name)
  return type(record[name]) == "table" and record[name] or {}
end

--- The flow of one record; nil for records of other kinds (close, DNS, start, ...).
---@param record table
---@return table? flow
function M.flow(record)
  local connection = endpoint(record, "connection_info")
  if record.class_uid ~= 4001 or record.activity_id ~= 1 and record.activity_id ~= 5 then return nil end
  local proto = integer(connection.protocol_num, 1, 254)
  local dir = connection.direction_id == 1 and "in" or connection.direction_id == 2 and "out"
  if not proto or not dir then return nil end
  local far = endpoint(record, dir == "out" and "dst_endpoint" or "src_endpoint")
  local flow = { dir = dir, proto = proto, port = integer(endpoint(record, "dst_endpoint").port, 0, 65535) }
  local family, hi, lo
  if type(far.ip) == "string" then family, hi, lo = policy.addr.parse_flat(far.ip) end
  if family then flow.addr = policy.addr.format(family, hi, lo) end
  local name = type(far.hostname) == "string" and policy.names.normalize(far.hostname)
  if name then flow.names = { name } end
  if not flow.addr and not name then return nil end
  if (proto == 6 or proto == 17) and not flow.port then return nil end
  return flow
end

--- Reads a log. Lines that are no JSON are counted and left out.
---@param path string
---@return table[]? flows  { flow, text, count }, in the order of their first record
---@return string? trouble
function M.read(path)
  local file, why = io.open(path, "rb")
  if not file then return nil, why end
  local decode = decoder()
  local flows, known, bad = {}, {}, 0
  for line in file:lines() do
    local record = #line <= MAX_LINE and decode(line)
    if not record then
      bad = bad + 1
    else
      local flow = M.flow(record)
      local text = flow and policy.print.flow(flow)
      if text and known[text] then
        known[text].count = known[text].count + 1
      elseif text then
        known[text] = { flow = flow, text = text, count = 1 }
        flows[#flows + 1] = known[text]
      end
    end
  end
  file:close()
  return flows, bad > 0 and ("%s: %d lines are no JSON objects"):format(path, bad) or nil
end

return M
