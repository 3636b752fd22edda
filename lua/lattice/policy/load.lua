-- From policy files to one policy, or to a list of problems: run the files in the restricted environment, then check
-- and lower what they said, then (if asked) judge their own tests. Nothing outside is touched.
local check = require("lattice.policy.check")
local env = require("lattice.policy.env")
local errors = require("lattice.policy.errors")
local eval = require("lattice.policy.eval")
local flow = require("lattice.policy.flow")
local guard = require("lattice.policy.guard")
local lower = require("lattice.policy.lower")
local suggest = require("lattice.policy.suggest")
local terms = require("lattice.policy.terms")
local words = require("lattice.policy.words")

local M = {}

local MAX_DEPTH = 16
local MAX_SOURCES = 256
local MAX_BYTES = 32 << 20
local MANY_RULES = 20000
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

local function new_loader(opts)
  local self = setmetatable({
    opts = opts, problems = errors.new(), guard = guard.new(opts.budget), files = {}, count = 0,
    included = {},
    rules = {}, sets = {}, routes = {}, unix = {}, tests = {}, limits = {}, handlers = {},
    on_error = {},
  }, Loader)
  function self.place()
    local source, line = self.guard:place(4)
    if not source then source, line = self.guard:definition(self.guard.running) end
    return source, line
  end
  function self.wrap(fn) return self.guard:wrap(fn) end
  local names, methods = env.new(self.guard)
  self.guard.methods = methods
  for name, word in pairs(words.new(self)) do names[name] = self.guard:outside(word) end
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
        error(("'%s' is a word of the policy language and cannot be assigned"):format(tostring(key)), 0)
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
  source.chunk = "@" .. source.name
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
  local shipped = self.opts.shipped or M.shipped
  if name:find("^[%w_-]+$") then
    local text = shipped(name)
    if text then return { name = "policies/" .. name .. ".lua", text = text, shipped = true } end
    local near = suggest.nearest(name, SHIPPED)
    return nil, ("there is no shipped policy '%s'"):format(name), "a path ends in .lua", near
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
  local text, why = (self.opts.read or read_file)(path)
  if not text then return nil, ("cannot read %s: %s"):format(path, (tostring(why):gsub("^.*: ", ""))) end
  return { name = path, text = text }
end

function Loader:include(name, source, line)
  local found, message, expected, near = self:find(name, source)
  if not found then return self:problem(source, line, message, expected, near) end
  local at = source
  while at do
    if at.name == found.name then
      return self:problem(source, line, ("%s includes itself"):format(found.name))
    end
    at = at.from
  end
  -- A second copy of the same rules could never match.
  if self.included[found.name] then return end
  self.included[found.name] = true
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

function Loader:run_sources()
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

--- The mesh as prefixes of the IR.
local function mesh_prefixes(list)
  local dest = require("lattice.policy.dest")
  local out = {}
  for _, text in ipairs(list or {}) do
    local item = type(text) == "string" and dest.classify(text:lower(), {})
    local prefixes = item and item.prefixes or type(text) == "table" and { text } or {}
    for _, p in ipairs(prefixes) do out[#out + 1] = p end
  end
  return out
end

function Loader:lower_rules()
  -- What was stopped on its way to too many rules has its error already; checking them all would take long.
  if #self.problems.list > 0 and #self.rules > MANY_RULES then return {} end
  local checker = check.new(self.problems, self.sets)
  local mesh, rules = mesh_prefixes(self.opts.mesh), {}
  for i, raw in ipairs(self.rules) do
    self.rules[i] = false -- not needed any more: a hundred thousand of them are memory
    local checked = checker:rule(raw)
    if checked then rules[#rules + 1] = lower.rule(checked, #rules + 1, mesh) end
    if checked and checked.subject then
      self.problems:warn(raw.source, raw.line, terms.opens[raw.action]
        and "the subject cannot be judged in user mode: this rule opens nothing there"
        or "the subject cannot be judged in user mode: this rule holds for everything there", nil)
    end
  end
  for _, name in ipairs(suggest.keys(self.sets)) do checker:set_items(name) end
  return rules
end

function Loader:lower_tests()
  local tests = {}
  for _, test in ipairs(self.tests) do
    if type(test.text) ~= "string" then
      self:problem(test.source, test.line, "a test is the text of a flow")
    else
      local parsed, problem = flow.parse(test.text)
      if parsed then
        local line = errors.locate(test.source, test.line, test.text) or test.line
        tests[#tests + 1] = {
          expect = test.expect, flow = parsed, text = test.text, source = test.source, line = line,
          where = test.source.name .. ":" .. line,
        }
      else
        self.problems:report(test.source, test.line, problem, test.text)
      end
    end
  end
  return tests
end

local function policy_name(self)
  if self.name then return self.name.value end
  local first = self.files[1]
  local base = first and first:match("([^/]+)$"):gsub("%.lua$", ""):gsub("[^%w_.-]", "-")
  return base and base ~= "" and base or "command-line"
end

local function assemble(self)
  local rules, tests = self:lower_rules(), self:lower_tests()
  local default = self.default and self.default.value or "deny"
  local limits, unix = {}, {}
  for key, limit in pairs(self.limits) do limits[key] = limit.value end
  for _, entry in ipairs(self.unix) do
    if not entry.marker.consumed then unix[#unix + 1] = entry.path end
  end
  return {
    name = policy_name(self), default = default, files = self.files, limits = limits,
    keep_established = self.keep_established ~= nil and self.keep_established.value,
    audit = self.routes, tests = tests, unix = unix, handlers = self.handlers,
    on_error = self.on_error, rules = rules,
    names_open = lower.names_open(default, rules), warnings = self.problems.warnings,
  }
end

--- The tests of a policy that fail. A test of a shipped file that was included speaks of that file alone.
---@param policy table
---@return table[] failures  { test, verdict, rule? }
function M.failing_tests(policy)
  local failures = {}
  for _, test in ipairs(policy.tests) do
    if not (test.source.shipped and test.source.depth > 0) then
      local verdict = eval.judge(policy, test.flow)
      if verdict.verdict ~= test.expect then
        failures[#failures + 1] = { test = test, verdict = verdict, rule = policy.rules[verdict.rule] }
      end
    end
  end
  return failures
end

local function report_tests(self, policy)
  for _, failure in ipairs(M.failing_tests(policy)) do
    local test, verdict = failure.test, failure.verdict
    local by = failure.rule and ("rule %d, %s: %s"):format(verdict.rule, verdict.where, failure.rule.text)
      or ("the default, %s"):format(policy.default)
    self.problems:report(test.source, test.line, {
      message = ("test failed: expected %s, the verdict is %s by %s"):format(test.expect,
        verdict.verdict, by),
    }, test.text)
  end
end

--- Loads a policy. opts: files, sources ({name, text}), rules_before, shipped (name -> text), read (path -> text | nil,
--- why; default: io.open), mesh (prefixes), run_tests, budget ({ instructions, memory, work }).
---@param opts table
---@return table? policy
---@return table[]? errors  { file, line, col, message, expected, suggestion, text }
function M.load(opts)
  local self = new_loader(opts)
  self:run_sources()
  local policy = assemble(self)
  if #self.problems.list == 0 and opts.run_tests then report_tests(self, policy) end
  if #self.problems.list > 0 then
    self.problems:sort(self.files)
    return nil, self.problems.list
  end
  return policy
end

return M
