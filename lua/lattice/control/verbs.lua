-- The verbs of the control socket that show and steer the agent. docs/control.md tells what each takes and gives.
local filter = require("lattice.control.filter")
local json = require("lattice.json")
local sys = require("lattice.sys")

local M = {}

local PRO = 402
local FLOWS = 1000 -- shown when no limit is asked for

-- The exit status that goes with an error of the agent.
local function exit_of(code)
  if code == "policy" then return 3 end
  if tonumber(code) == PRO then return 6 end
  if code == "EPERM" or code == "EACCES" then return 5 end
  return 1
end

local function fail(reply, err, code)
  reply.error(err or "it failed, and no reason was given", code and tostring(code), exit_of(code))
end

-- done(result) or done(nil, error, code), as a reply.
local function done(reply, wrap)
  return function(result, err, code)
    if result == nil or result == false then return fail(reply, err, code) end
    reply(wrap and wrap(result) or result)
  end
end

local function integer(args, name, low, high, otherwise)
  local value = args[name]
  if value == nil then return otherwise end
  if math.type(value) ~= "integer" or value < low or value > high then
    return nil, ("%s: a whole number from %d to %d is expected"):format(name, low, high)
  end
  return value
end

-- Counters with what their rules say, by rule number: the default (0) comes last, as it is judged last.
local function describe_counters(generation, counters)
  local list = {}
  for number, count in pairs(counters) do
    local rule = generation and number > 0 and generation:rule(number) or nil
    list[#list + 1] = {
      rule = number, packets = count.packets, bytes = count.bytes,
      action = rule and rule.action or number == 0 and generation and generation:info().default or nil,
      where = rule and rule.where or number == 0 and "default" or nil, text = rule and rule.text,
    }
  end
  table.sort(list, function(a, b)
    if (a.rule == 0) ~= (b.rule == 0) then return b.rule == 0 end
    return a.rule < b.rule
  end)
  return json.array(list)
end

-- What judges: the node's enforcer, or with args.run the programs of a run. nil when it is answered already.
local function judge_of(agent, request, reply)
  local id = request.args.run
  if id == nil then return agent:enforcer(), agent:generation(), agent.events end
  local run = type(id) == "string" and agent.runs and agent.runs.list[id]
  if run and run.filter and run.events then return run.filter, run.generation, run.events, run end
  reply.error(("there is no run '%s' (lattice status shows those there are)"):format(tostring(id):sub(1, 60)), "ENOENT", 1)
end

local read, write = {}, {}

function read.version(agent, request, reply)
  local version = sys.version()
  version.pid, version.started = sys.pid(), agent.started
  reply(version)
end

-- Lists that may be empty stay lists in JSON.
local function lists(status)
  json.array(status.temporary)
  json.array(status.runs or {})
  json.array(status.bindings or {})
  if status.enforcer.passed_over then json.array(status.enforcer.passed_over) end
  for _, device in ipairs(json.array(status.devices)) do
    if device.address then json.array(device.address) end
    local wireguard = device.wireguard
    for _, one in ipairs(wireguard and json.array(wireguard.peers or {}) or {}) do json.array(one.allowed or {}) end
  end
  return status
end

function read.status(agent, request, reply)
  local status, version = lists(agent:status()), sys.version()
  status.version, status.edition, status.pid, status.now = version.version, version.edition, sys.pid(), os.time()
  reply(status)
end

function read.counters(agent, request, reply)
  local judge, generation = judge_of(agent, request, reply)
  if not judge then return end
  judge:counters(done(reply, function(counters)
    return { generation = generation:number(), counters = describe_counters(generation, counters) }
  end))
end

function read.flows(agent, request, reply)
  local limit, why = integer(request.args, "limit", 1, 100000, FLOWS)
  if not limit then return reply.error(why, "EINVAL", 2) end
  local enforcer = judge_of(agent, request, reply)
  if not enforcer then return end
  if not enforcer.flows then
    return reply.error(("the enforcer %s keeps no list of flows"):format(enforcer.name), "ENOTSUP", 1)
  end
  enforcer:flows(limit, done(reply, function(flows) return { flows = json.array(flows) } end))
end

