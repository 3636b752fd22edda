-- The runs that the agent walls for users (run.lua): who may, how many, and by the verbs of the control socket.
local bindings = require("lattice.sandbox.bindings")
local peer = require("lattice.peer")
local run_ = require("lattice.agent.run")
local steps = require("lattice.agent.steps")
local sys = require("lattice.sys")
local uv = require("luv")

local M = {}

local START_RATE, START_BURST = 20, 40 -- runs a second of one user

---@class lattice.agent.Runs
---@field agent lattice.agent.Core
---@field list table<string, lattice.agent.Run>
local Runs = {}
Runs.__index = Runs

---@param agent lattice.agent.Core
---@return lattice.agent.Runs
function M.new(agent)
  return setmetatable({ agent = agent, list = {}, count = 0, of = {}, last = 0, tokens = {} }, Runs)
end

--- What the config lets a user run; nil: nothing.
---@param uid integer
---@return lattice.agent.RunsOf?
function Runs:entry(uid)
  for _, entry in ipairs(self.agent.config.runs or {}) do
    if entry.uid == uid then return entry end
  end
  return nil
end

--- What a user may run, for its `lattice run`.
---@param uid integer
---@return table?
function Runs:offer(uid)
  local entry = self:entry(uid)
  if not entry then return nil end
  local version = sys.version()
  return { policies = entry.policies, limits = next(entry.limits) and entry.limits or nil, network = entry.network,
    most = entry.most, running = self.of[uid] or 0, mesh = require("lattice.agent.config").mesh(self.agent.config),
    edition = version.edition, version = version.version }
end

-- Which of the user's policies is meant: a path, by any way to it, or nothing where there is one only.
local function choose(entry, said)
  if said == nil and #entry.policies == 1 then return entry.policies[1] end
  local real = type(said) == "string" and uv.fs_realpath(said)
  for _, file in ipairs(entry.policies) do
    if real and uv.fs_realpath(file) == real then return file end
  end
  return nil, ("%s; uid %d may run by: %s"):format(said and "the policy is none of this user's" or "which policy?",
    entry.uid, table.concat(entry.policies, ", "))
end

local function add(self, run, step)
  self.list[run.id] = step > 0 and run or nil
  self.count = self.count + step
  self.of[run.uid] = (self.of[run.uid] or 0) + step
  if self.of[run.uid] == 0 then self.of[run.uid] = nil end
end

-- Each start is work for the kernel's verifier.
local function take_token(self, uid)
  local now, one = uv.now(), self.tokens[uid] or { left = START_BURST, at = uv.now() }
  one.left, one.at = math.min(START_BURST, one.left + (now - one.at) * START_RATE / 1000), now
  self.tokens[uid] = one
  if one.left < 1 then return false end
  one.left = one.left - 1
  return true
end

-- Why this user gets no run now.
local function refuse(self, uid, entry)
  local most = self.agent.config.runs.most
  if self.agent.stopping then return "the agent is stopping", "ECANCELED" end
  if (self.of[uid] or 0) >= entry.most then
    return ("uid %d has %d runs already, and may have %d"):format(uid, self.of[uid], entry.most), "EBUSY"
  end
  if self.count >= most then return ("there are %d runs already, and there may be %d"):format(self.count, most), "EBUSY" end
  if not take_token(self, uid) then return ("uid %d starts too many runs: %d a second"):format(uid, START_RATE), "EAGAIN" end
end

