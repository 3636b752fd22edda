-- The verbs of the control socket for kernel-mode runs that the agent walls for users, and for bindings. docs/control.md
-- tells what each takes and gives.
--
-- `run` is a stream that lasts as long as the run: first { started = ... }, then { events, lost }, { reload, digest }, and
-- at the end { ended }. What is asked of the run meanwhile goes by the same connection, whose end is the run's.
local json = require("lattice.json")

local M = {}

local CONTROL = "[%c\127]"

-- The exit status that goes with an error.
local function exit_of(code)
  if code == "policy" then return 3 end
  if tonumber(code) == 402 then return 6 end
  if code == "EPERM" or code == "EACCES" then return 5 end
  return 1
end

local function fail(reply, err, code)
  reply.error(err or "it failed, and no reason was given", code and tostring(code), exit_of(code))
end

local function bad(reply, text) return reply.error(text, "EINVAL", 2) end

local function pid_of(value)
  return math.type(value) == "integer" and value >= 1 and value <= 0x7fffffff and value or nil
end

local function text_of(value, longest)
  return type(value) == "string" and #value <= longest and not value:find(CONTROL) and value ~= "" and value or nil
end

-- The run of this connection.
local function own(request, reply)
  local run = request.session.run
  if not run then reply.error(request.verb .. ": there is no run on this connection", "ENOENT", 2) end
  return run
end

local runs, bindings = {}, {}

--- What the user may run, and how.
function runs.runs(agent, request, reply)
  local offer = agent.runs:offer(request.uid)
  if not offer then
    return reply.error(("uid %d may not run commands here: the agent's config has no `runs` for it")
      :format(request.uid), "EACCES", 5)
  end
  json.array(offer.policies)
  json.array(offer.mesh)
  reply(offer)
end

function runs.run(agent, request, reply)
  local args, session = request.args, request.session
  local pid, name = pid_of(args.pid), args.name == nil and "command" or text_of(args.name, 64)
  local port = args.dns_port
  if not pid then return bad(reply, "run: pid is the number of the sandbox's init") end
  if not name then return bad(reply, "run: name is a text of up to 64 bytes") end
  if args.policy ~= nil and not text_of(args.policy, 4095) then return bad(reply, "run: policy is a path") end
  if port ~= nil and not (math.type(port) == "integer" and port >= 1024 and port <= 65535) then
    return bad(reply, "run: dns_port is a port from 1024 to 65535")
  end
  if session.run then return reply.error("run: there is a run on this connection already", "EBUSY", 2) end
  if request.gone() then return fail(reply, "run: who connected has ended", "ESRCH") end
  local run, over
  run = agent.runs:open({ uid = request.uid, pid = request.pid }, { pid = pid, policy = args.policy, name = name,
    dns_port = port, no_unix = args.no_unix == true }, function(made, err, code)
    if not made then
      session.run, over = nil, true
      return fail(reply, err, code)
    end
    local generation = made.generation
    reply.more({ started = { id = made.id, group = made.path, generation = generation:number(),
      digest = generation:info().digest, rules = generation:info().rules, limits = made.limits,
      network = made.entry.network, policy = made.file } })
    made:stream(reply.more)
    made.closers[#made.closers + 1] = function() reply({ ended = made.why }) end
  end)
  if not run or over then return end
  session.run = run
  -- Nobody waits any more: cancelled, or the connection's end.
  reply.cancelled(function() run:close("its supervisor has gone") end)
end

runs["run-pin"] = function(_, request, reply)
  local run = own(request, reply)
  if not run then return end
  run:pin(request.args.pins, function(ok, err, code)
    if ok then return reply({}) end
    fail(reply, err, code)
  end)
end

local function whole(value, low, high) return math.type(value) == "integer" and value >= low and value <= high end

runs["run-answer"] = function(_, request, reply)
  local run, args = own(request, reply), request.args
  if not run then return end
  local addr = require("lattice.policy.addr")
  if not text_of(args.addr, 64) or not addr.parse(args.addr) or not whole(args.proto, 0, 255)
    or not whole(args.port, 0, 65535) or not whole(args.pid, 0, 0x7fffffff) or type(args.allow) ~= "boolean"
    or not whole(args.ms, 1, 366 * 86400 * 1000) then
    return bad(reply, "run-answer: { addr, proto, port, pid, allow, ms }")
  end
  local ok, err, code = run:answer({ addr = args.addr, proto = args.proto, port = args.port, pid = args.pid,
    allow = args.allow, ms = args.ms })
  if ok then return reply({}) end
  fail(reply, err, code)
end

runs["run-reload"] = function(_, request, reply)
  local run = own(request, reply)
  if not run then return end
  run:reload(function(result, err, code)
    if result then return reply(result) end
    fail(reply, err, code)
  end)
end

-- When all is over: the last of the stream has gone before the answer.
runs["run-end"] = function(_, request, reply)
  local run = own(request, reply)
  if not run then return end
  run:close("its command has ended", function() reply({}) end)
end

--- All bindings of the host.
function bindings.bindings(agent, _, reply)
  reply({ bindings = json.array(agent:bindings()) })
end

function bindings.attach(agent, request, reply)
  local args = request.args
  local pid, device = pid_of(args.pid), text_of(args.device, 15)
  if not pid or not device or device == "lo" or device:find("[%s/]") then
    return bad(reply, "attach: pid is the number of a process, device the name of a device")
  elseif args.policy ~= nil and not (text_of(args.policy, 4095) and args.policy:sub(1, 1) == "/") then
    return bad(reply, "attach: policy is an absolute path")
  end
  agent.runs:attach(pid, device, { policy = args.policy, uid = request.uid }, function(binding, err, code)
    if not binding then return fail(reply, err, code) end
    json.array(binding.skipped)
    reply(binding)
  end)
end

function bindings.detach(agent, request, reply)
  local pid = pid_of(request.args.pid)
  if not pid then return bad(reply, "detach: pid is the number of a process") end
  local binding, err, code = agent.runs:detach(pid, request.uid)
  if not binding then return fail(reply, err, code) end
  reply(binding)
end

--- Gives a server its verbs.
---@param server lattice.control.Server
---@param agent lattice.agent.Agent
function M.add(server, agent)
  for name, run in pairs(runs) do
    server:verb(name, { write = false, runs = true, run = function(request, reply) run(agent, request, reply) end })
  end
  for name, run in pairs(bindings) do
    server:verb(name, { write = name ~= "bindings", run = function(request, reply) run(agent, request, reply) end })
  end
end

return M
