-- The control socket of the agent: who may connect, which verbs there are, and who may use them.
--
--   server.open(agent, { path = "/run/lattice/control.sock", group = "lattice" }, function(control, err, code) end)
--   control:verb("repl", { write = function(args) return args.write end, run = function(request, reply) end })
--   control:close(done)
--
-- Root and the members of the group may connect. Read-only verbs are for all of them, the others for root, for the
-- user the agent runs as, and for the users that `writers` names. Users that the agent lets run commands (agent:may_run) may
-- connect, too, and use the verbs of runs alone; where there are such, the socket is everybody's, and the others are turned
-- away. A verb that throws is an error of its request only.
local uv = require("luv")
local connection = require("lattice.control.connection")
local log = require("lattice.log")
local peer = require("lattice.peer")
local place = require("lattice.control.place")
local sys = require("lattice.sys")

local M = {}

local limits = {
  connections = 64,  -- at once
  others = 48,       -- of them for users that may not write: they cannot lock root out
  runners = 256,     -- beside them, at once: of users who may run commands and nothing else
  runners_uid = 32,  -- of one of them
  strangers = 16,    -- that are being told why not; those beyond are told nothing
  requests = 16,     -- under way in one connection
  queue = 256 << 10, -- bytes unread: beyond it items of streams are dropped, and no request is read
  most = 20 << 20,   -- bytes unread: beyond it the connection is closed
  idle_ms = 60000,   -- without a request
  linger_ms = 1000,  -- for the last bytes to go out
}

---@class lattice.control.Verb
---@field write boolean|fun(args: table): boolean  whether it changes anything
---@field runs boolean?  it is of runs: for users who may run commands and nothing else, too
---@field run fun(request: lattice.control.Request, reply: lattice.control.Reply)

---@class lattice.control.Options
---@field path string
---@field group string?     group whose members may connect; where it does not exist, none may
---@field writers? (string|integer)[]  users (names, ids) that may use read-write verbs, beside root
---@field everybody? boolean  anybody may connect: agent:may_run says who is not turned away
---@field limits? table<string, integer>  for tests

---@class lattice.control.Server
local Server = {}
Server.__index = Server

--- Adds a verb, or replaces one.
---@param name string
---@param spec lattice.control.Verb
function Server:verb(name, spec)
  assert(type(spec.run) == "function")
  self.verbs[name] = spec
end

