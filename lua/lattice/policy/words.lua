-- The words of a policy. They only record what was said and where; check.lua looks at it afterwards. What a word can
-- refuse by itself (a wrong kind of argument) it reports at once and goes on, so that one run shows every problem.
local suggest = require("lattice.policy.suggest")
local terms = require("lattice.policy.terms")

local M = {}

local MAX_RULES = 250000
local markers = setmetatable({}, { __mode = "k" }) -- what file, unix and syslog returned

local function size_or_none(v) return v == 0 and 0 or terms.size(v) end

local limit_readers = {
  memory = { terms.size, "a size such as \"2G\"" },
  file_size = { terms.size, "a size such as \"100M\"" },
  stack = { terms.size, "a size such as \"8M\"" },
  core = { size_or_none, "a size, or 0 for no core files" },
  cpu_time = { terms.seconds, "a time such as \"10m\"" },
  io = { terms.size, "bytes a second, such as \"50M\"" },
  cpu = { function(v) return type(v) == "number" and v > 0 and v <= 4096 and v end, "cores, such as 1.5" },
  pids = { function(v) return math.type(v) == "integer" and v > 0 and v < 1 << 22 and v end, "a number" },
  files = { function(v) return math.type(v) == "integer" and v > 0 and v < 1 << 30 and v end, "a number" },
}
local route_words = {
  "all", "allow", "ask", "audit", "deny", "dns", "drop", "reload", "run", "unix",
}
local events = { ask = true, connect = true, dns = true }

local function contains(list, value)
  for _, one in ipairs(list) do
    if one == value then return true end
  end
  return false
end

local function describe(value)
  if type(value) == "string" then return ("'%s'"):format(value:sub(1, 60)) end
  if type(value) == "number" or type(value) == "boolean" then return tostring(value) end
  return "a " .. type(value)
end

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
    if kind ~= "string" and (kind ~= "table" or markers[arg]) then
      ctx:problem(source, line, ("%s takes a rule, not %s"):format(action, describe(arg)),
        ("such as %s \"tcp to 10.0.0.0/8 port 443\""):format(action))
    elseif options ~= nil and type(options) ~= "table" then
      ctx:problem(source, line, "the options of a rule are a table", "{ reason = \"...\" }")
    elseif #rules >= MAX_RULES then
      error(("a policy has at most %d rules"):format(MAX_RULES), 0)
    else
      rules[#rules + 1] = { action = action, arg = arg, options = options, source = source, line = line }
    end
  end
end

local function marker(kind, target)
  local value = { kind = kind, target = target }
  markers[value] = kind
  return value
end

local function is_route(arg)
  if type(arg) ~= "table" then return false end
  return arg[1] ~= nil or markers[arg.to] ~= nil or arg.rotate ~= nil
end

local function add_route(ctx, arg)
  local source, line = ctx.place()
  local function bad(...) ctx:problem(source, line, ...) end
  local route = { match = {} }
  for _, word in ipairs(arg) do
    if type(word) ~= "string" or not contains(route_words, word) then
      return bad(("audit cannot select %s"):format(describe(word)), table.concat(route_words, ", "),
        type(word) == "string" and suggest.nearest(word, route_words) or nil)
    end
    route.match[#route.match + 1] = word
  end
  if #route.match == 0 then route.match[1] = "all" end
  for key in pairs(arg) do
    if math.type(key) ~= "integer" and key ~= "to" and key ~= "rotate" then
      return bad(("unknown key '%s' in audit"):format(tostring(key)), "to, rotate",
        suggest.nearest(tostring(key), { "to", "rotate" }))
    end
  end
  local to = markers[arg.to] and arg.to
  if not to then
    return bad("audit names no sink", "to = file \"...\", to = unix \"...\" or to = syslog()")
  end
  if to.kind == "unix" then to.consumed = true end
  route.sink, route.target = to.kind, to.target
  if arg.rotate ~= nil then
    route.rotate = terms.size(arg.rotate)
    if not route.rotate or to.kind ~= "file" then
      return bad("rotate is a size, and only for a file", "such as \"10M\"")
    end
  end
  ctx.routes[#ctx.routes + 1] = route
end

local function path_problem(path)
  if type(path) ~= "string" or path == "" then return "a path is a text" end
  if path:find("%c") then return "a path has no control characters" end
  if #path > 4095 then return "the path is too long" end
  return nil
end

local function add_unix(ctx, arg)
  local source, line = ctx.place()
  local list = type(arg) == "table" and arg or { arg }
  local made = marker("unix", list[1])
  for _, path in ipairs(list) do
    local message = path_problem(path)
    if not message and path:sub(1, 1) ~= "/" then message = "the path of a unix socket is absolute" end
    if not message and #path > 107 then message = "the path of a unix socket has at most 107 bytes" end
    if message then
      ctx:problem(source, line, message, "such as unix \"/run/service.sock\"")
    else
      ctx.unix[#ctx.unix + 1] = { path = path, marker = made }
    end
  end
  if #list == 0 then ctx:problem(source, line, "unix names no path") end
  return made
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

local function add_limits(ctx, arg)
  local source, line = ctx.place()
  if type(arg) ~= "table" then return ctx:problem(source, line, "limits takes a table") end
  for key, value in pairs(arg) do
    local reader = limit_readers[key]
    local read = reader and reader[1](value)
    if not reader then
      local known = suggest.keys(limit_readers)
      ctx:problem(source, line, ("unknown limit '%s'"):format(tostring(key)), table.concat(known, ", "),
        suggest.nearest(tostring(key), known))
    elseif not read then
      ctx:problem(source, line, ("limit %s cannot be %s"):format(key, describe(value)), reader[2])
    elseif not ctx.limits[key] or source.depth <= ctx.limits[key].depth then
      ctx.limits[key] = { value = read, depth = source.depth }
    end
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
    if is_route(arg) then return add_route(ctx, arg) end
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
  function words.file(path)
    local source, line = ctx.place()
    local message = path_problem(path)
    if message then ctx:problem(source, line, message, "file \"audit.jsonl\"") end
    return marker("file", path)
  end
  function words.syslog() return marker("syslog") end
  function words.unix(arg) return add_unix(ctx, arg) end
  function words.limits(arg) return add_limits(ctx, arg) end
  function words.test(arg) return add_tests(ctx, arg) end
  return words
end

return M
