--- One generation of a policy inside its own Lua state: C asks it to load, and later to answer questions.
local M = {}

-- Bits of enum lat_record_kind (src/core/record.h) and of enum lat_action (src/core/flow.h).
local kinds_of = { verdict = 1 << 0, close = 1 << 1, dns = 1 << 2, unix = 1 << 3, start = 1 << 4, exit = 1 << 5,
  reload = 1 << 6, loss = 1 << 7, selfcheck = 1 << 8, handler = 1 << 9, agent = 1 << 10,
  operator = 1 << 11, limit = 1 << 12 }
local decisions = kinds_of.verdict | kinds_of.dns | kinds_of.unix
local action = { deny = 1 << 0, allow = 1 << 1, drop = 1 << 2, ask = 1 << 3, audit = 1 << 4 }
local selects = { dns = kinds_of.dns, unix = kinds_of.unix, reload = kinds_of.reload | kinds_of.agent | kinds_of.operator,
  run = kinds_of.start | kinds_of.exit | kinds_of.selfcheck | kinds_of.handler | kinds_of.agent | kinds_of.operator
    | kinds_of.limit }

--- Audit routes as the C audit takes them: bit masks and paths. Losses go to every sink.
---@param said table[]?  { match, sink, target, rotate } of the words of a policy or of the agent's config
---@return table[]
function M.routes(said)
  local list = {}
  for _, route in ipairs(said or {}) do
    local kinds, actions, all = kinds_of.loss, 0, #(route.match or {}) == 0
    for _, word in ipairs(route.match or {}) do
      if word == "all" then all = true end
      if action[word] then
        kinds, actions = kinds | decisions, actions | action[word]
      else
        kinds = kinds | (selects[word] or 0)
      end
    end
    list[#list + 1] = {
      kinds = all and 0 or kinds, actions = all and 0 or actions, sink = route.sink,
      target = route.target, rotate = route.rotate or 0,
    }
  end
  return list
end

-- Arrays of lattice.json carry a metatable, which the table library of a policy state refuses.
local function plain(list)
  if not list then return nil end
  local copy = {}
  for i, value in ipairs(list) do copy[i] = value end
  return copy
end

--- Loads, checks and tests a policy.
---@param spec_json string  { files, sources, rules_before, mesh } as JSON, options of lattice.policy.load;
--- keep_entries: the generation keeps the match of its rules
---@param read fun(path: string): string?, string?
---@param shipped fun(name: string): string?
---@param uncounted? fun(fn: function, ...): any  calls fn without counting instructions
---@param quick? fun(): userdata, function  keeps the common rules in C: they have no table in policy.rules
---@param build? fun(policy: table): fun(flow: table): table  makes the generation now, to judge its tests by it
---@return table? policy
---@return string info_or_error  a JSON description, or the errors, one a line
function M.load(spec_json, read, shipped, uncounted, quick, build)
  local json = require "lattice.json"
  local policies = require "lattice.policy"
  local spec = json.decode(spec_json)
  local policy, errors = policies.load {
    files = plain(spec.files), sources = plain(spec.sources), rules_before = plain(spec.rules_before),
    mesh = plain(spec.mesh), read = read, shipped = shipped, uncounted = uncounted, run_tests = true,
    quick = quick, build = build, keep_entries = spec.keep_entries,
  }
  if not policy then
    local lines = {}
    for i, err in ipairs(errors) do lines[i] = policies.format_error(err) end
    return nil, table.concat(lines, "\n")
  end
  return policy, json.encode {
    name = policy.name, default = policy.default, rules = #policy.rules, files = policy.files,
    limits = next(policy.limits or {}) and policy.limits or nil, audit = M.routes(policy.audit),
    on_error = next(policy.on_error or {}) and policy.on_error or nil,
  }
end

-- How long, and for whom, an answer holds.
local scopes = { once = true, process = true, run = true, everyone = true }

--- Calls the handler for a question and turns what it returns into a verdict.
--- A handler returns "allow" or "deny" (true and false do too), and may add { scope = "once"|"process"|"run"|"everyone",
--- ttl = seconds, reason = text }. nil from on("connect") means the default; anything else that is odd denies.
---@param policy table
---@param kind "ask"|"connect"|"dns"
---@param flow table
---@return string verdict
---@return "process"|"run"|"everyone"|false scope  false: for this flow alone
---@return integer ttl
---@return string reason
function M.answer(policy, kind, flow)
  local handler = policy.handlers and policy.handlers[kind]
  if not handler then return "deny", false, 0, "no handler" end
  local verdict, options = handler(flow)
  if verdict == nil and kind == "connect" then
    local passes = policy.default == "allow" or policy.default == "audit"
    return passes and "allow" or "deny", false, 0, "default"
  end
  if verdict == true then verdict = "allow" elseif verdict == false then verdict = "deny" end
  if verdict ~= "allow" and verdict ~= "deny" then
    error(("on(%q) returned %s; it must return \"allow\" or \"deny\"")
      :format(kind, tostring(verdict)), 0)
  end
  options = type(options) == "table" and options or {}
  -- an ask rule's own ttl is how long its answers are kept, unless the handler says otherwise
  local rule = kind == "ask" and options.scope == nil and policy.rules[flow.rule]
  local ttl = math.tointeger(tonumber(options.ttl) or rule and rule.ttl or 0) or 0
  local reason = type(options.reason) == "string" and options.reason or ""
  local scope = options.scope
  if scope ~= nil and not scopes[scope] then
    error(("on(%q) returned the scope %s; it must be \"once\", \"process\", \"run\" or \"everyone\"")
      :format(kind, tostring(scope)), 0)
  end
  scope = scope or (ttl > 0 and "run") or "once"
  return verdict, scope ~= "once" and scope, math.max(0, math.min(ttl, 86400 * 365)), reason
end

return M
