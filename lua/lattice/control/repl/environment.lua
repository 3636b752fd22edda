-- What a REPL session sees: plain Lua without a way out, and the words that ask the agent (help.lua describes them). Runs
-- inside the limited state.
local flow = require("lattice.policy.flow")
local help = require("lattice.control.repl.help")
local json = require("lattice.json")
local pretty = require("lattice.control.repl.pretty")

local M = {}

--- In which order the columns of a table of ours are shown.
M.columns = setmetatable({}, { __mode = "k" })

local PAGE = 500 -- rules and table entries are fetched in pages: no answer of the agent is large

local order = {
  rules = { "rule", "action", "text", "where", "packets", "bytes", "reason" },
  tables = { "rule", "dir", "proto", "addr", "len", "lo", "hi" },
  flows = { "dir", "proto", "local_addr", "sport", "addr", "port", "rule", "generation", "packets", "bytes" },
  devices = { "name", "kind", "state", "address", "mtu" },
  peers = { "device", "key", "endpoint", "allowed", "handshake" },
  temporary = { "id", "action", "text", "ttl", "uid" },
  caps = { "name", "state", "reason" },
  names = { "pattern", "rule", "allows", "dir", "proto" },
  runs = { "id", "name", "uid", "pid", "policy", "generation", "network", "processes" },
  bindings = { "pid", "comm", "device", "processes", "mine" },
  verdict = { "verdict", "action", "rule", "where", "text", "reason" },
}

-- ---- plain Lua ----

local function copy(from, names)
  local to = {}
  for name, value in pairs(from) do
    if not names or names[name] then to[name] = value end
  end
  return to
end

local function base(session)
  local env = {}
  for _, name in ipairs({ "assert", "error", "getmetatable", "ipairs", "next", "pairs", "pcall", "rawequal", "rawget",
    "rawlen", "rawset", "select", "setmetatable", "tonumber", "tostring", "type", "xpcall" }) do
    env[name] = _G[name]
  end
  env._VERSION = _VERSION
  env.math, env.string, env.table, env.utf8 = copy(math), copy(string), copy(table), copy(utf8)
  env.os = copy(os, { time = true, clock = true, date = true })
  function env.load(chunk, name, _, scope)
    return load(chunk, name, "t", scope == nil and env or scope)
  end
  function env.print(...)
    local parts = table.pack(...)
    for i = 1, parts.n do parts[i] = pretty.clean(tostring(parts[i])) end
    session.output(table.concat(parts, "\t") .. "\n")
  end
  env._G = env
  return env
end

-- ---- words ----

local function asker(session)
  return function(name, args)
    local text, problem = session.call(name, json.encode(args or {}))
    if not text then error(problem, 0) end
    return (json.decode(text))
  end
end

local function hinted(list, name)
  if type(list) == "table" then M.columns[list] = order[name] end
  return list
end

-- from, count of { from = 1, count = 100 }; a number is a count.
local function pages(options, what)
  if type(options) == "number" then options = { count = options } end
  options = options or {}
  if type(options) ~= "table" then error(what .. " takes a table such as { from = 1, count = 100 }", 3) end
  return math.tointeger(options.from or 1) or 1, math.tointeger(options.count or 1000) or 1000
end

