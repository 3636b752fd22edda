-- The REPL's side inside the limited state (C module lattice.eval): one environment, the user's text, the result as text.
-- Everything the text may reach is made here; what asks the agent goes through `call` and is judged on the agent's side
-- (calls.lua), so nothing here has to be trusted.
local json = require("lattice.json")
local complete = require("lattice.control.repl.complete")
local environment = require("lattice.control.repl.environment")
local pretty = require("lattice.control.repl.pretty")

local M = {}

-- Nothing of this state reads files or finds modules from here on, whatever a text gets hold of.
-- luacheck: push ignore 122
io.open, os.getenv = nil, nil
_G.require, _G.package = nil, nil
-- luacheck: pop

local limits = { shown = 64 << 10, message = 4096 }
local session -- the environment and what belongs to it

local function clean(text) return pretty.clean(text) end

-- An error value as text: the user's own __tostring may fail or answer nonsense.
local function describe(problem)
  if type(problem) == "string" then return problem end
  local ok, text = pcall(tostring, problem)
  if ok and type(text) == "string" and type(problem) ~= "nil" then return text end
  return ("(error object is a %s value)"):format(type(problem))
end

-- "?x" is help("x"); an expression is tried before statements.
local function compile(code, env)
  local asked = code:match("^%s*%?%s*([%w_.]*)%s*$")
  if asked then code = ("help(%q)"):format(asked) end
  local chunk = load("return " .. code, "=repl", "t", env)
  if chunk then return chunk end
  return load(code, "=repl", "t", env)
end

local function incomplete(message)
  return message:find("<eof>$") ~= nil or message:find("near <eof>", 1, true) ~= nil
end

local function plain_values(values)
  local list = json.array({})
  for i = 1, values.n do list[i] = pretty.plain(values[i], json) end
  return list
end

local function show(request, values, output)
  if request.json then return plain_values(values) end
  for i = 1, values.n do
    if values[i] ~= nil or values.n > 1 then
      if not output(pretty.show(values[i], {
        color = request.color, width = request.width, most = limits.shown, columns = environment.columns,
      }) .. "\n") then break end
    end
  end
  return nil
end

local function eval(request, output)
  local env = session.env
  local chunk, message = compile(request.code, env)
  if not chunk then
    return { ok = false, incomplete = incomplete(message) or nil, error = clean(message) }
  end
  local values = table.pack(xpcall(chunk, describe))
  local ok = table.remove(values, 1)
  values.n = values.n - 1
  if not ok then
    return { ok = false, error = clean(describe(values[1])):sub(1, limits.message) }
  end
  if values.n > 0 then rawset(env, "_", values[1]) end
  -- Showing a value is the user's text, too: a table may be anything.
  local shown, result = pcall(show, request, values, output)
  if not shown then return { ok = false, error = clean(describe(result)):sub(1, limits.message) } end
  return { ok = true, values = result }
end

--- What the C side calls: a request in JSON, a result in JSON.
---@param text string
---@param call fun(name: string, text: string): string?, string?
---@param output fun(text: string): boolean
---@return string
function M.run(text, call, output)
  local request = json.decode(text)
  session = session or { cut = false }
  session.cut = false
  local function bounded(piece)
    if session.cut then return false end
    session.cut = not output(piece)
    return not session.cut
  end
  session.output, session.call = bounded, call
  session.request = request
  session.env = session.env or environment.new(session)
  local result
  if request.op == "complete" then
    result = complete.list(session, request.line)
  else
    result = eval(request, bounded)
  end
  result.cut = session.cut or nil
  return json.encode(result)
end

return M
