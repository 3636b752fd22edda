-- From policy files to one policy, or to a list of problems: run the files (loader.lua), then check and lower what they
-- said, then (if asked) judge their own tests. Nothing outside is touched.
local check = require("lattice.policy.check")
local dest = require("lattice.policy.dest")
local errors = require("lattice.policy.errors")
local eval = require("lattice.policy.eval")
local fast = require("lattice.policy.fast")
local flow = require("lattice.policy.flow")
local loader = require("lattice.policy.loader")
local lower = require("lattice.policy.lower")
local suggest = require("lattice.policy.suggest")
local terms = require("lattice.policy.terms")

local M = {}

local MANY_RULES = 20000

--- The mesh as prefixes of the IR.
local function mesh_prefixes(list)
  local out = {}
  for _, text in ipairs(list or {}) do
    local item = type(text) == "string" and dest.classify(text:lower(), {})
    local prefixes = item and item.prefixes or type(text) == "table" and { text } or {}
    for _, p in ipairs(prefixes) do out[#out + 1] = p end
  end
  return out
end

-- Tables of C judge addresses: a test of a name that has none wants the rules themselves.
local function tests_have_addresses(tests)
  for _, test in ipairs(tests) do
    if not test.flow.addr then return false end
  end
  return true
end

local function lower_rules(self, tests)
  -- What was stopped on its way to too many rules has its error already; checking them all would take long.
  if #self.problems.list > 0 and #self.rules > MANY_RULES then return {} end
  local checker = check.new(self.problems, self.sets)
  local mesh, rules, quick = mesh_prefixes(self.opts.mesh), {}, fast.new(checker)
  local said, i = self.rules, 1
  local store, take
  if self.opts.quick and tests_have_addresses(tests) then store, take = self.opts.quick() end
  while true do
    if take then i = take(store, said, i, rules, quick) end
    local raw = said[i]
    if not raw then break end
    said[i] = false -- not needed any more: a hundred thousand of them are memory
    i = i + 1
    local rule = quick:rule(raw, #rules + 1)
    rules[#rules + 1] = rule
    local checked = not rule and checker:rule(raw)
    if checked then rules[#rules + 1] = lower.rule(checked, #rules + 1, mesh) end
    if checked and checked.ttl and checked.action ~= "ask" then
      self.problems:warn(raw.source, raw.line, "user mode does not end flows by ttl: it counts for 'ask' only")
    end
    if checked and checked.subject then
      self.problems:warn(raw.source, raw.line, terms.opens[raw.action]
        and "the subject cannot be judged in user mode: this rule opens nothing there"
        or "the subject cannot be judged in user mode: this rule holds for everything there")
    end
  end
  for _, name in ipairs(suggest.keys(self.sets)) do checker:set_items(name) end
  return rules, store
end

local function lower_tests(self)
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
  local tests = lower_tests(self)
  local rules, store = lower_rules(self, tests)
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
    names_open = lower.names_open(default, rules), quick = store, warnings = self.problems.warnings,
    keep_entries = self.opts.keep_entries,
  }
end

--- The tests of a policy that fail. A test of a shipped file that was included speaks of that file alone.
---@param policy table
---@param judge? fun(flow: table): table  instead of the rules themselves, where they are not all tables
---@return table[] failures  { test, verdict, text? }
function M.failing_tests(policy, judge)
  local failures = {}
  for _, test in ipairs(policy.tests) do
    if not (test.source.shipped and test.source.depth > 0) then
      local verdict = judge and judge(test.flow) or eval.judge(policy, test.flow)
      if verdict.verdict ~= test.expect then
        local rule = policy.rules[verdict.rule]
        failures[#failures + 1] = { test = test, verdict = verdict, text = verdict.text or rule and rule.text,
          rule = rule or nil }
      end
    end
  end
  return failures
end

local function report_tests(self, policy)
  local judge = policy.quick and #policy.tests > 0 and self.opts.build(policy) or nil
  for _, failure in ipairs(M.failing_tests(policy, judge)) do
    local test, verdict = failure.test, failure.verdict
    local by = verdict.rule > 0 and ("rule %d, %s: %s"):format(verdict.rule, verdict.where, failure.text)
      or ("the default, %s"):format(policy.default)
    self.problems:report(test.source, test.line, {
      message = ("test failed: expected %s, the verdict is %s by %s"):format(test.expect,
        verdict.verdict, by),
    }, test.text)
  end
end

--- Loads a policy. opts: files, sources ({name, text}), rules_before, shipped (name -> text), read (path -> text | nil,
--- why; default: io.open), mesh (prefixes), run_tests, budget ({ instructions, memory, work }),
--- uncounted (fn, ... -> what fn returns: for work that the number of rules bounds), quick (-> store, take: keeps the common
--- rules in C; they are false in rules), build (policy -> judge: makes tables of it in C, for its tests), keep_entries.
---@param opts table
---@return table? policy
---@return table[]? errors  { file, line, col, message, expected, suggestion, text }
function M.load(opts)
  local self = loader.new(opts)
  self:run()
  local policy = opts.uncounted and opts.uncounted(assemble, self) or assemble(self)
  if #self.problems.list == 0 and opts.run_tests then report_tests(self, policy) end
  if #self.problems.list > 0 then
    self.problems:sort(self.files)
    return nil, self.problems.list
  end
  return policy
end

return M
