-- Values as text for a terminal: lists of rows as columns, tables sorted and without end (a cycle is named), never longer
-- than asked. Only raw access: a value's metatable has no say. What is shown is valid UTF-8 without control characters.
local M = {}

local codes = { key = "36", text = "32", number = "33", dim = "2", head = "1" }
local DEEPEST = 8
local CELL = 60
local ROWS = 1000
local full = {} -- thrown when the text is long enough

local function escape(c) return ("\\x%02x"):format(c:byte()) end

--- The text with everything that a terminal could take for a command made visible; lines and tabs stay.
---@param text string
---@return string
function M.clean(text)
  if not utf8.len(text) then text = text:gsub("[\x80-\xff]", escape) end
  text = text:gsub("[\0-\8\11-\31\127]", escape)
  -- C1 controls and what turns the direction of writing
  if text:find("\xc2[\x80-\x9f]") then text = text:gsub("\xc2([\x80-\x9f])", escape) end
  if text:find("\xe2\x80[\xaa-\xae]") then text = text:gsub("\xe2\x80[\xaa-\xae]", "?") end
  if text:find("\xe2\x81[\xa6-\xa9]") then text = text:gsub("\xe2\x81[\xa6-\xa9]", "?") end
  return text
end

local function one_line(text)
  return (M.clean(text):gsub("\n", "\\n"):gsub("\t", "\\t"))
end

local function width_of(text) return utf8.len(text) or #text end

local function cut(text, most)
  if width_of(text) <= most then return text end
  return text:sub(1, utf8.offset(text, most) - 1) .. "…"
end

