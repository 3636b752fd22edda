-- One client of the control socket: its frames in, its requests under way, its answers out. Everything is bounded: what
-- it may send, ask at once, and leave unread. A client that does not read loses items of its streams, which are counted,
-- and in the end the connection; never does it cost memory.
local uv = require("luv")
local frames = require("lattice.control.frames")
local log = require("lattice.log")
local peer = require("lattice.peer")

local M = {}

---@class lattice.control.Request
---@field id integer
---@field verb string
---@field args table
---@field uid integer     who asks, as the kernel tells
---@field pid integer
---@field writer boolean  whether it may use read-write verbs
---@field access "write"|"read"|"run"
---@field gone fun(): boolean  who connected has ended, as far as the kernel tells
---@field session table   kept as long as the connection; `keep = true` in it: not closed for being idle

--- Called with the result it ends the request. The rest are fields; after the end all of them do nothing.
---@class lattice.control.Reply
---@operator call(any): nil
---@field error fun(text: string, code: string?, exit: integer?)  ends the request
---@field more fun(item: any): boolean  one item of a stream; false: it was dropped, and counted for the reader
---@field cancelled fun(fn: fun())  fn is called once when nobody waits for the answer any more
---@field closed fun(fn: fun())  fn is called once when the connection ends
---@field hold fun()  the answer may come after the server's own close: that does not wait for it

---@class lattice.control.Connection
local Connection = {}
Connection.__index = Connection

local function call_all(list)
  for _, fn in ipairs(list) do
    local ok, why = pcall(fn)
    if not ok then log.error("control: internal error:", why) end
  end
end

--- The connection has no more to say; what is written still goes out, for at most a second.
function Connection:finish()
  if self.finished then return end
  self.finished = true
  self.pipe:read_stop()
  local timer = uv.new_timer()
  local function gone()
    if not timer:is_closing() then timer:close() end
    self:close()
  end
  timer:start(self.limits.linger_ms, 0, gone)
  if not self.pipe:shutdown(gone) then gone() end
end

--- Ends it now: whoever works for it is told.
function Connection:close()
  if self.pipe:is_closing() then return end
  self.pipe:close()
  if self.peer.pidfd then uv.fs_close(self.peer.pidfd) end
  self.peer.pidfd = nil
  local pending, leaving = self.pending, self.leaving
  self.pending, self.leaving = {}, {}
  for _, one in pairs(pending) do
    one.over = true
    call_all(one.cancels)
  end
  call_all(leaving)
  self.on_close(self)
end

local function queued(self) return self.pipe:get_write_queue_size() end

-- One who asks and does not read is not read from either.
local function pace(self)
  local busy = queued(self) > self.limits.queue
  if busy == self.paused or self.finished or self.pipe:is_closing() then return end
  self.paused = busy
  if busy then self.pipe:read_stop() else self.pipe:read_start(self.on_read) end
end

--- Begins to read; `wait` in its options: not before this.
function Connection:begin()
  if not self.finished and not self.pipe:is_closing() then self.pipe:read_start(self.on_read) end
end

--- Sends an object; false when it could not be.
---@param value table
---@param may_drop? boolean  rather drop it than let the queue grow
---@return boolean sent
function Connection:send(value, may_drop)
  if self.pipe:is_closing() or self.finished then return false end
  local waiting = queued(self)
  if may_drop and waiting > self.limits.queue then return false end
  local bytes, why = frames.encode(value, frames.MAX_ANSWER)
  if not bytes then
    if may_drop then return false end
    bytes = assert(frames.encode({ id = value.id, ok = false,
      error = { text = why, code = "E2BIG", exit = 1 } }, frames.MAX_ANSWER))
  end
  if waiting > 0 and waiting + #bytes > self.limits.most then
    log.warn(("control: the client of uid %d does not read: closed"):format(self.peer.uid))
    self:close()
    return false
  end
  self.pipe:write(bytes, function(err)
    if err then self:close() else pace(self) end
  end)
  pace(self)
  return true
end

local function refuse(self, id, text, code, exit)
  self:send({ id = id, ok = false, error = { text = text, code = code or "EIO", exit = exit or 1 } })
end

--- Says why nothing will be answered here, and ends it.
---@param text string
---@param code string
---@param exit integer
function Connection:reject(text, code, exit)
  refuse(self, nil, text, code, exit)
  self:finish()
end

