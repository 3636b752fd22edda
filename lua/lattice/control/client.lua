-- The other end of the control socket, for the commands.
--
--   local c, err, code = client.open("/run/lattice/control.sock")   -- runs the loop until connected
--   local result, err = c:call("status")                            -- runs the loop until answered
--   local id = c:request("watch", { last = 5 }, { item = function(event, lost) end, done = function(result, err) end })
--   c:cancel(id)   c:close()
--
-- An error is { text, code, exit }.
local uv = require("luv")
local frames = require("lattice.control.frames")
local peer = require("lattice.peer")
local sys = require("lattice.sys")

local M = {}

M.DEFAULT = "/run/lattice/control.sock"
local CONNECT_MS, ANSWER_MS = 5000, 15000
-- What takes its time: policies of any size, everything removed.
local SLOW_MS = { reload = 300000, down = 120000 }

---@class lattice.control.Error
---@field text string
---@field code string
---@field exit integer

---@class lattice.control.Client
---@field path string
---@field server lattice.peer.Peer  who listens
---@field ended lattice.control.Error?  why nothing more can come
local Client = {}
Client.__index = Client

local function unreachable(path, text, code)
  if code == "EACCES" or code == "EPERM" then
    return { text = ("%s: %s"):format(path, text), code = code, exit = 5 }
  end
  return { text = ("no agent answers on %s: %s"):format(path, text), code = code, exit = 4 }
end

local hints = {
  ENOENT = "start latticed, or name its socket (lattice --socket PATH ...)",
  ECONNREFUSED = "the agent that made this socket is dead; start latticed",
  EACCES = "you may not use it: be root, or in the group that it belongs to (lattice)",
}

-- Nothing more comes: everybody who waits is told.
local function finish(self, err)
  if self.ended then return end
  self.ended = err
  if not self.pipe:is_closing() then self.pipe:close() end
  self.broken_pipe:close()
  local waiting = self.waiting
  self.waiting = {}
  for _, one in pairs(waiting) do one.done(nil, err) end
end

local function take(self, frame)
  local one = frame.id ~= nil and self.waiting[frame.id]
  if not one then
    -- without an id: the agent does not want to talk to us
    if frame.id == nil and frame.ok == false and type(frame.error) == "table" then finish(self, frame.error) end
    return
  end
  if frame.more then
    if one.item then one.item(frame.result, frame.lost or 0) end
    return
  end
  self.waiting[frame.id] = nil
  if frame.ok then
    one.done(frame.result or {}, nil, frame.lost or 0)
  else
    one.done(nil, frame.error)
  end
end

local function receive(self, err, bytes)
  if err or not bytes then
    return finish(self, unreachable(self.path, err or "it closed the connection", err or "EPIPE"))
  end
  local found, why = self.decoder:feed(bytes)
  for _, frame in ipairs(found or {}) do take(self, frame) end
  if why then finish(self, { text = "the agent answered " .. why, code = "EPROTO", exit = 1 }) end
end

--- Sends a request; done(result) or done(nil, error) comes once, item(result, lost) for each of a stream.
---@param verb string
---@param args table?
---@param options { done: fun(result: table?, err: lattice.control.Error?), item: fun(item: any, lost: integer)? }
---@return integer? id
function Client:request(verb, args, options)
  if self.ended then
    options.done(nil, self.ended)
    return nil
  end
  self.next_id = self.next_id + 1
  local id = self.next_id
  local bytes, why = frames.encode({ v = frames.VERSION, id = id, verb = verb, args = args }, frames.MAX_REQUEST)
  if not bytes then
    options.done(nil, { text = why, code = "E2BIG", exit = 2 })
    return nil
  end
  self.waiting[id] = options
  self.pipe:write(bytes)
  return id
end

--- Ends a stream; its done comes with what the agent says.
---@param id integer
function Client:cancel(id)
  if not self.ended then self.pipe:write(assert(frames.encode({ cancel = id }, frames.MAX_REQUEST))) end
end

--- Asks, and runs the loop until the answer is there.
---@param verb string
---@param args table?
---@param timeout_ms integer?
---@return table? result
---@return lattice.control.Error? err
function Client:call(verb, args, timeout_ms)
  local result, err, over
  local timer = uv.new_timer()
  timer:start(timeout_ms or SLOW_MS[verb] or ANSWER_MS, 0, function()
    finish(self, unreachable(self.path, "it did not answer in time", "ETIMEDOUT"))
  end)
  self:request(verb, args, { done = function(r, e) result, err, over = r, e, true end })
  while not over do uv.run("once") end
  timer:close()
  return result, err
end

--- Ends the connection.
function Client:close()
  finish(self, { text = "closed", code = "ECANCELED", exit = 1 })
  uv.run("nowait")
end

-- Somebody else's socket in the agent's place would only tell us lies.
local function trusted(self)
  local who, why = peer.of(self.pipe:fileno())
  if not who then return nil, unreachable(self.path, why, "EIO") end
  self.server = who
  if who.uid == 0 or who.uid == sys.uid() then return true end
  return nil, { text = ("%s is not an agent's: uid %d listens there"):format(self.path, who.uid),
    code = "EACCES", exit = 4 }
end

--- Connects.
---@param path string?
---@return lattice.control.Client?
---@return lattice.control.Error? err
function M.open(path)
  path = path or M.DEFAULT
  local self = setmetatable({
    path = path, pipe = uv.new_pipe(false), decoder = frames.decoder(frames.MAX_ANSWER), waiting = {}, next_id = 0,
  }, Client)
  local over, err
  local timer = uv.new_timer()
  timer:start(CONNECT_MS, 0, function() over, err = true, "ETIMEDOUT" end)
  local ok, why, code = self.pipe:connect(path, function(e) over, err = true, e end)
  if not ok then over, err = true, code or why end
  while not over do uv.run("once") end
  timer:close()
  self.broken_pipe = uv.new_signal() -- an agent that goes away is an error, and what it said before is read
  self.broken_pipe:start("sigpipe", function() end)
  self.broken_pipe:unref()
  local problem
  if err then
    problem = unreachable(path, hints[err] or err, err)
  else
    problem = select(2, trusted(self))
  end
  if problem then
    self.pipe:close()
    self.broken_pipe:close()
    uv.run("nowait")
    return nil, problem
  end
  self.pipe:read_start(function(e, bytes) receive(self, e, bytes) end)
  return self
end

return M