local function names(verbs)
  local list = {}
  for name in pairs(verbs) do list[#list + 1] = name end
  table.sort(list)
  return table.concat(list, ", ")
end

local function dispatch(self, request, reply)
  local verb = self.verbs[request.verb]
  if not verb then
    return reply.error(("no verb '%s'; there are: %s"):format(request.verb, names(self.verbs)), "ENOSYS", 2)
  end
  if request.access == "run" and not verb.runs then
    return reply.error(("%s is not for you: uid %d may run commands here, and nothing else"):format(request.verb,
      request.uid), "EPERM", 5)
  end
  local ok, why = xpcall(function()
    local write = verb.write
    if type(write) == "function" then write = write(request.args) end
    if write and not request.writer then
      log.warn(("control: uid %d may not use %s"):format(request.uid, request.verb))
      return reply.error(("%s changes the agent: that is for root (you are uid %d); run it with sudo")
        :format(request.verb, request.uid), "EPERM", 5)
    end
    verb.run(request, reply)
  end, debug.traceback)
  if ok then return end
  log.error("control: internal error in " .. request.verb .. ":", why)
  reply.error(("internal error in %s: %s"):format(request.verb, tostring(why):match("^[^\n]*")), "EFAULT", 1)
end

local function contains(list, value)
  for _, one in ipairs(list) do
    if one == value then return true end
  end
  return false
end

-- "write" (all verbs), "read" or "run"; nil and why when it may nothing.
local function judge(self, who, fd)
  local home, why = peer.at_home(who.pid, fd)
  if home == nil then return nil, "it cannot be told where you run (" .. why .. ")" end
  if not home then return nil, "you are in another pid or user namespace (a sandbox?)" end
  if who.uid == 0 or who.uid == sys.uid() or contains(self.writers, who.uid) then return "write" end
  if self.gid and (who.gid == self.gid or contains(who.groups, self.gid)) then return "read" end
  if self.agent.may_run and self.agent:may_run(who.uid) then return "run" end
  return nil, self.gid and ("uid %d is not in the group '%s' (sudo usermod -aG %s USER, then log in again)")
    :format(who.uid, self.group, self.group)
    or ("only root may: there is no group '%s' here"):format(self.group or "lattice")
end

local function count(self, access, uid, step)
  local now = self.counts
  if access == "run" then
    now.run, now[uid] = now.run + step, (now[uid] or 0) + step
    if now[uid] == 0 then now[uid] = nil end
  else
    now[access] = now[access] + step
  end
end

local function full(self, access, uid)
  local now, most = self.counts, self.limits
  if access == "run" then return now.run >= most.runners or (now[uid] or 0) >= most.runners_uid end
  return now.write + now.read >= most.connections or access == "read" and now.read >= most.others
end

-- Who connects need not be who speaks: the supervisor of a sandbox connects the command's own socket, for whoever its policy
-- lets through to a path. So the first words are judged by the process that wrote them, before they are read.
local function listen_for(self, one, fd)
  local function refuse(why)
    log.warn(("control: pid %d, uid %d: %s"):format(one.peer.pid, one.peer.uid, why))
    one:reject("the control socket is not for you: " .. why, "EACCES", 5)
  end
  local copy, why = peer.copy(fd)
  if not copy then return refuse(why) end
  local poll = uv.new_poll(copy)
  function one.deaf()
    one.deaf = nil
    poll:close(function() uv.fs_close(copy) end)
  end
  poll:start("r", function()
    local pid, problem, code = peer.writer(copy)
    if code == "EAGAIN" then return end
    one.deaf()
    local home = pid == one.peer.pid and pid ~= 0
    if pid and pid ~= 0 and not home then home, problem = peer.at_home(pid) end
    if pid == 0 and peer.gone(fd) or home then return one:begin() end
    refuse(problem or "who speaks is in another pid or user namespace (a sandbox?)")
  end)
end

local function accept(self)
  local pipe = uv.new_pipe(false)
  local ok, why = self.listener:accept(pipe)
  local who
  if ok then who, why = peer.of(pipe:fileno()) end
  if not who then
    log.warn("control: a connection was not taken:", why)
    return pipe:close()
  end
  who.pidfd = peer.pidfd_of(pipe:fileno()) -- nil before Linux 6.5
  local access, refused = judge(self, who, pipe:fileno())
  local class = not access and "stranger" or full(self, access, who.uid) and "crowd" or access
  if (class == "stranger" or class == "crowd") and self.counts[class] >= self.limits.strangers then
    if who.pidfd then uv.fs_close(who.pidfd) end
    return pipe:close()
  end
  local one = connection.new(pipe, {
    peer = who, access = access or "none", limits = self.limits, wait = access and class == access,
    on_request = function(request, reply) dispatch(self, request, reply) end,
    on_close = function(one)
      if one.deaf then one.deaf() end
      if not self.connections[one] then return end
      self.connections[one] = nil
      count(self, class, who.uid, -1)
      if self.closing then self.closing() end
    end,
  })
  self.connections[one] = true
  count(self, class, who.uid, 1)
  if class == "crowd" then
    one:reject("the agent has too many connections; try again", "EBUSY", 1)
  elseif class == "stranger" then
    log.warn(("control: pid %d, uid %d: %s"):format(who.pid, who.uid, refused))
    one:reject("the control socket is not for you: " .. refused, "EACCES", 5)
  else
    listen_for(self, one, pipe:fileno())
  end
end

local function sweep(self)
  local now = uv.now()
  for one in pairs(self.connections) do
    if one:idle(now) then one:finish() end
  end
end

-- A connection that the close of the server has to wait for.
local function waited_for(self)
  for one in pairs(self.connections) do
    if not one.held then return one end
  end
end

--- Stops listening, removes the socket, lets answers under way go out (for a second at most), and closes. A request that
--- called reply.hold (the one that makes us close) keeps its connection until it is answered.
---@param done? fun()
function Server:close(done)
  done = done or function() end
  if self.closed then return done() end
  self.closed = true
  self.listener:close()
  self.sweeper:close()
  place.remove(self.path, self.identity)
  local timer = uv.new_timer()
  local over = false
  self.closing = function()
    if not next(self.connections) and not self.broken_pipe:is_closing() then self.broken_pipe:close() end
    if over or waited_for(self) then return end
    over = true
    timer:close()
    done()
  end
  timer:start(self.limits.linger_ms, 0, function()
    for one in waited_for, self do one:close() end
  end)
  local list = {}
  for one in pairs(self.connections) do list[#list + 1] = one end
  for _, one in ipairs(list) do one:stop() end
  self.closing()
end

local function listen(self, done)
  local ok, why, code = self.listener:bind(self.path)
  if ok then ok, why, code = peer.tell_writers(self.listener:fileno()) end
  if ok then
    self.identity = place.identity(self.path)
    ok, why = place.protect(self.path, self.gid, self.everybody)
  end
  if ok then
    ok, why, code = self.listener:listen(64, function(err)
      if not err then accept(self) end
    end)
  end
  if not ok then
    self.listener:close()
    place.remove(self.path, self.identity)
    return done(nil, ("control socket %s: %s"):format(self.path, why), code)
  end
  self.sweeper = uv.new_timer()
  self.sweeper:start(1000, 1000, function() sweep(self) end)
  self.sweeper:unref()
  self.broken_pipe = uv.new_signal() -- a client that goes away is an error of a write, not the end of the agent
  self.broken_pipe:start("sigpipe", function() end)
  self.broken_pipe:unref()
  done(self)
end

--- Whether users without any other right may connect, to run commands: what agent:may_run says is asked of each.
---@param on boolean
function Server:everybody_may(on)
  if self.everybody == on then return end
  self.everybody = on
  local ok, why = place.protect(self.path, self.gid, on)
  if ok then ok, why = place.pass(self.path, on) end
  if not ok then log.error("control: " .. tostring(why)) end
end

local function user_ids(writers)
  local list = {}
  for i, one in ipairs(writers or {}) do
    local uid, why = one, nil
    if type(one) == "string" then uid, why = peer.user(one) end
    if not uid then return nil, ("there is no user '%s' (%s)"):format(one, why) end
    list[i] = uid
  end
  return list
end

--- Opens the control socket. done(server), or done(nil, error, code).
---@param agent lattice.agent.Agent
---@param options lattice.control.Options
---@param done fun(server: lattice.control.Server?, err: string?, code: string?)
function M.open(agent, options, done)
  local writers, why = user_ids(options.writers)
  if not writers then return done(nil, why, "ENOENT") end
  local self = setmetatable({
    agent = agent, path = options.path, group = options.group, writers = writers, verbs = {}, connections = {},
    everybody = options.everybody or false,
    counts = { write = 0, read = 0, run = 0, stranger = 0, crowd = 0 },
    limits = setmetatable(options.limits or {}, { __index = limits }),
  }, Server)
  self.gid = options.group and peer.group(options.group) or nil
  place.prepare(self.path, self.gid, function(ok, err, code)
    if not ok then return done(nil, err, code) end
    if self.everybody then ok, err = place.pass(self.path, true) end
    if not ok then return done(nil, err, "EACCES") end
    self.listener = uv.new_pipe(false)
    require("lattice.control.verbs").add(self, agent)
    listen(self, done)
  end)
end

return M
