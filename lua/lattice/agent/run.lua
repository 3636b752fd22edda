-- One kernel-mode run that the agent walls for a user: a group with limits, programs on it that judge by the policy, and
-- the user's init moved into it. The user's own supervisor (lattice run) keeps the rest: it launches, answers DNS, tells
-- pins. The wall is for the command, not against the user who starts it: that user may do all of this without Lattice.
--
-- The run lives as long as the connection that asked for it: then the group is killed, waited for and removed.
local addr = require("lattice.policy.addr")
local config_ = require("lattice.agent.config")
local loop = require("lattice.loop")
local peer = require("lattice.peer")
local process = require("lattice.sandbox.process")
local steps = require("lattice.agent.steps")
local trust = require("lattice.agent.trust")
local uv = require("luv")

local M = {}

local await = steps.await
local TAP = 2048         -- records that wait for the supervisor
local TELL_MS = 100      -- ends of flows wait so long; verdicts do not
local EMPTY_MS = 5       -- between looks whether all have ended
local PINS, NAMES = 4096, 16
local PIN_RATE, PIN_BURST = 100, 200
local EVENT_RATE = 5000  -- events a second of one rule on one CPU: a command that floods does not keep the agent busy

---@class lattice.agent.Run
---@field id string
---@field uid integer
---@field pid integer         the init of the sandbox
---@field name string
---@field entry lattice.agent.RunsOf
---@field file string         its policy
---@field started integer
---@field events lattice.events.Source
local Run = {}
Run.__index = Run

---@class lattice.agent.RunSpec
---@field id string
---@field uid integer         who asks, and its process
---@field peer integer
---@field pid integer         the init
---@field name string
---@field entry lattice.agent.RunsOf
---@field file string         the policy
---@field dns_port? integer
---@field no_unix? boolean

-- ---- what is checked before anything is made ----

-- A file that the user could change, or put another in its place, is no wall for its command: by the way it is named, and by
-- the one that links lead.
local function doubt(file)
  local real = uv.fs_realpath(file)
  return trust.doubt_way(uv.fs_stat, file) or real and real ~= file and trust.doubt_way(uv.fs_stat, real) or nil
end

-- The init: a child of who asks, of the same user through and through, in no sandbox yet.
local function check_init(spec)
  local stat, uids = process.stat(spec.pid), process.uids(spec.pid)
  if not stat or not uids or stat.state == "Z" then return nil, ("there is no process %d"):format(spec.pid), "ESRCH" end
  for _, uid in ipairs(uids) do
    if uid ~= spec.uid then return nil, ("process %d is not uid %d's"):format(spec.pid, spec.uid), "EPERM" end
  end
  if stat.ppid ~= spec.peer then
    return nil, ("process %d is no child of process %d, who asks"):format(spec.pid, spec.peer), "EPERM"
  end
  local group = process.group(spec.pid)
  if not group or process.ours(group) then
    return nil, ("process %d is in a sandbox already"):format(spec.pid), "EBUSY"
  end
  return stat
end

-- The port that the command's DNS is led to must be of the user's own sockets: else it would reach any service of the host.
local function owns_port(uid, port)
  local found = false
  for _, name in ipairs({ "udp", "tcp" }) do
    for line in (process.read("/proc/net/" .. name) or ""):gmatch("[^\n]+") do
      local at, state, owner = line:match("^%s*%d+: %x+:(%x+) %x+:%x+ (%x+) %x+:%x+ %x+:%x+ %x+%s+(%d+)")
      if at and tonumber(at, 16) == port and (name == "udp" or state == "0A") then
        if tonumber(owner) ~= uid then return false end
        found = true
      end
    end
  end
  return found
end

--- What is asked of the kernel: the stricter of the config's and the policy's limits.
---@param entry lattice.agent.RunsOf
---@param said table?
---@return table<string, number>
function M.limits(entry, said)
  local limits = {}
  for _, key in ipairs({ "memory", "swap", "cpu", "io", "io_read", "io_write", "pids" }) do
    local a, b = entry.limits[key], said and said[key]
    if a or b then limits[key] = math.min(a or b, b or a) end
  end
  return limits
