-- Runs the files of a policy in the restricted environment and keeps what their words said: see words.lua. Finds
-- files and shipped policies, follows includes. Nothing outside is touched.
local env = require("lattice.policy.env")
local errors = require("lattice.policy.errors")
local guard = require("lattice.policy.guard")
local suggest = require("lattice.policy.suggest")
local terms = require("lattice.policy.terms")
local words = require("lattice.policy.words")

local M = {}

local MAX_DEPTH = 16
local MAX_SOURCES = 256
local MAX_BYTES = 32 << 20
-- Names offered when an include is not found.
local SHIPPED = { "coding-agent", "default-deny", "guards", "lab-open", "lan-only", "package-install" }

local function read_file(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message:gsub("^.*: ", "") end
  local text = file:read(MAX_BYTES + 1)
  file:close()
  if text == nil then return nil, "it is empty or cannot be read" end
  if #text > MAX_BYTES then return nil, "it is too large" end
  return text
end

--- The text of a policy that is compiled into the program; nil in plain Lua.
---@param name string
---@return string?
function M.shipped(name)
  local found, api = pcall(require, "lattice.api")
  return found and api.text("policies/" .. name .. ".lua") or nil
end

local function short_source(chunk)
  return debug.getinfo(load("", chunk), "S").short_src
end

---@class lattice.policy.Loader
local Loader = {}
Loader.__index = Loader

function Loader:problem(source, line, message, expected, suggestion)
  self.problems:report(source, line, { message = message, expected = expected, suggestion = suggestion })
end

--- opts: see lattice.policy.load; words(loader) -> the words of another language that is written the same way.
---@param opts table
---@return lattice.policy.Loader
function M.new(opts)
  local self = setmetatable({
    opts = opts, problems = errors.new(), guard = guard.new(opts.budget), files = {}, count = 0,
    included = {},
    rules = {}, sets = {}, routes = {}, unix = {}, tests = {}, limits = {}, handlers = {},
    on_error = {},
  }, Loader)
  function self.place()
    local source, line = self.guard:place(3) -- place, this function and the word are not the policy's
    if not source then source, line = self.guard:definition(self.guard.running) end
    return source, line
  end
  function self.wrap(fn) return self.guard:wrap(fn) end
  local names, methods = env.new(self.guard)
  self.guard.methods = methods
  for name, word in pairs((opts.words or words.new)(self)) do names[name] = self.guard:outside(word) end
  self.names = names
  self.known = suggest.keys(names)
  return self
end

--- The globals of one file: the words are read-only, a name that is not there is an error.
function Loader:globals()
  local names, known = self.names, self.known
  return setmetatable({}, {
    __index = function(_, key)
      local value = names[key]
      if value ~= nil then return value end
      if env.refused[key] then
        error(("'%s' is not available: %s"):format(key, env.refused[key]), 0)
      end
      local near = suggest.nearest(tostring(key), known)
      error(("unknown word '%s'%s"):format(tostring(key),
        near and (" (did you mean %s?)"):format(near) or ""), 0)
    end,
    __newindex = function(t, key, value)
      if names[key] ~= nil then
        error(("'%s' is a word of the %s language and cannot be assigned"):format(tostring(key),
          self.opts.language or "policy"), 0)
      end
      rawset(t, key, value)
    end,
  })
end

--- A problem that guard:run returned.
function Loader:trouble(problem, source)
  local place, line = problem.source or source, problem.line
  self.problems:report(place, line, { message = problem.message })
end

--- Compiles and runs one source. Its words add to the loader.
function Loader:execute(source)
  self.count = self.count + 1
  source.chunk = (source.shipped and "=shipped " or "@") .. source.name
  source.short = short_source(source.chunk)
  self.guard.sources[source.chunk] = source
  self.files[#self.files + 1] = source.name
  local text = source.text:gsub("^\xef\xbb\xbf", ""):gsub("^#", "--#", 1)
  -- In 5.4 the message handler of an xpcall outside would see what the parser throws; a pcall keeps it away.
  local _, chunk, message = pcall(load, text, source.chunk, "t", self:globals())
  if not chunk then
    local line, rest
    if message:find("C stack overflow", 1, true) then rest = "the source is nested too deeply" end
    if not rest and message:sub(1, #source.short) == source.short then
      line, rest = message:sub(#source.short + 1):match("^:(%d+): (.*)$")
    end
    self.problems:report(source, tonumber(line) or 1, { message = rest or message })
    return
  end
  local ok, problem = self.guard:run(chunk)
  if not ok then self:trouble(problem, source) end
  return ok
end

--- Finds what `include` (or --policy) names: a shipped policy, or a file.
function Loader:find(name, from)
  local read = self.opts.read or read_file
  if name:find("^[%w_-]+$") then
    local text = (self.opts.shipped or M.shipped)(name)
    if text then return { name = "policies/" .. name .. ".lua", text = text, shipped = true } end
    text = not from and read(name)
    if text then return { name = name, text = text } end
    return nil, ("there is no shipped policy '%s'"):format(name), "a shipped name, or a path as in \"./x.lua\"",
      suggest.nearest(name, SHIPPED)
  end
  if from and from.shipped then return nil, "a shipped policy includes shipped policies only" end
  if name:find("\0", 1, true) then return nil, "a path has no zero byte" end
  local path = name
  if from and name:sub(1, 1) ~= "/" then
    for part in name:gmatch("[^/]+") do
      if part == ".." then
        return nil, "an include stays in the folder of its file, or names an absolute path"
      end
    end
    path = (from.name:match("^(.*/)[^/]*$") or "") .. name
  end
  local text, why = read(path)
  if not text then return nil, ("cannot read %s: %s"):format(path, (tostring(why):gsub("^.*: ", ""))) end
  return { name = path, text = text }
end

function Loader:include(name, source, line)
  local found, message, expected, near = self:find(name, source)
  if not found then return self:problem(source, line, message, expected, near) end
  local at = source
  while at do
    if at.name == found.name and at.shipped == found.shipped then
      return self:problem(source, line, ("%s includes itself"):format(found.name))
    end
    at = at.from
  end
  -- A second copy of the same rules could never match.
  local key = (found.shipped and "shipped " or "file ") .. found.name
  if self.included[key] then return end
  self.included[key] = true
  if source.depth >= MAX_DEPTH or self.count >= MAX_SOURCES then
    return self:problem(source, line, "too many includes")
  end
  found.depth, found.from = source.depth + 1, source
  self:execute(found)
end

--- Rules given on the command line: "allow tcp to ...".
function Loader:rules_before(list)
  local source = { name = "command line", text = table.concat(list, "\n"), depth = 0 }
  for i, text in ipairs(list) do
    local action, rest = text:match("^%s*(%a+)%s+(.*)$")
    if action and terms.actions[action:lower()] then
      self.rules[#self.rules + 1] = { action = action:lower(), arg = rest, source = source, line = i }
    else
      self:problem(source, i, ("'%s' does not begin with an action"):format(text),
        table.concat(terms.action_words, ", "))
    end
  end
end

--- Runs everything that opts name; afterwards rules, sets, tests, ... hold what was said.
function Loader:run()
  local opts = self.opts
  if opts.rules_before and #opts.rules_before > 0 then self:rules_before(opts.rules_before) end
  for _, given in ipairs(opts.sources or {}) do
    self:execute({ name = given.name, text = given.text, depth = 0 })
  end
  for _, path in ipairs(opts.files or {}) do
    local found, message, expected, near = self:find(path, nil)
    if found then
      found.depth = 0
      self:execute(found)
    else
      self.problems:report({ name = path, text = "" }, nil,
        { message = message, expected = expected, suggestion = near })
    end
  end
end

return M
