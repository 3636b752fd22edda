-- *_test.lua files: expectations about a policy, in the manner of busted.
--
--   use "agent.lua"                                   -- else: the policy of the same name beside it
--   describe("the agent", function()
--     it("reaches its API and nothing private", function()
--       expect.allow("tcp to api.example.com port 443"):by("agent.lua:5")
--       expect.deny { to = "10.0.0.7", port = 22 }:because("staging")
--     end)
--   end)
--
-- A test file is text like a policy: the same restricted environment and the same limits.
local env = require("lattice.policy.env")
local guard = require("lattice.policy.guard")
local policy = require("lattice.policy")

local M = {}

--- A flow given as text, or as { to | from, port, proto = "tcp", dir }.
local function parse_flow(given)
  local text = given
  if type(given) == "table" then
    local to, from = given.to or given.host, given.from
    text = ("%s%s %s %s"):format(from and "in " or "", given.proto or "tcp", from and "from" or "to",
      tostring(from or to))
    if given.port then text = text .. " port " .. tostring(given.port) end
  end
  if type(text) ~= "string" then error("a flow is a text, or a table with to and port", 0) end
  local flow, problem = policy.flow.parse(text)
  if not flow then error(("flow \"%s\": %s"):format(text, problem.message), 0) end
  return flow, text
end

local Result = {}
Result.__index = Result

local function decided_by(state, verdict)
  local rule = state.policy.rules[verdict.rule]
  return rule and verdict.where .. ": " .. rule.text or "the default of " .. state.policy.name
end

--- The deciding rule stands at "file:line" ("default" for the default).
function Result:by(where)
  local found = self.verdict.where
  if found ~= where and found:sub(-#where - 1) ~= "/" .. where then
    error(("expected %s to be decided by %s, it is by %s"):format(self.text, where,
      decided_by(self.state, self.verdict)), 0)
  end
  return self
end

--- The deciding rule gives this reason.
function Result:because(reason)
  if self.verdict.reason ~= reason then
    error(("expected the reason '%s' for %s, it is '%s'"):format(reason, self.text,
      self.verdict.reason or "none"), 0)
  end
  return self
end

local function expectation(state, wanted)
  return function(given)
    local flow, text = parse_flow(given)
    if not state.policy then state.use(state.default_policy) end
    local verdict = policy.eval.judge(state.policy, flow)
    if verdict.verdict ~= wanted and verdict.action ~= wanted then
      error(("expected %s for %s, the verdict is %s by %s"):format(wanted, text, verdict.action,
        decided_by(state, verdict)), 0)
    end
    return setmetatable({ state = state, verdict = verdict, text = text }, Result)
  end
end

--- The words of a test file. The bodies of `it` are kept in `tests`: each runs later, under limits of its own.
local function words(state, file, tests)
  local path, expect = {}, {}
  for _, wanted in ipairs({ "allow", "deny", "drop", "ask", "audit" }) do
    expect[wanted] = state.guard:outside(expectation(state, wanted))
  end
  return {
    expect = expect,
    use = state.guard:outside(function(name) state.use(name) end),
    describe = function(name, body)
      path[#path + 1] = tostring(name)
      body()
      path[#path] = nil
    end,
    it = function(name, body)
      local source, line = state.guard:place(2)
      local where = ("%s:%d"):format(source and source.name or file, line or 1)
      tests[#tests + 1] = {
        where = where, body = body,
        name = table.concat(path, " ") .. (#path > 0 and " " or "") .. tostring(name),
      }
    end,
  }
end

local function run_test(state, file, test)
  local ok, problem = state.guard:run(test.body)
  local at = not ok and problem.source and ("%s:%d: "):format(problem.source.name, problem.line) or ""
  return {
    file = file, where = test.where, name = test.name, ok = ok,
    message = not ok and at .. problem.message or nil,
  }
end

--- Runs one test file; its results are appended. Returns errors when the file or its policy is not valid.
---@param file string
---@param results table[]
---@return table[]? errors
function M.run(file, results)
  local handle, why = io.open(file, "rb")
  local text = handle and handle:read("a")
  if handle then handle:close() end
  if not text then return { { file = file, message = why or "cannot be read" } } end
  local folder = file:match("^(.*/)[^/]*$") or ""
  local state = { guard = guard.new(), default_policy = file:match("([^/]*)_test%.lua$") .. ".lua" }
  local names, methods = env.new(state.guard)
  state.guard.methods = methods
  function state.use(name)
    local path = name:find("^[%w_-]+$") and name or name:sub(1, 1) == "/" and name or folder .. name
    local loaded, errors = policy.load({ files = { path } })
    if not loaded then
      state.errors = errors
      error("the policy " .. path .. " is not valid", 0)
    end
    state.policy = loaded
  end
  local tests = {}
  for name, word in pairs(words(state, file, tests)) do names[name] = word end
  local source = { name = file, text = text }
  local chunk, message = load(text, "@" .. file, "t", setmetatable({}, { __index = names }))
  if not chunk then return { { file = file, message = message } } end
  state.guard.sources["@" .. file] = source
  local ok, problem = state.guard:run(chunk)
  for _, test in ipairs(ok and tests or {}) do
    if not state.errors then results[#results + 1] = run_test(state, file, test) end
  end
  if state.errors then return state.errors end
  if not ok then return { { file = file, line = problem.line, message = problem.message } } end
  return nil
end

return M
