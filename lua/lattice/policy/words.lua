-- The words of a policy. They only record what was said and where; check.lua looks at it afterwards. What a word can
-- refuse by itself (a wrong kind of argument) it reports at once and goes on, so that one run shows every problem.
local settings = require("lattice.policy.settings")
local suggest = require("lattice.policy.suggest")
local terms = require("lattice.policy.terms")

local M = {}

local contains, describe = settings.contains, settings.describe

local MAX_RULES = 250000

local events = { ask = true, connect = true, dns = true }

--- One word that sets a single value; the outermost file wins, two different values there are an error.
local function single(ctx, field)
  return function(value, source, line)
    local old = ctx[field]
    if old and old.depth < source.depth then return end
    if old and old.depth == source.depth and old.value ~= value then
      ctx:problem(source, line, ("%s is given twice: %s here, %s at %s:%d"):format(field,
        describe(value), describe(old.value), old.source.name, old.line))
      return
    end
    ctx[field] = { value = value, depth = source.depth, source = source, line = line }
  end
end

local function rule_word(ctx, action)
  local rules, place = ctx.rules, ctx.place
  return function(arg, options)
    local source, line = place()
    local kind = type(arg)
    if kind ~= "string" and (kind ~= "table" or settings.is_marker(arg)) then
      ctx:problem(source, line, ("%s takes a rule, not %s"):format(action, describe(arg)),
        ("such as %s \"tcp to 10.0.0.0/8 port 443\""):format(action))
    elseif options ~= nil and type(options) ~= "table" then
      ctx:problem(source, line, "the options of a rule are a table", "{ reason = \"...\" }")
    elseif #rules >= MAX_RULES then
      error(("a policy has at most %d rules"):format(MAX_RULES), 0)
    elseif options then
      rules[#rules + 1] = { action = action, arg = arg, options = options, source = source, line = line }
    else -- most rules, in a table of half the size
      rules[#rules + 1] = { action = action, arg = arg, source = source, line = line }
    end
  end
end

local function add_set(ctx, name, elements, source, line)
  local function bad(...) ctx:problem(source, line, ...) end
  local key = type(name) == "string" and name:lower()
  if not key or not key:find("^[%a_][%w_-]*$") then
    return bad(("a set cannot be called %s"):format(describe(name)), "letters, digits, '-', '_'")
  elseif contains({ "any", "host", "mesh", "to", "from", "port", "for", "at", "in", "out" }, key) then
    return bad(("'%s' is a word of the rule language"):format(key))
  elseif ctx.sets[key] then
    local old = ctx.sets[key]
    return bad(("set '%s' is already there, at %s:%d"):format(key, old.source.name, old.line))
  elseif type(elements) ~= "table" or #elements == 0 then
    return bad(("set '%s' has no elements"):format(key), "set \"name\" { \"10.0.0.0/8\", ... }")
  end
  local list = {}
  for field, element in pairs(elements) do
    if math.type(field) ~= "integer" or type(element) ~= "string" then
      return bad(("set '%s' holds %s"):format(key, describe(element)), "a list of texts")
    end
  end
  for i, element in ipairs(elements) do list[i] = element end
  ctx.sets[key] = { elements = list, source = source, line = line }
end

local function add_tests(ctx, arg)
  local source, line = ctx.place()
  if type(arg) ~= "table" then
    return ctx:problem(source, line, "test takes a table", "{ allow = \"tcp to ...\", deny = ... }")
  end
  for _, key in ipairs(suggest.keys(arg)) do
    local flows = arg[key]
    if key ~= "allow" and key ~= "deny" then
      ctx:problem(source, line, ("test cannot expect '%s'"):format(key), "allow or deny",
        suggest.nearest(key, { "allow", "deny" }))
    elseif type(flows) ~= "string" and type(flows) ~= "table" then
      ctx:problem(source, line, "a test is the text of a flow, or a list of those")
    else
      for _, text in ipairs(type(flows) == "table" and flows or { flows }) do
        ctx.tests[#ctx.tests + 1] = { expect = key, text = text, source = source, line = line }
      end
    end
  end
  if arg[1] ~= nil then
    ctx:problem(source, line, "a test says what it expects", "allow = \"...\" or deny = \"...\"")
  end
end

--- The words, bound to one load. ctx: rules, sets, routes, unix, tests, limits, handlers (tables to fill),
--- place() -> source, line; problem(source, line, message, expected?, suggestion?); include(name, source, line);
--- wrap(fn) -> fn.
---@param ctx table
---@return table<string, function>
function M.new(ctx)
  local words = {}
  for _, action in ipairs(terms.action_words) do words[action] = rule_word(ctx, action) end
  local audit_rule = words.audit
  local set_name, set_default = single(ctx, "name"), single(ctx, "default")
  local set_keep = single(ctx, "keep_established")

  function words.audit(arg, options)
    if settings.is_route(arg) then return settings.add_route(ctx, arg) end
    return audit_rule(arg, options)
  end
  function words.policy(name)
    local source, line = ctx.place()
    if type(name) ~= "string" or not name:find("^[%w_.-]+$") or #name > 64 then
      return ctx:problem(source, line, ("a policy cannot be called %s"):format(describe(name)),
        "up to 64 letters, digits, '-', '_', '.'")
    end
    set_name(name, source, line)
  end
  function words.default(action)
    local source, line = ctx.place()
    if not terms.actions[action] then
      return ctx:problem(source, line, ("default cannot be %s"):format(describe(action)),
        table.concat(terms.action_words, ", "),
        type(action) == "string" and suggest.nearest(action, terms.action_words) or nil)
    end
    set_default(action, source, line)
  end
  function words.include(name)
    local source, line = ctx.place()
    if type(name) ~= "string" then
      return ctx:problem(source, line, "include takes a name or a path")
    end
    return ctx:include(name, source, line)
  end
  function words.set(name, elements)
    local source, line = ctx.place()
    if elements ~= nil then return add_set(ctx, name, elements, source, line) end
    return function(list) add_set(ctx, name, list, source, line) end
  end
  function words.on(event, fn, options)
    local source, line = ctx.place()
    if not events[event] then
      return ctx:problem(source, line, ("there is no event %s"):format(describe(event)),
        "ask, connect, dns", type(event) == "string" and suggest.nearest(event, suggest.keys(events)) or nil)
    elseif type(fn) ~= "function" then
      return ctx:problem(source, line, ("on(\"%s\") takes a function"):format(event))
    elseif ctx.handlers[event] then
      return ctx:problem(source, line, ("there is already a handler for '%s'"):format(event))
    end
    if options ~= nil and type(options) ~= "table" then
      return ctx:problem(source, line, ("the options of on(\"%s\") are a table"):format(event),
        "{ on_error = \"deny\" }")
    end
    local verdict = "deny"
    for key, value in pairs(options or {}) do
      if key ~= "on_error" or (value ~= "allow" and value ~= "deny") then
        return ctx:problem(source, line, ("on(\"%s\") does not know %s = %s"):format(event,
          tostring(key), tostring(value)), "{ on_error = \"deny\" } or { on_error = \"allow\" }")
      end
      verdict = value
    end
    ctx.handlers[event] = ctx.wrap(fn)
    ctx.on_error[event] = verdict
  end
  function words.keep_established(value)
    local source, line = ctx.place()
    if value ~= nil and type(value) ~= "boolean" then
      return ctx:problem(source, line, "keep_established takes true or false")
    end
    set_keep(value ~= false, source, line)
  end
  function words.file(path) return settings.file(ctx, path) end
  function words.syslog() return settings.marker("syslog") end
  function words.unix(arg) return settings.add_unix(ctx, arg) end
  function words.limits(arg) return settings.add_limits(ctx, arg) end
  function words.test(arg) return add_tests(ctx, arg) end
  return words
end

return M