--- Makes a run for who asks; done(run), or done(nil, error, code). Whoever asks no longer: the run's close.
---@param who { uid: integer, pid: integer }
---@param args { pid: integer, policy?: string, name?: string, dns_port?: integer, no_unix?: boolean }
---@param done fun(run: lattice.agent.Run?, err: string?, code: any)
---@return lattice.agent.Run?  that is being made
function Runs:open(who, args, done)
  local entry = self:entry(who.uid)
  if not entry then
    return done(nil, ("uid %d may not run commands here: the agent's config has no `runs` for it"):format(who.uid), "EACCES")
  end
  local problem, code = refuse(self, who.uid, entry)
  if problem then return done(nil, problem, code) end
  local file
  file, problem = choose(entry, args.policy)
  if not file then return done(nil, problem, "EACCES") end
  self.last = self.last + 1
  local run
  run = run_.open(self.agent, { id = ("%x-%d-%d"):format(os.time(), sys.pid(), self.last), uid = who.uid, peer = who.pid,
    pid = args.pid, name = args.name or "command", entry = entry, file = file, dns_port = args.dns_port,
    no_unix = args.no_unix }, function(made, err, name)
    if made then
      self.agent:log("info", ("run %s of uid %d: %s, init %d, policy %s"):format(made.id, made.uid, made.name, made.pid,
        made.file))
    else
      self.agent:log("warn", ("no run for uid %d: %s"):format(who.uid, tostring(err)))
    end
    done(made, err, name)
  end)
  if run and not run.closed then
    add(self, run, 1)
    run.closers[#run.closers + 1] = function()
      add(self, run, -1)
      self.agent:log("info", ("run %s of uid %d ended: %s"):format(run.id, run.uid, tostring(run.why)))
    end
  end
  return run
end

--- After a reload of the config: runs that it lets nobody have any more end, the others get their policies anew.
function Runs:reload()
  for _, run in pairs(self.list) do
    local entry, still = self:entry(run.uid), false
    for _, file in ipairs(entry and entry.policies or {}) do still = still or file == run.file end
    if not still or entry.network ~= run.entry.network then
      run:close("the config does not let it be any more")
    elseif not run.opening then
      run.entry = entry
      run:reload(function(result, err)
        if not result then
          self.agent:log("error", ("run %s: its policy stays as it is: %s"):format(run.id, tostring(err)))
        elseif result.changed and run.sink then
          run.sink({ reload = result.generation, digest = result.digest })
        end
      end)
    end
  end
end

---@return table[]
function Runs:status()
  local list = {}
  for _, run in pairs(self.list) do list[#list + 1] = run:status() end
  table.sort(list, function(a, b) return a.started < b.started or a.started == b.started and a.id < b.id end)
  return list
end

--- Ends all of them; inside steps.
function Runs:close()
  for _, run in pairs(self.list) do
    steps.await(function(done) run:close("the agent ends", done) end)
  end
  return true
end

-- ---- what takes rights that the agent gives up after its start ----

local CONTROLLERS = { "memory", "cpu", "io", "pids" }
local PLACE = { memory = 1 << 40, cpu = 64, io = 1 << 40, pids = 1 << 20 }

--- Groups without members, for as long as the agent runs: they keep the parent of all runs, which only a root with all its
--- capabilities can make and remove. What this host cannot limit is said when a run wants it.
---@return true?
---@return string? err
---@return string? code
function Runs:hold()
  local cgroup = require("lattice.cgroup")
  local name = ("agent-%d"):format(sys.pid())
  local group = cgroup.make({ name = name, limits = PLACE, programs = true })
  self.held = { group }
  if not group then
    local err, code
    group, err, code = cgroup.make({ name = name, programs = true })
    if not group then return nil, "runs: " .. tostring(err), code end
    self.held[1] = group
    for _, key in ipairs(CONTROLLERS) do -- a host without one of them
      self.held[#self.held + 1] = cgroup.make({ name = name .. "-" .. key, limits = { [key] = PLACE[key] } })
    end
  end
  self.bound = group:path():match("^(.*)/[^/]*$") .. "/bindings"
  uv.fs_mkdir(self.bound, 448) -- 0700; there already: of an agent before
  return true
end

--- The groups go.
function Runs:release()
  if self.bound then uv.fs_rmdir(self.bound) end -- stays while there are bindings in it
  for _, group in ipairs(self.held or {}) do group:close() end
  self.held = nil
  return true
end

-- ---- bindings (lattice.sandbox.bindings) on the agent's behalf ----

--- Puts a running process on a device; where its verdicts go is the agent's audit.
---@param pid integer
---@param device string
---@param options { policy?: string, uid: integer }
---@param done fun(binding: table?, err: string?, code: any)
function Runs:attach(pid, device, options, done)
  local agent = self.agent
  bindings.attach(pid, device, { policy = options.policy, events = options.policy and function(generation)
    local routes = require("lattice.generation").routes(agent.config.audit)
    for _, route in ipairs(routes) do route.rotate = 0 end
    local events = require("lattice.events").open({ routes = routes, run_name = ("pid %d on %s"):format(pid, device),
      run_id = ("bind-%x-%d"):format(os.time(), pid), mode = "kernel", policy = generation:info().name })
    if events then events:generation(generation) end
    return events
  end, ended = function(binding)
    agent:log("info", ("process %d has ended, its binding to '%s' with it"):format(binding.pid, binding.device))
  end }, function(binding, err, code)
    agent:note(options.uid, ("attach process %d to '%s': %s"):format(pid, device, binding and "bound" or tostring(err)))
    done(binding, err, code)
  end)
end

--- Ends a binding.
function Runs:detach(pid, uid)
  local binding, err, code = bindings.detach(pid)
  self.agent:note(uid, ("detach process %d: %s"):format(pid, binding and "no longer bound" or tostring(err)))
  return binding, err, code
end

--- Whether who asked is still the process that connected.
---@param request lattice.control.Request
function M.still_there(request)
  return not request.pidfd or not peer.ended(request.pidfd)
end

return M
