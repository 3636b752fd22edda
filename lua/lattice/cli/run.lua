-- lattice run: a command under a policy, in the strongest mode that the caller may have.
local M = {
  name = "run",
  summary = "Run a command that reaches only what a policy names.",
  examples = {
    "lattice run --allow 'tcp to api.example.com port 443' -- curl https://api.example.com",
    "lattice run --policy coding-agent --audit agent.jsonl -- agent",
    "lattice run --learn my.lua -- npm install",
    "lattice run --mode user -v -- make          # never another mode, whoever calls; -v says why",
    "kill -HUP PID-OF-LATTICE      # reload the policy",
  },
  agent = true, -- kernel mode without privilege is the agent's to wall
  rest = "COMMAND [ARGS]", -- the dashes may be left out
  failure = 125,
}

local exit_pro = 6 -- what the edition lacks: as for every command

function M.args(parser)
  parser:option("-p --policy", "A policy file, or the name of a shipped one. First match over all, in order.")
    :argname("FILE|NAME"):count("*"):default({})
  parser:option("-a --allow", "A rule to allow, before the policies: 'tcp to host.example port 443'.")
    :argname("RULE"):count("*"):default({})
  parser:option("-d --deny", "A rule to deny, before the allowed ones and the policies.")
    :argname("RULE"):count("*"):default({})
  parser:option("--audit", "Append every record to this file (OCSF JSON lines).")
    :argname("FILE")
  parser:option("--learn", "Let everything pass, record it, and write a policy for it."):argname("FILE")
  parser:flag("--audit-only", "Let everything pass, record what would have been denied.")
  parser:option("-m --mode", "auto: the strongest that works here (lattice doctor tells which); any other: that one, "
    .. "or nothing runs. preload is advisory: it holds programs that do not resist. What each holds: docs/modes.md.")
    :argname("MODE"):default("auto"):choices({ "auto", "kernel", "user", "gvisor", "preload" })
  parser:option("--mode-script", "A Lua file that chooses: its ... is a list of { name, ok, reason }, it returns a name.")
    :argname("FILE")
  parser:option("--network", "Kernel mode: bind every socket of the command to this device (loopback aside).")
    :argname("DEVICE")
  parser:option("-n --name", "The run's name in the audit (default: the command's)."):argname("NAME")
  parser:flag("--allow-missing-limits", "Start although some limits cannot be enforced here.")
  parser:flag("--watch", "Reload the policy when one of its files changes.")
  parser:flag("-q --quiet", "No notices of refusals and no summary.")
  parser:flag("-v --verbose", "Say what is done.")
end

local settings_of_group = { memory = true, swap = true, cpu = true, io = true, pids = true }

local takes_value = {
  ["-p"] = true, ["--policy"] = true, ["-a"] = true, ["--allow"] = true, ["-d"] = true, ["--deny"] = true,
  ["--audit"] = true, ["--learn"] = true, ["-n"] = true, ["--name"] = true, ["--color"] = true,
  ["-m"] = true, ["--mode"] = true, ["--mode-script"] = true, ["--network"] = true, ["--socket"] = true,
}

