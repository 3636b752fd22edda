-- What a subcommand writes with: results on stdout, messages on stderr, colour only where it is wanted.
local M = {}

local codes = { bold = "1", red = "31", green = "32", yellow = "33", cyan = "36", dim = "2" }

local function wants_color(when)
  if when ~= "auto" then return when == "always" end
  if os.getenv("NO_COLOR") or os.getenv("TERM") == "dumb" then return false end
  return require("lattice.sys").isatty(1)
end

---@class lattice.cli.Output
---@field color boolean  whether results are coloured
---@field as_json boolean  whether the result must be JSON
local Output = {}
Output.__index = Output

--- A line of result.
---@param ... any
function Output:print(...)
  local parts = table.pack(...)
  for i = 1, parts.n do parts[i] = tostring(parts[i]) end
  io.stdout:write(table.concat(parts, "\t"), "\n")
end

--- A result as one line of JSON; `kind` makes its "schema" member "lattice/KIND/v1".
---@param kind string
---@param value table
function Output:json(kind, value)
  value.schema = "lattice/" .. kind .. "/v1"
  io.stdout:write(require("lattice.json").encode(value), "\n")
end

--- A message for people, on stderr.
---@param text string
function Output:message(text)
  io.stderr:write("lattice: ", text, "\n")
end

--- A line on stderr that names its own place ("file:line:col: what is wrong").
---@param text string
function Output:problem(text)
  io.stderr:write(text, "\n")
end

--- The text, painted if colour is wanted: "bold", "dim", "red", "green", "yellow", "cyan".
---@param style string
---@param text string
---@return string
function Output:paint(style, text)
  return self.color and "\27[" .. codes[style] .. "m" .. text .. "\27[0m" or text
end

--- For the parsed arguments of a subcommand.
---@param args table
---@return lattice.cli.Output
function M.new(args)
  return setmetatable({ color = wants_color(args.color or "auto"), as_json = args.json or false },
    Output)
end

return M