end

-- ---- the making ----

local function load(run, number)
  local generation, err, code = await(function(done)
    require("lattice.policies").load({ number = number, files = { run.file }, mesh = config_.mesh(run.agent.config) }, done)
  end)
  if not generation then return nil, err, code end
  for _, file in ipairs(generation:info().files) do
    local problem = file:sub(1, 1) == "/" and doubt(file)
    if problem then
      generation:close()
      return nil, "policy: " .. problem, "EACCES"
    end
  end
  return generation
end

-- The agent's own sinks, that of the run's policy not: it names files for the user's supervisor. Who rotates is the node.
local function routes(agent)
  local list = require("lattice.generation").routes(agent.config.audit)
  for _, route in ipairs(list) do route.rotate = 0 end
  return list
end

local function open_events(run, generation)
  local events, err, code = require("lattice.events").open({ routes = routes(run.agent), run_name = run.name,
    run_id = run.id, mode = "kernel", policy = generation:info().name })
  if not events then return nil, "audit: " .. tostring(err), code end
  run.events = events
  events:generation(generation)
  events:tap(TAP)
  for _, ring in ipairs(assert(run.filter:rings())) do
    local ok
    ok, err, code = events:ring(ring)
    if not ok then return nil, err, code end
  end
  events:on({ name = "tell", call = function() run:tell_soon() end })
  run.teller = loop.timer(TELL_MS, function() run:tell() end, TELL_MS)
  events:record("start", { uid = run.uid, pid = run.pid, status = 0, generation = generation:number(),
    text = ("mode kernel for uid %d, init %d, policy %s"):format(run.uid, run.pid, run.file) })
  return true
end

-- Out of the group again, to where it hangs: a process that is not the run's.
local function put_back(run)
  for _, path in ipairs(run.group:paths()) do
    for _, pid in ipairs(process.members(path)) do
      process.write(path:match("^(.*)/[^/]+/[^/]+$") .. "/cgroup.procs", tostring(pid))
    end
  end
end

-- What the supervisor's self-check tries is refused whatever the policy says (LAT_PROBE_ADDR4).
local PROBE = { { id = 1, action = "deny", log = true, entries = { { rule = 1, dir = "out", proto = 255, addr = "240.0.0.1",
  len = 32, family = 4, lo = 0, hi = 65535 } } } }

local function make(run, spec)
  local ok, err, code = check_init(spec)
  if not ok then return nil, err, code end
  if spec.dns_port and not owns_port(run.uid, spec.dns_port) then
    return nil, ("port %d of 127.0.0.1 has no socket of uid %d"):format(spec.dns_port, run.uid), "EPERM"
  end
  local generation
  generation, err, code = load(run, 1)
  if not generation then return nil, err, code end
  run.generation = generation
  run.limits = M.limits(run.entry, generation:info().limits)
  run.group, err, code = require("lattice.cgroup").make({ name = "run-" .. run.id, limits = run.limits, programs = true })
  if not run.group then return nil, err, code end
  run.path = run.group:path()
  local filter
  filter, err, code = await(function(done)
    require("lattice.tc").open({ cgroup = { path = run.path, bind = run.entry.network, dns_port = spec.dns_port,
      no_unix = spec.no_unix }, event_rate = EVENT_RATE }, done)
  end)
  if not filter then return nil, err, code end
  run.filter = filter
  ok, err, code = await(function(done) filter:apply(generation, nil, done) end)
  if ok then ok, err, code = filter:temporary(PROBE) end
  if ok then ok, err, code = open_events(run, generation) end
  if not ok then return nil, err, code end
  if run.ending then return nil, "nobody waits for the run any more", "ECANCELED" end
  -- The wall stands: now the init goes behind it. A process that got its number meanwhile does not stay.
  local stat
  stat, err, code = check_init(spec)
  if not stat or peer.ended(run.pidfd) then return nil, err or "the init has ended", code or "ESRCH" end
  ok, err, code = run.group:join(run.pid)
  if not ok then return nil, err, code end
  local now = process.stat(run.pid)
  if peer.ended(run.pidfd) or not now or now.start ~= stat.start then
    put_back(run)
    return nil, "the init ended while it was placed", "ESRCH"
  end
  return true