--- The command begins after `--`, or with the first word that is no option, as with env and sudo.
---@param argv string[]
---@return string[] options, string[] command
function M.split(argv)
  local at = 1
  while argv[at] and argv[at]:sub(1, 1) == "-" and argv[at] ~= "--" do
    at = at + (takes_value[argv[at]] and 2 or 1)
  end
  local command = argv[at] == "--" and at + 1 or at
  return table.move(argv, 1, math.min(at - 1, #argv), 1, {}), table.move(argv, command, #argv, 1, {})
end

local function fail(...)
  io.stderr:write("lattice run: ", table.concat({ ... }), "\n")
  return M.failure
end

local function rules_before(args)
  local rules = {}
  for _, rule in ipairs(args.deny) do rules[#rules + 1] = "deny " .. rule end
  for _, rule in ipairs(args.allow) do rules[#rules + 1] = "allow " .. rule end
  return rules
end

local function run_id(sys)
  return ("%d-%d-%x"):format(os.time(), sys.pid(), sys.clock() & 0xffffff)
end

-- What holds the limits of the policy here. nil: not all do, and that is not accepted.
local function take_limits(args, wanted, programs)
  local limits = require("lattice.sandbox.limits")
  local name = args.name:gsub("[^%w._-]", "_"):gsub("^%.+", ""):sub(1, 60)
  local taken, why = limits.take(wanted, {
    name = ("%s-%d"):format(name ~= "" and name or "command", require("lattice.sys").pid()), programs = programs,
  })
  if not taken then return nil, "no group of processes for the command: " .. why end
  local lines = limits.why_missing(taken)
  if lines and not args.allow_missing_limits then
    if taken.group then taken.group:close() end
    return nil, ("this host cannot enforce these limits of the policy: %s\n%s\n--allow-missing-limits runs without them")
      :format(limits.names_missing(taken), lines)
  end
  if lines then
    io.stderr:write("lattice: warning: not enforced here: ", limits.names_missing(taken), "\n", lines, "\n")
  end
  local held = args.verbose and limits.describe(taken)
  if held then io.stderr:write("lattice: limits: ", held, "\n") end
  return taken
end

-- Without those that the agent's group holds.
local function rlimits_of(limits)
  local rest = {}
  for name, value in pairs(limits or {}) do
    if not settings_of_group[name] then rest[name] = value end
  end
  return rest
end

local function absolute(sandbox, path)
  local real = sandbox.realpath(path)
  return real
end

--- A private file for the records of a learning run that has no --audit.
local function scratch(sandbox)
  local dir = os.getenv("XDG_RUNTIME_DIR") or os.getenv("TMPDIR") or "/tmp"
  for i = 1, 100 do
    local path = ("%s/lattice-learn-%d-%d.jsonl"):format(dir, require("lattice.sys").pid(), i)
    if not sandbox.realpath(path) then
      local ok, why = sandbox.create(path)
      if ok then return path end
      return nil, why
    end
  end
  return nil, "no free name in " .. dir
end

--- The mode: said with -v, and why it is not a stronger one.
---@return lattice.choice.Choice?
---@return string? error_or_reasons
---@return any code  402: of the pro edition
local function choose_mode(args)
  local modes = require("lattice.sandbox.select")
  local wish = { name = args.mode }
  if args.mode_script then
    if args.mode ~= "auto" then return nil, "--mode and --mode-script are two answers to one question" end
    local script, why = modes.script(args.mode_script)
    if not script then return nil, why end
    wish.script = script
  end
  local host = modes.host(wish.script ~= nil)
  host.agent = function() return require("lattice.cli.support.agent_run").offer(args) end
  local chosen, refused, code = modes.select(wish, host)
  if not chosen then return nil, refused .. ". The command was not started; see lattice doctor", code end
  if args.verbose then
    io.stderr:write("lattice: mode ", chosen.name, ": ", chosen.reason, "\n")
    for _, one in ipairs(chosen.passed_over) do
      io.stderr:write("lattice: not ", one.name, ": ", one.reason, "\n")
    end
  end
  return chosen, modes.reasons(chosen)
end

-- What the agent walls, if this run is to be its; nil: it is our own.
local function agent_of(mode)
  for _, candidate in ipairs(mode.candidates) do
    if candidate.name == mode.name then return candidate.agent end
  end
end

-- Writes the policy that the records tell.
local function learn(args, log)
  local ok, result, why = pcall(function()
    local reader = require("lattice.audit.reader")
    local learner = require("lattice.audit.learn")
    local records = {}
    for record in reader.records(log) do records[#records + 1] = record end
    local text = learner.policy(records, { name = args.name })
    local file, message = io.open(args.learn, "w")
    if not file then return nil, message end
    file:write(text)
    file:close()
    return true
  end)
  if not ok or not result then
    return fail("the command ended, but the policy could not be written: ", tostring(ok and why or result))
  end
  io.stderr:write("lattice: wrote ", args.learn, "; look at it, then: lattice run --policy ", args.learn,
    " -- ...\n")
end

function M.run(args)
  local json, sandbox, sys = require("lattice.json"), require("lattice.sandbox"), require("lattice.sys")
  if not args.rest or #args.rest == 0 then
    return fail("no command; usage: lattice run [OPTIONS] -- COMMAND [ARGS]")
  end
  if args.verbose then require("lattice.log").level("info") end
  args.name = args.name or args.rest[1]:match("[^/]+$") or "command"
  local files, before = args.policy, rules_before(args)
  if #files == 0 and #before == 0 then files = { "default-deny" } end
  local mode, passed_over, code = choose_mode(args)
  if not mode then
    fail(passed_over)
    return code == 402 and exit_pro or M.failure
  end
  local kernel = mode.name == "kernel"
  if args.network and not kernel then
    return fail("--network binds sockets to a device, which only kernel mode does; this run would be in ",
      mode.name, " mode")
  end
  local agent = kernel and agent_of(mode)
  if agent then files = { agent.policy } end
  local generation, why = sandbox.load(json.encode {
    files = #files > 0 and files or nil, rules_before = #before > 0 and before or nil,
    keep_entries = kernel or nil, mesh = agent and agent.mesh or nil,
  })
  if not generation then
    io.stderr:write(why, "\n")
    return fail("the policy was refused, the command was not started")
  end
  local info = json.decode(generation:info())

  local routes, hide, readonly, learned = {}, {}, {}, nil
  local log = args.audit
  if args.learn and not log then
    log, why = scratch(sandbox)
    if not log then return fail("cannot make a file for the records: ", why) end
    learned = log
  end
  if log then routes[1] = { kinds = 0, actions = 0, sink = "file", target = log, rotate = 0 } end
  for _, route in ipairs(info.audit or {}) do
    if route.sink == "file" then hide[#hide + 1] = route.target end
  end
  if log then hide[#hide + 1] = log end
  for i, path in ipairs(hide) do
    local ok, message = sandbox.create(path)
    if not ok then return fail("cannot open the audit file: ", message) end
    hide[i] = absolute(sandbox, path) or path
  end
  for _, path in ipairs(info.files or {}) do
    readonly[#readonly + 1] = absolute(sandbox, path)
  end

  local held
  held, why = take_limits(args, agent and rlimits_of(info.limits) or info.limits, kernel and not agent)
  if not held then return fail(why) end
  local _ <close> = held.group
  local status, message
  status, message, code = sandbox.run(generation, {
    mode = mode.name, network = args.network, agent = agent and agent.socket or nil,
    agent_policy = agent and agent.policy or nil,
    argv = args.rest, name = args.name, run_id = run_id(sys), audit = json.encode(routes),
    hide = hide, readonly = readonly, rlimits = held.rlimits, group = held.group, passed_over = passed_over,
    limits_missing = held.missing_names,
    preload = mode.name == "preload",
    watch = args.watch and readonly or nil,
    audit_only = args.audit_only, learn = args.learn ~= nil,
    notices = not args.quiet and (args.verbose or (sys.isatty(2) and not args.json)),
    verbose = args.verbose, json = args.json, no_summary = args.quiet,
  })
  if not status then
    fail(message)
    return code == 402 and exit_pro or M.failure
  end
  if args.learn then learn(args, log) end
  if learned then os.remove(learned) end
  return status
end

return M