local function paged(session, ask, word, options)
  local from, count = pages(options, word)
  local list, total = {}, 0
  while #list < count do
    local answer = ask(word, { from = from + #list, count = math.min(PAGE, count - #list) })
    total = answer.total or total
    for _, row in ipairs(answer.rows) do list[#list + 1] = row end
    if #answer.rows == 0 or not answer.more then break end
    if #list >= count then
      session.output(("-- more: %s { from = %d }%s\n"):format(word, from + #list,
        total > 0 and (" (%d in all)"):format(total) or ""))
    end
  end
  return hinted(list, word)
end

local function flow_of(what)
  if type(what) == "table" then return what end
  if type(what) ~= "string" then error('explain takes a flow: explain "tcp to 10.0.0.7 port 80"', 3) end
  local parsed, problem = flow.parse(what)
  if parsed then return parsed end
  error(("%s\n%s^ %s%s"):format(what, (" "):rep(problem.pos - 1), problem.message,
    problem.expected and "; expected " .. problem.expected or ""), 0)
end

local function queries(session, ask, env)
  function env.rules(options) return paged(session, ask, "rules", options) end
  function env.tables(options) return paged(session, ask, "tables", options) end
  function env.rule(n) return hinted(ask("rule", { n = n }), "rules") end
  for _, word in ipairs({ "status", "maps", "counters", "events", "generation" }) do
    env[word] = function() return ask(word) end
  end
  for _, word in ipairs({ "names", "caps", "devices", "peers", "temporary", "runs" }) do
    env[word] = function() return hinted(ask(word), word) end
  end
  function env.list_bindings() return hinted(ask("bindings"), "bindings") end
  function env.flows(options)
    if type(options) == "number" then options = { limit = options } end
    return hinted(ask("flows", options), "flows")
  end
  function env.explain(what) return hinted(ask("explain", flow_of(what)), "verdict") end
  function env.json(value) return json.encode(pretty.plain(value, json)) end
end

local function line(event)
  local far = event.addr and event.addr:find(":", 1, true) and "[" .. event.addr .. "]" or event.addr or "?"
  return ("%s %-5s %-3s %-4s %s%s  %s%s"):format(
    os.date("%H:%M:%S", (event.time_ms or 0) // 1000), (event.verdict or "?"):upper(), event.dir or "",
    tostring(event.proto or ""), far, event.port and ":" .. event.port or "", event.where or "",
    event.reason and ": " .. event.reason or "")
end

-- Until `count` events, `seconds`, Ctrl-C, or the limit of what an evaluation may write.
local function watcher(session, ask, env)
  function env.watch(filter)
    filter = filter or {}
    if type(filter) ~= "table" then error('watch takes a filter: watch { verdict = "deny" }', 2) end
    local wanted = copy(filter)
    local most, ends = wanted.count or math.huge, wanted.seconds and os.time() + wanted.seconds
    wanted.count, wanted.seconds, wanted.each = nil, nil, nil
    local seen, id = 0, ask("watch_start", { filter = wanted })
    while seen < most and not (ends and os.time() >= ends) do
      local answer = ask("watch_next", { id = id, ms = ends and 200 or 5000 })
      for _, event in ipairs(answer.events) do
        if seen < most then
          seen = seen + 1
          if filter.each then
            filter.each(event)
          elseif not session.output(pretty.clean(line(event)) .. "\n") then
            most = seen
          end
        end
      end
      if answer.lost > 0 then session.output(("-- %d events not shown\n"):format(answer.lost)) end
    end
    ask("watch_stop", { id = id })
    return seen
  end
end

local function changes(ask, env)
  for _, action in ipairs({ "allow", "deny", "drop" }) do
    env[action] = function(text, options)
      if type(text) ~= "string" then
        error(('%s takes a rule: %s("tcp to 10.0.0.7 port 80", { ttl = 60 })'):format(action, action), 2)
      end
      options = options or {}
      return ask("temporary_add", { action = action, text = text, ttl = options.ttl or 60, reason = options.reason })
    end
  end
  function env.remove(id) return ask("remove", { id = id }) end
  function env.attach_pid(pid, device, options)
    return ask("attach_pid", { pid = pid, device = device, policy = options and options.policy })
  end
  function env.detach_pid(pid) return ask("detach_pid", { pid = pid }) end
  function env.reload(options) return ask("reload", { preview = options and options.preview or false }) end
end

--- The environment of a new session; `session` has call, output and request of the evaluation at hand.
---@param session table
---@return table
function M.new(session)
  local env = base(session)
  local ask = asker(session)
  queries(session, ask, env)
  watcher(session, ask, env)
  changes(ask, env)
  help.install(env, session)
  return env
end

return M