end

--- Makes the run; done(run), or done(nil, error, code) with nothing left of it.
---@param agent lattice.agent.Core
---@param spec lattice.agent.RunSpec
---@param done fun(run: lattice.agent.Run?, err: string?, code: any)
---@return lattice.agent.Run?  that is being made
function M.open(agent, spec, done)
  local pidfd, err, code = peer.pidfd(spec.pid)
  if not pidfd then return done(nil, ("process %d: %s"):format(spec.pid, err), code) end
  local run = setmetatable({ agent = agent, id = spec.id, uid = spec.uid, pid = spec.pid, name = spec.name,
    entry = spec.entry, file = spec.file, pidfd = pidfd, started = os.time(), queue = steps.queue(), lost = 0,
    tokens = PIN_BURST, filled = uv.now(), opening = true, closers = {} }, Run)
  run.queue(function() return make(run, spec) end, function(ok, problem, name)
    run.opening = false
    if ok and not run.ending then return done(run) end
    run:close(problem or "nobody waits for it", function() done(nil, problem or "nobody waits for the run", name) end)
  end)
  return run
end

-- ---- while it runs ----

--- Where what the tap has goes: sink(item) as lattice.control.Reply's more.
---@param sink fun(item: table): boolean
function Run:stream(sink) self.sink = sink end

--- Gives the supervisor the records that came.
function Run:tell()
  self.soon = nil
  if not self.sink or not self.events then return end
  local hex, count, lost = self.events:taken()
  self.lost = self.lost + lost
  if count == 0 and self.lost == 0 then return end
  local item = { events = hex, lost = self.lost > 0 and self.lost or nil }
  self.lost = self.sink(item) and 0 or self.lost + count
end

function Run:tell_soon()
  if self.soon then return end
  self.soon = true
  loop.defer(function() self:tell() end)
end

-- Why these are no pins of this run, or nil.
local function check_pins(generation, pins)
  if type(pins) ~= "table" or #pins > PINS then return ("pins: a list of at most %d"):format(PINS) end
  for _, pin in ipairs(pins) do
    local names = type(pin) == "table" and pin.names
    local family, hi, lo
    if type(names) == "table" and type(pin.addr) == "string" then family, hi, lo = addr.parse(pin.addr) end
    if not family or #names == 0 or #names > NAMES then return "pins: { addr, names }" end
    local private = addr.is_private(family, hi, lo)
    for _, name in ipairs(names) do
      local could, private_ok
      if type(name) == "string" and #name <= 253 then could, private_ok = generation:resolvable(name) end
      if not could then return ("pins: no rule of the policy knows the name '%s'"):format(tostring(name):sub(1, 60)) end
      if private and not private_ok then
        return ("pins: no rule lets '%s' stand for the private address %s"):format(name, pin.addr)
      end
    end
  end
  return nil
end

-- The supervisor resolves; a flood of pins would be the kernel's work for nothing.
local function take_token(self)
  local now = uv.now()
  self.tokens = math.min(PIN_BURST, self.tokens + (now - self.filled) * PIN_RATE / 1000)
  self.filled = now
  if self.tokens < 1 then return false end
  self.tokens = self.tokens - 1
  return true
end