function read.explain(agent, request, reply)
  local policy = require("lattice.policy")
  local text = request.args.flow
  if type(text) ~= "string" then return reply.error("explain: no flow", "EINVAL", 2) end
  local flow, problem = policy.flow.parse(text)
  if not flow then
    problem.file, problem.col, problem.text, problem.pos = "flow", problem.pos, text, nil
    return reply.error(policy.format_error(problem), "EINVAL", 2)
  end
  if not flow.addr then
    return reply.error("the node judges addresses: say which one the name stands for, "
      .. "as in \"tcp to db.example at 10.0.0.7 port 5432\"", "EINVAL", 2)
  end
  agent:explain(flow, done(reply, function(verdict)
    verdict.flow, verdict.generation = policy.print.flow(flow), agent:generation():number()
    verdict.enforcer = agent:enforcer().name
    return verdict
  end))
end

function read.metrics(agent, request, reply)
  local metrics = require("lattice.control.metrics")
  agent:enforcer():counters(function(counters)
    reply({ text = metrics.text(agent:status(), counters and describe_counters(agent:generation(), counters) or {},
      sys.version()) })
  end)
end

-- args: a lattice.control.Filter, and last. With `stop` after the last ones the stream ends.
function read.watch(agent, request, reply)
  local args = request.args
  local wanted, why = filter.compile(args)
  if not wanted then return reply.error(why, "EINVAL", 2) end
  local last
  last, why = integer(args, "last", 0, 100000, 0)
  if not last then return reply.error(why, "EINVAL", 2) end
  local spec = filter.narrow(args)
  spec.last = last > 0 and 100000 or 0 -- all that it has: the filter here may want fewer
  local kept, count = {}, 0            -- what comes during the call is of the past: a ring of the last ones
  local judge, _, source, run = judge_of(agent, request, reply)
  if not judge then return end
  if run then run.closers[#run.closers + 1] = function() reply({}) end end
  local stop = source:watch(spec, function(event)
    if not wanted(event) then return end
    if not kept then return reply.more(event) end
    count = count + 1
    kept[(count - 1) % math.max(last, 1) + 1] = event
  end)
  local past = kept
  kept = nil
  for i = math.max(1, count - last + 1), count do reply.more(past[(i - 1) % last + 1]) end
  if args.stop then
    stop()
    return reply({})
  end
  reply.cancelled(function()
    if not run or run.events then stop() end -- else it went with its run
  end)
end

read.log = function(agent, request, reply)
  require("lattice.control.logfile").read(agent, request, reply)
end

read["temporary-list"] = function(agent, request, reply)
  reply({ temporary = json.array(agent:temporary_list()) })
end

-- A preview changes nothing, but it loads what the files say: it is for those who may reload.
function write.reload(agent, request, reply)
  local preview = request.args.preview and true or false
  if not preview then agent:note(request.uid, "reload") end
  agent:reload({ preview = preview, by = "uid " .. request.uid }, done(reply))
end

function write.down(agent, request, reply)
  agent:note(request.uid, "down")
  reply.hold() -- the socket is closed on the way
  agent:down(function() reply({}) end)
end

local actions = { allow = true, deny = true, drop = true }

write["temporary-add"] = function(agent, request, reply)
  local args = request.args
  local ttl, why = integer(args, "ttl", 1, 86400 * 30)
  if not ttl then return reply.error(why or "temporary-add: no ttl (seconds)", "EINVAL", 2) end
  if not actions[args.action] or type(args.text) ~= "string" then
    return reply.error("temporary-add: action is allow, deny or drop, and text is that of a rule", "EINVAL", 2)
  end
  local reason = type(args.reason) == "string" and args.reason or nil
  agent:temporary_add(args.action, args.text, { ttl = ttl, reason = reason, uid = request.uid },
    done(reply, function(id)
      agent:note(request.uid, ("temporary rule %d: %s %q for %d s"):format(id, args.action, args.text, ttl))
      return { id = id }
    end))
end

write["temporary-remove"] = function(agent, request, reply)
  local id, why = integer(request.args, "id", 1, math.maxinteger)
  if not id then return reply.error(why or "temporary-remove: no id", "EINVAL", 2) end
  agent:temporary_remove(id, done(reply, function()
    agent:note(request.uid, ("temporary rule %d removed"):format(id))
    return {}
  end))
end

--- Gives a server its verbs.
---@param server lattice.control.Server
---@param agent lattice.agent.Agent
function M.add(server, agent)
  for _, kind in ipairs({ read, write }) do
    for name, run in pairs(kind) do
      server:verb(name, {
        write = kind == write, run = function(request, reply) run(agent, request, reply) end,
      })
    end
  end
end

return M
