-- Problems of a policy: a list that is reported in one go, each with its place.
--
-- A source is { name, text, lines? }. The place of a rule string is found by looking for the string in the lines of
-- its source, from the line of the call on; where it cannot be found (a string that a loop built) the column counts
-- in the string itself and the string is named in the message.
local M = {}

local MAX_ERRORS = 50
local LOOK_AHEAD = 60 -- lines of one table form that are searched

local function split(text)
  local lines = {}
  for line in (text .. "\n"):gmatch("(.-)\r?\n") do lines[#lines + 1] = line end
  return lines
end

--- Where does the text of a rule stand?
---@param source table
---@param line integer  where the search begins
---@param raw string
---@return integer? line
---@return integer? column  of the first character of raw
function M.locate(source, line, raw)
  source.lines = source.lines or split(source.text)
  for _, quote in ipairs({ '"', "'", "" }) do
    for at = line, math.min(line + LOOK_AHEAD, #source.lines) do
      local column = source.lines[at]:find(quote .. raw, 1, true)
      if column then return at, column + #quote end
      if quote == "" and at == line then break end
    end
  end
  return nil
end

--- One error as text: file:line:col: message (expected ...; did you mean ...?)
---@param err table
---@return string
function M.format(err)
  local hints = {}
  if err.expected then hints[#hints + 1] = "expected " .. err.expected end
  if err.suggestion then hints[#hints + 1] = ("did you mean %s?"):format(err.suggestion) end
  local tail = #hints > 0 and (" (%s)"):format(table.concat(hints, "; ")) or ""
  local place = err.file or "policy"
  if err.line then place = place .. ":" .. err.line end
  if err.col then place = place .. ":" .. err.col end
  return place .. ": " .. err.message .. tail
end

local MAX_TEXT = 200

--- Control characters and odd bytes never reach a terminal, and nothing fills it.
local function clean(text)
  text = tostring(text)
  if #text > MAX_TEXT then text = text:sub(1, MAX_TEXT) .. "..." end
  return (tostring(text):gsub("[%c\x7f-\xff]", function(c) return ("\\x%02x"):format(c:byte()) end))
end

---@class lattice.policy.Problems
---@field list table[]
---@field warnings table[]
local Problems = {}
Problems.__index = Problems

---@return lattice.policy.Problems
function M.new() return setmetatable({ list = {}, warnings = {} }, Problems) end

local function add(list, source, line, problem, raw)
  if #list > MAX_ERRORS then return end
  if #list == MAX_ERRORS then problem, raw = { message = "and more: not all problems are shown" }, nil end
  local err = {
    file = source and source.name, line = line, col = nil, text = raw,
    message = clean(problem.message),
    expected = problem.expected and clean(problem.expected),
    suggestion = problem.suggestion and clean(problem.suggestion),
  }
  local offset = (problem.pos or 1) - 1
  if source and line and type(raw) == "string" then
    local at, column = nil, nil
    if raw ~= "" then at, column = M.locate(source, line, raw) end
    if at then
      err.line, err.col = at, column + offset
    else
      err.col = offset + 1
      if #raw > 0 then err.message = ("%s, in \"%s\""):format(err.message, clean(raw:sub(1, 120))) end
    end
  end
  list[#list + 1] = err
end

--- Adds an error. `raw` is the string of the policy that problem.pos counts in.
---@param source table?
---@param line integer?
---@param problem table|string
---@param raw? string
function Problems:report(source, line, problem, raw)
  if type(problem) == "string" then problem = { message = problem } end
  add(self.list, source, line, problem, raw)
end

--- Orders the errors by place: files as they were read, then lines.
---@param files string[]
function Problems:sort(files)
  local order = {}
  for i, name in ipairs(files) do order[name] = order[name] or i end
  for i, err in ipairs(self.list) do err.nth = i end
  table.sort(self.list, function(a, b)
    local file_a, file_b = order[a.file] or 0, order[b.file] or 0
    if file_a ~= file_b then return file_a < file_b end
    if (a.line or 0) ~= (b.line or 0) then return (a.line or 0) < (b.line or 0) end
    if (a.col or 0) ~= (b.col or 0) then return (a.col or 0) < (b.col or 0) end
    return a.nth < b.nth
  end)
  for _, err in ipairs(self.list) do err.nth = nil end
end

--- Adds a warning: the policy is valid, but something in it does less than it seems to.
function Problems:warn(source, line, message, raw)
  add(self.warnings, source, line, { message = message }, raw)
end

return M