--- The addresses that names stand for now, the whole list.
---@param pins { addr: string, names: string[] }[]
---@param done fun(ok: true?, err: string?, code: any)
function Run:pin(pins, done)
  if self.ending or not self.filter then return done(nil, "the run has ended", "ECANCELED") end
  local problem = check_pins(self.generation, pins)
  if problem then return done(nil, problem, "EINVAL") end
  if not take_token(self) then
    return done(nil, ("pins: at most %d lists a second"):format(PIN_RATE), "EAGAIN")
  end
  self.queue(function()
    if self.ending then return nil, "the run has ended", "ECANCELED" end
    local ok, err, code = await(function(pinned) self.filter:pin(pins, pinned) end)
    if ok then self.events:names(pins) end
    return ok, err, code
  end, done)
end

--- What the user's supervisor answered where the policy asks: for one process (pid 0: all) and so long. The programs look at
--- answers only where the tables say ask, so none opens what a rule decides.
---@param answer { addr: string, proto: integer, port: integer, pid: integer, allow: boolean, ms: integer }
---@return true?
---@return string? err
---@return any code
function Run:answer(answer)
  if self.ending or not self.filter then return nil, "the run has ended", "ECANCELED" end
  if not take_token(self) then return nil, ("answers: at most %d a second"):format(PIN_RATE), "EAGAIN" end
  return self.filter:answer(answer, answer.allow, answer.ms / 1000)
end

--- Reads the policy again and puts it in force; the same as before: nothing happens.
---@param done fun(result: { generation: integer, digest: string, changed: boolean, cut: integer }?, err: string?, code: any)
function Run:reload(done)
  self.queue(function()
    if self.ending then return nil, "the run has ended", "ECANCELED" end
    local old = self.generation
    local generation, err, code = load(self, old:number() + 1)
    if not generation then return nil, err, code end
    if generation:info().digest == old:info().digest then
      generation:close()
      return { generation = old:number(), digest = old:info().digest, changed = false, cut = 0 }
    end
    local ok
    ok, err, code = await(function(applied) self.filter:apply(generation, nil, applied) end)
    if not ok then
      generation:close()
      return nil, err, code
    end
    self.generation = generation
    self.events:generation(generation)
    local cut = 0
    if not generation:info().keep_established then cut = await(function(swept) self.filter:cut(swept) end) or 0 end
    self.events:record("reload", { text = ("generation %d: %s, %d flows cut"):format(generation:number(), self.file, cut),
      generation = generation:number(), uid = self.uid })
    old:close()
    return { generation = generation:number(), digest = generation:info().digest, changed = true, cut = cut }
  end, done)
end

--- For `status`.
---@return table
function Run:status()
  return { id = self.id, uid = self.uid, user = self.entry.user, pid = self.pid, name = self.name, policy = self.file,
    generation = self.generation and self.generation:number() or 0, network = self.entry.network, limits = self.limits,
    group = self.path, started = self.started, processes = self.path and #process.members(self.path) or 0 }
end

-- ---- the end ----

local function finish(self)
  if self.teller then self.teller:close() end
  if self.events then
    self.events:ends(self.filter)
    self:tell()
    self.events:record("exit", { text = self.why, uid = self.uid, pid = self.pid, status = 0 })
    self.events:close()
  end
  if self.filter then self.filter:close() end
  if self.group then self.group:close() end -- empty: removed, and the programs with it
  if self.generation then self.generation:close() end
  uv.fs_close(self.pidfd)
  self.events, self.filter, self.group, self.teller = nil, nil, nil, nil
  self.closed = true
  for _, done in ipairs(self.closers) do done() end
end

--- Kills all that is in the group, waits until it is empty, and removes it.
---@param why string
---@param done? fun()
function Run:close(why, done)
  if self.closed then return done and done() end
  self.closers[#self.closers + 1] = done
  self.ending, self.why = true, self.why or why
  if self.opening or self.killing then return end -- what is being made is taken back when it is there
  self.killing = true
  self.queue(function() return true end, function()
    if not self.group then return finish(self) end
    local function look()
      process.write(self.path .. "/cgroup.kill", "1")
      if process.populated(self.path) then return end
      self.killer:close()
      finish(self)
    end
    self.killer = loop.timer(0, look, EMPTY_MS)
  end)
end

return M