-- The reply that goes with a request; see lattice.control.Reply.
local function new_reply(self, id)
  local one = { cancels = {}, lost = 0, over = false }
  self.pending[id], self.count = one, self.count + 1

  local function last(answer)
    if one.over then return end
    one.over = true
    self.pending[id], self.count = nil, self.count - 1
    answer.id, answer.lost = id, one.lost > 0 and one.lost or nil
    self.active_ms = uv.now()
    self:send(answer)
    if self.ending and self.count == 0 then self:finish() end
  end
  one.stop = function()
    if one.over then return end
    call_all(one.cancels)
    last({ ok = true, cancelled = true })
  end
  local reply = {}
  function reply.error(text, code, exit)
    last({ ok = false, error = { text = tostring(text), code = code or "EIO", exit = exit or 1 } })
  end
  function reply.more(item)
    if one.over then return false end
    local sent = self:send({ id = id, ok = true, more = true, result = item,
      lost = one.lost > 0 and one.lost or nil }, true)
    one.lost = sent and 0 or one.lost + 1
    return sent
  end
  function reply.cancelled(fn) one.cancels[#one.cancels + 1] = fn end
  function reply.hold() self.held = true end
  function reply.closed(fn) self.leaving[#self.leaving + 1] = fn end
  return setmetatable(reply, { __call = function(_, result) last({ ok = true, result = result }) end })
end

local function valid(self, frame)
  if frame.v ~= frames.VERSION then
    return ("this agent speaks version %d of the protocol, not %s"):format(frames.VERSION, tostring(frame.v)),
      "EPROTONOSUPPORT"
  elseif math.type(frame.id) ~= "integer" then
    return "a request needs an integer id", "EINVAL"
  elseif self.pending[frame.id] then
    return ("request %d is still under way"):format(frame.id), "EEXIST"
  elseif type(frame.verb) ~= "string" or (frame.args ~= nil and type(frame.args) ~= "table") then
    return "a request has a verb and a table of arguments", "EINVAL"
  elseif self.count >= self.limits.requests then
    return ("more than %d requests at once"):format(self.limits.requests), "EBUSY"
  end
end

local function take(self, frame)
  if frame.cancel ~= nil then
    local one = self.pending[frame.cancel]
    if one then one.stop() end
    return
  end
  local why, code = valid(self, frame)
  if why then
    return refuse(self, math.type(frame.id) == "integer" and frame.id or nil, why, code, 2)
  end
  local request = {
    id = frame.id, verb = frame.verb, args = frame.args or {}, uid = self.peer.uid, pid = self.peer.pid,
    writer = self.access == "write", access = self.access, session = self.session,
    gone = function() return self.peer.pidfd ~= nil and peer.ended(self.peer.pidfd) end,
  }
  self.on_request(request, new_reply(self, frame.id))
end

local function receive(self, err, bytes)
  if err or not bytes then return self:close() end
  self.active_ms = uv.now()
  local found, why = self.decoder:feed(bytes)
  for _, frame in ipairs(found or {}) do
    if self.pipe:is_closing() or self.finished then return end
    take(self, frame)
  end
  if why and not self.pipe:is_closing() then self:reject(why, "EPROTO", 2) end
end

--- Lets what is under way end, and then closes; what could go on for long (it asked to be told of a cancel) is ended.
function Connection:stop()
  self.ending = true
  local list = {}
  for _, one in pairs(self.pending) do
    if #one.cancels > 0 then list[#list + 1] = one end
  end
  for _, one in ipairs(list) do one.stop() end
  if self.count == 0 then self:finish() end
end

--- Whether it may be closed for having nothing to do.
---@param now integer  uv.now()
---@return boolean
function Connection:idle(now)
  return self.count == 0 and not self.session.keep and now - self.active_ms > self.limits.idle_ms
end

---@class lattice.control.ConnectionOptions
---@field peer lattice.peer.Peer
---@field access "write"|"read"|"run"|"none"
---@field limits table<string, integer>
---@field on_request fun(request: lattice.control.Request, reply: lattice.control.Reply)
---@field on_close fun(self: lattice.control.Connection)
---@field wait boolean?  begin() starts to read

--- Starts to read, unless it is to wait.
---@param pipe table  accepted luv pipe; owned from now on
---@param options lattice.control.ConnectionOptions
---@return lattice.control.Connection
function M.new(pipe, options)
  local self = setmetatable({
    pipe = pipe, peer = options.peer, access = options.access, limits = options.limits,
    on_request = options.on_request, on_close = options.on_close, decoder = frames.decoder(frames.MAX_REQUEST),
    pending = {}, count = 0, leaving = {}, session = {}, active_ms = uv.now(), paused = false,
  }, Connection)
  self.on_read = function(err, bytes)
    local ok, why = pcall(receive, self, err, bytes)
    if ok then return end
    log.error("control: internal error:", why)
    self:close()
  end
  if not options.wait then self:begin() end
  return self
end

return M
