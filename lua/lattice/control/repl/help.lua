-- What the words of the REPL are: for help(), and for completion (names of options).
local M = {}

--- name = { summary, forms, options?, write? }
M.words = {
  help = { "Explain a word: help(explain), or ?explain.", { "help()", "help(rules)", "?watch" } },
  status = { "The agent: enforcer, generation, devices, reloads, temporary rules.", { "status()" } },
  rules = { "The rules in force with their counters.",
    { "rules()", "rules { from = 1001, count = 500 }" }, { "from", "count" } },
  rule = { "One rule, by its number.", { "rule(3)" } },
  tables = { "The decision tables: which rule an address, protocol and port range finds.",
    { "tables()", "tables { from = 1, count = 20 }" }, { "from", "count" } },
  maps = { "What the enforcer holds in the kernel: hooks, maps or chains, sizes.", { "maps()" } },
  names = { "Names that rules can open.", { "names()" } },
  flows = { "Open flows that the enforcer knows.", { "flows()", "flows(20)" }, { "limit" } },
  counters = { "Packets and bytes by rule; 0 is the default.", { "counters()" } },
  events = { "Verdict events: seen and lost.", { "events()" } },
  generation = { "The policy in force: number, files, digest.", { "generation()" } },
  caps = { "The enforcers: which one is in force, and why not another.", { "caps()" } },
  devices = { "The devices that are guarded.", { "devices()" } },
  peers = { "WireGuard peers.", { "peers()" } },
  explain = { "What the loaded tables say of a flow, and by which rule.",
    { 'explain "tcp to 10.0.0.7 port 80"', 'explain "in udp from 2001:db8::1 port 53"' } },
  watch = { "Verdicts as they come, until Ctrl-C, a number or a time.",
    { 'watch { verdict = "deny" }', "watch { port = 443, count = 10, seconds = 30 }",
      "watch { last = 20, each = function(event) print(event.addr) end }" },
    { "verdict", "proto", "addr", "port", "dir", "rule", "last", "count", "seconds", "each" } },
  temporary = { "Temporary rules that are in force.", { "temporary()" } },
  allow = { "Allow for a while: before all rules of the policy, gone after ttl seconds (60).",
    { 'allow("tcp to 10.0.0.7 port 80", { ttl = 60 })' }, { "ttl", "reason" }, write = true },
  deny = { "Refuse for a while.", { 'deny("tcp to 10.0.0.7", { ttl = 600, reason = "incident" })' },
    { "ttl", "reason" }, write = true },
  drop = { "Drop silently for a while.", { 'drop("udp to any port 53", { ttl = 60 })' },
    { "ttl", "reason" }, write = true },
  remove = { "Remove a temporary rule.", { "remove(3)" }, write = true },
  reload = { "Load the policy again; with preview nothing changes.", { "reload()", "reload { preview = true }" },
    { "preview" }, write = true },
  runs = { "Commands that the agent walls for users: lattice run --mode kernel.", { "runs()" } },
  list_bindings = { "Running processes that are bound to a device.", { "list_bindings()" } },
  attach_pid = { "Bind a running process and its children to a device; judged by a policy if one is given.",
    { [[attach_pid(1234, "wf0")]], [[attach_pid(1234, "wf0", { policy = "/etc/lattice/db.lua" })]] },
    { "policy" }, write = true },
  detach_pid = { "End the binding of a process.", { "detach_pid(1234)" }, write = true },
  json = { "A value as JSON text.", { "print(json(status()))" } },
  print = { "Write values.", { "print(1, 2)" } },
}

local function names()
  local list = {}
  for name in pairs(M.words) do list[#list + 1] = name end
  table.sort(list)
  return list
end

local function one(name, word)
  local lines = { word[1] }
  for _, form in ipairs(word[2]) do lines[#lines + 1] = "  " .. form end
  if word[3] then lines[#lines + 1] = "options: " .. table.concat(word[3], ", ") end
  if word.write then lines[#lines + 1] = "Only in a session of root with --write; the audit has it." end
  return table.concat(lines, "\n") .. "\n"
end

local function list(session)
  local lines = {}
  for _, name in ipairs(names()) do
    local word = M.words[name]
    local mark = word.write and not session.request.write and " (--write)" or ""
    lines[#lines + 1] = ("  %-11s %s%s"):format(name, word[1], mark)
  end
  lines[#lines + 1] = "and plain Lua. _ is the last value; ?WORD explains a word; Tab completes; Ctrl-D ends."
  return table.concat(lines, "\n") .. "\n"
end

--- The help of one word or of all, for the verb that needs no session.
---@param name? string
---@param write? boolean
---@return string?
function M.text(name, write)
  if not name then return list({ request = { write = write } }) end
  return M.words[name] and one(name, M.words[name])
end

--- Gives the environment its help().
---@param env table
---@param session table
function M.install(env, session)
  local by_value = {}
  function env.help(what)
    if what == nil then
      session.output(list(session))
      return
    end
    local name = type(what) == "string" and what:gsub("%(%)$", "") or by_value[what]
    local word = name and M.words[name]
    if not word then
      session.output(type(what) == "string" and ("no word '%s'; see help()\n"):format(name)
        or ("a %s; help() lists the words\n"):format(type(what)))
      return
    end
    session.output(one(name, word))
  end
  for name in pairs(M.words) do
    if env[name] ~= nil then by_value[env[name]] = name end
  end
end

return M