local function writer(options)
  local out = { parts = {}, length = 0 }
  function out.add(text)
    out.length = out.length + #text
    if out.length > options.most then error(full, 0) end
    out.parts[#out.parts + 1] = text
  end
  function out.paint(style, text)
    return options.color and "\27[" .. codes[style] .. "m" .. text .. "\27[0m" or text
  end
  return out
end

local function sort_keys(a, b)
  local ta, tb = type(a), type(b)
  if ta == tb and (ta == "number" or ta == "string") then return a < b end
  if ta ~= tb then return ta < tb end
  return tostring(a) < tostring(b)
end

-- The keys in order: hinted ones first.
local function keys_of(value, hint)
  local keys, seen = {}, {}
  for _, key in ipairs(hint or {}) do
    if rawget(value, key) ~= nil then
      keys[#keys + 1], seen[key] = key, true
    end
  end
  local rest = {}
  for key in next, value do
    if not seen[key] then rest[#rest + 1] = key end
  end
  table.sort(rest, sort_keys)
  return table.move(rest, 1, #rest, #keys + 1, keys)
end

local function scalar(value, out)
  local kind = type(value)
  if kind == "string" then return out.paint("text", '"' .. one_line(value):gsub('"', '\\"') .. '"') end
  if kind == "number" then return out.paint("number", tostring(value)) end
  if kind == "boolean" or kind == "nil" then return tostring(value) end
  return out.paint("dim", "<" .. kind .. ">")
end

local function is_cell(value)
  if type(value) ~= "table" then return true end
  return next(value) == nil or rawlen(value) > 0 and type(rawget(value, 1)) ~= "table"
end

local function is_row(value)
  if type(value) ~= "table" or next(value) == nil or rawlen(value) > 0 then return false end
  for key, cell in next, value do
    if type(key) ~= "string" or not is_cell(cell) then return false end
  end
  return true
end

-- A list of rows: every element a table of plain values with names. Their columns, or nil.
local function columns_of(list, hint)
  local count = rawlen(list)
  if count == 0 then return nil end
  local seen, names = {}, {}
  for i = 1, math.min(count, ROWS) do
    local row = rawget(list, i)
    if not is_row(row) then return nil end
    for key in next, row do
      if not seen[key] then
        seen[key] = true
        names[#names + 1] = key
      end
    end
  end
  if #names > 24 then return nil end
  table.sort(names)
  local ordered = {}
  for _, key in ipairs(hint or {}) do
    if seen[key] then
      ordered[#ordered + 1] = key
      seen[key] = nil
    end
  end
  for _, key in ipairs(names) do
    if seen[key] then ordered[#ordered + 1] = key end
  end
  return ordered
end

local function cell_text(cell)
  if cell == nil then return "" end
  if type(cell) == "string" then return cut(one_line(cell), CELL) end
  if type(cell) == "table" then
    local parts = {}
    for i = 1, math.min(rawlen(cell), 16) do parts[i] = one_line(tostring(rawget(cell, i))) end
    return cut(table.concat(parts, " "), CELL)
  end
  if type(cell) == "number" or type(cell) == "boolean" then return tostring(cell) end
  return "<" .. type(cell) .. ">"
end

local function show_rows(list, columns, out, indent)
  local count = rawlen(list)
  local shown = math.min(count, ROWS)
  local widths, right, cells = {}, {}, {}
  for c, key in ipairs(columns) do
    widths[c], right[c] = width_of(key), true
  end
  for i = 1, shown do
    cells[i] = {}
    for c, key in ipairs(columns) do
      local value = rawget(rawget(list, i), key)
      cells[i][c] = cell_text(value)
      widths[c] = math.max(widths[c], width_of(cells[i][c]))
      if value ~= nil and type(value) ~= "number" then right[c] = false end
    end
  end
  local function line(texts, style)
    local parts = {}
    for c, text in ipairs(texts) do
      local pad = (" "):rep(widths[c] - width_of(text))
      parts[c] = right[c] and pad .. text or c == #texts and text or text .. pad
    end
    local text = indent .. table.concat(parts, "  ")
    out.add(style and out.paint(style, text) or text)
  end
  local heads = {}
  for c, key in ipairs(columns) do heads[c] = one_line(key) end
  line(heads, "head")
  for i = 1, shown do
    out.add("\n")
    line(cells[i])
  end
  if shown < count then out.add(("\n%s… %d more"):format(indent, count - shown)) end
end

local show_value

local function short_form(value, keys, out)
  local parts, length = {}, 0
  local list = rawlen(value)
  for i, key in ipairs(keys) do
    local one = rawget(value, key)
    if type(one) == "table" and next(one) ~= nil or i > 16 then return nil end
    local plain = type(one) == "table" and "{}" or scalar(one, out)
    local named = math.type(key) == "integer" and key >= 1 and key <= list
    parts[i] = named and plain or out.paint("key", one_line(tostring(key))) .. " = " .. plain
    length = length + #(type(one) == "string" and one or "12345678") + #tostring(key)
    if length > 90 then return nil end
  end
  return #parts == 0 and "{}" or "{ " .. table.concat(parts, ", ") .. " }"
end

local function show_table(value, options, out, depth, path)
  if path[value] then return out.add(out.paint("dim", "<cycle>")) end
  if depth > DEEPEST then return out.add(out.paint("dim", "{ … }")) end
  local hint = options.columns and options.columns[value]
  local indent = ("  "):rep(depth)
  local columns = columns_of(value, hint)
  if columns and (rawlen(value) > 1 or depth == 0) then
    if depth > 0 then out.add("\n") end
    return show_rows(value, columns, out, indent)
  end
  local keys = keys_of(value, hint)
  local short = short_form(value, keys, out)
  if short then return out.add(short) end
  path[value] = true
  if depth > 0 then out.add("\n") end
  local list = rawlen(value)
  for i, key in ipairs(keys) do
    if i > 1 then out.add("\n") end
    if i > ROWS then
      out.add(("%s… %d more"):format(indent, #keys - ROWS))
      break
    end
    local name = type(key) == "string" and one_line(key) or "[" .. one_line(tostring(key)) .. "]"
    local listed = math.type(key) == "integer" and key >= 1 and key <= list
    out.add(indent .. (listed and "- " or out.paint("key", name) .. ": "))
    show_value(rawget(value, key), options, out, depth + 1, path)
  end
  path[value] = nil
end

function show_value(value, options, out, depth, path)
  if type(value) == "table" then return show_table(value, options, out, depth, path) end
  out.add(scalar(value, out))
end

--- A value as text.
---@param value any
---@param options { color: boolean?, width: integer?, most: integer, columns: table? }
---@return string
function M.show(value, options)
  local out = writer(options)
  local ok, problem
  if type(value) == "string" and not options.quote then
    ok, problem = pcall(out.add, M.clean(value))
  else
    ok, problem = pcall(show_value, value, options, out, 0, {})
  end
  if not ok and problem ~= full then error(problem, 0) end
  if not ok then
    if #out.parts == 0 then out.parts[1] = M.clean(tostring(value):sub(1, options.most)) end
    out.parts[#out.parts + 1] = "\n… cut: too long to show"
  end
  return table.concat(out.parts)
end

--- A value that JSON can say: functions become their type's name, cycles end, keys are texts, bytes are made visible.
---@param value any
---@param json table  of lattice.json
---@param depth? integer
---@return any
function M.plain(value, json, depth)
  depth = depth or 0
  local kind = type(value)
  if kind == "nil" or value == json.null then return json.null end
  if kind == "string" then return utf8.len(value) and value or M.clean(value) end
  if kind == "boolean" then return value end
  if kind == "number" then
    if value ~= value or value == math.huge or value == -math.huge then return tostring(value) end
    return value
  end
  if kind ~= "table" or depth > 20 then return "<" .. kind .. ">" end
  local list, count = rawlen(value), 0
  for _ in next, value do count = count + 1 end
  local copy = {}
  if count == list then
    for i = 1, list do copy[i] = M.plain(rawget(value, i), json, depth + 1) end
    return json.array(copy)
  end
  for key, one in next, value do
    local name = tostring(key):gsub("\0", "\\0")
    copy[M.clean(name)] = M.plain(one, json, depth + 1)
  end
  return copy
end

return M
