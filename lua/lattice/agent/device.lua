-- The devices of the config: makes them (WireGuard by the kernel or wireguard-go, TUN), or takes over what a killed agent
-- left; down until the agent says that the policy is in force; gone again when the agent stops.
--
-- A device outlives an agent that is killed, for its policy does, too (the kernel holds both); the next start takes it
-- over by its mark (device_owner.lua). A device that goes away under us takes every way through it along: it is made
-- anew, down.
local link = require("lattice.link")
local loop = require("lattice.loop")
local net = require("lattice.agent.device_net")
local owner = require("lattice.agent.device_owner")
local steps = require("lattice.agent.steps")
local wireguard = require("lattice.wireguard")

local M = {}

local REFRESH_MS = 5000            -- of what status() tells about the peers
local AGAIN_MS, AGAIN_MAX = 500, 30000 -- from one try to make a lost device anew to the next

local await = steps.await

---@class lattice.agent.device.Handle
local Device = {}
Device.__index = Device

-- What of the config goes to WireGuard. Endpoints of `before` are not set again: the peer may have moved since.
local function wireguard_config(device, before)
  local known = {}
  for _, peer in ipairs(before and before.wireguard.peers or {}) do known[peer.key] = peer.endpoint end
  local peers = {}
  for i, peer in ipairs(device.wireguard.peers) do
    peers[i] = { key = peer.key, allowed = peer.allowed, keepalive = peer.keepalive, preshared_file = peer.preshared,
      endpoint = known[peer.key] ~= peer.endpoint and peer.endpoint or nil }
  end
  return { private_key_file = device.wireguard.key, listen = device.wireguard.listen, peers = peers, replace = true }
end

-- Keys, peers, MTU and addresses: what can be set while the device is down. Inside steps.run.
local function configure(self, device, before)
  if self.wg then
    local ok, err, code = await(function(done) self.wg:set(wireguard_config(device, before), done) end)
    if not ok then return nil, err, code end
  end
  return net.addresses(self.links, device)
end

local function mark(self)
  return self.links:set(self.config.name, { alias = owner.mark(self.wg and self.wg:pid()) })
end

-- A device of that name, of no agent or of one that runs: whose it is; nil when we may have the name.
local function refusal(links, device)
  local there, err, code = links:get(device.name)
  if not there then
    if code == "ENODEV" then return nil, nil end
    return err, nil
  end
  local mine = owner.read(there.alias)
  if not mine then
    return ("there is a device '%s' already, and latticed did not make it: remove it (ip link delete %s), or guard it "
      .. "as it is (kind = \"existing\")"):format(device.name, device.name)
  elseif mine.running and mine.pid ~= require("lattice.sys").pid() then
    return ("device '%s' belongs to another latticed (pid %d): stop that one first"):format(device.name, mine.pid)
  end
  return nil, { link = there, child = mine.child }
end

local lost -- below

local function make_wireguard(self, left)
  local device = self.config
  local wg, err, code
  if left and (left.child or left.link.kind == "wireguard") then
    wg, err = await(function(done) wireguard.adopt({ name = device.name, pid = left.child }, done) end)
    self.adopted = wg ~= nil
    if not wg then self.log("warn", ("device '%s' is made anew: %s"):format(device.name, err)) end
  end
  if left and not wg then
    local ok
    ok, err, code = self.links:delete(left.link.index)
    if not ok and code ~= "ENODEV" then return nil, err, code end
  end
  if not wg then
    wg, err, code = await(function(done) wireguard.open({ name = device.name, alias = owner.mark() }, done) end)
    if not wg then return nil, err, code end
  end
  self.wg, self.index = wg, wg:index()
  local ok
  ok, err, code = wg:ended(function() lost(self) end)
  if ok then ok, err, code = mark(self) end
  if ok then ok, err, code = configure(self, device) end
  if not ok then
    -- What was running stays as it was; what we made goes.
    if self.adopted then wg:release() else wg:close() end
    self.wg, self.index = nil, nil
    return nil, err, code
  end
  return true
end

-- A TUN for another program to attach to: it persists, and its descriptor is closed again.
local function make_tun(self, left)
  local device = self.config
  if not left then
    local tun <close>, err, code = require("lattice.tun").open { name = device.name, persist = true }
    if not tun then return nil, err, code end
  end
  self.adopted = left ~= nil
  self.index = assert(self.links:get(device.name)).index
  local ok, err, code = mark(self)
  if ok then ok, err, code = configure(self, device) end
  if not ok and not left then self.links:delete(self.index) end
  return ok, err, code
end

local function take_existing(self)
  local there, err, code = self.links:get(self.config.name)
  if not there and code == "ENODEV" then
    return nil, ("there is no device '%s': make it first, or give it an address, and latticed makes it")
      :format(self.config.name), code
  end
  self.index = there and there.index
  return there and true, err, code
end

local function make(self)
  if self.config.kind == "existing" then return take_existing(self) end
  local why, left = refusal(self.links, self.config)
  if why then return nil, why, "EEXIST" end
  if left and not self.adopt then
    local ok, err, code = self.links:delete(left.link.index)
    if not ok and code ~= "ENODEV" then return nil, err, code end
    left = nil
  end
  if self.config.kind == "tun" then return make_tun(self, left) end
  return make_wireguard(self, left)
end

-- ---- a device that goes away ----

local function again(self, wait)
  if self.closed then return end
  self.timer = loop.timer(wait, function()
    self.timer = nil
    steps.run(function() return make(self) end, function(ok, err)
      if self.closed then
        return ok and self:close(false, function() end)
      elseif ok then
        return self.back(self.config.name)
      end
      self.log("error", ("device '%s' cannot be made anew: %s; nothing passes"):format(self.config.name, err))
      again(self, math.min(wait * 2, AGAIN_MAX))
    end)
  end)
end

function lost(self)
  local said = self.wg and self.wg:said() or ""
  self.index, self.state, self.up = nil, nil, false
  if self.wg then self.wg:close() end -- the rest: its process, or the device that it left
  self.wg = nil
  self.log("error", ("device '%s' is gone%s"):format(self.config.name, said ~= "" and ": " .. said or ""))
  self.gone(self.config.name)
  if self.config.kind ~= "existing" then again(self, AGAIN_MS) end
end

-- Somebody made an existing device again: it stays down until it is guarded.
local function found(self, there)
  self.index = there.index
  if there.up then self.lowered = self.links:set(there.index, { up = false }) end
  self.back(self.config.name)
end

local function look(self)
  local there = self.links:get(self.config.name)
  if self.index and (not there or there.index ~= self.index) then
    lost(self)
  end
  if not self.index and there and self.config.kind == "existing" then found(self, there) end
end

local function watch(self)
  local err, code
  self.watch, err, code = link.watch(nil, function(events)
    for _, event in ipairs(events) do
      local ours = event.what == "resync" or event.what == "link" and
        (event.name == self.config.name or event.index == self.index)
      if ours and not self.closed then return look(self) end
    end
  end)
  return self.watch and true, err, code
end

-- ---- the handle ----

local function refresh(self)
  if not self.wg or self.asking then return end
  self.asking = true
  self.wg:get(function(state, err)
    self.asking = false
    self.state, self.problem = state or self.state, err
  end)
end

--- Makes the device, down (one that was taken over is as it was).
---@param device lattice.agent.Device
---@param options table  adopt: boolean, log: fun(level, text), gone: fun(name), back: fun(name)
---@param done fun(handle: lattice.agent.device.Handle?, err?: string, code?: any)
function M.open(device, options, done)
  local links, err, code = link.open()
  if not links then return done(nil, err, code) end
  local self = setmetatable({ config = device, links = links, adopt = options.adopt, log = options.log,
    gone = options.gone, back = options.back, adopted = false, queue = steps.queue() }, Device)
  steps.run(function()
    local ok, why, what = watch(self)
    if ok then ok, why, what = make(self) end
    return ok, why, what
  end, function(ok, why, what)
    if ok then return done(self) end
    self.closed = true
    if self.watch then self.watch:close() end
    links:close()
    done(nil, why, what)
  end)
end

-- wireguard-go hears of "up" by itself, and opens its port then; what is sent before is lost. Bounded: a handshake is sent
-- again anyway.
local function await_port(self, done)
  local port = self.config.wireguard.listen
  local wanted = port and port > 0 and (":%04X "):format(port)
  local tries = 0
  local function listening()
    for _, name in ipairs({ "udp", "udp6" }) do
      local file = io.open("/proc/net/" .. name, "r")
      local text = file and file:read("a") or ""
      if file then file:close() end
      if text:find(wanted, 1, true) then return true end
    end
  end
  local function step()
    tries = tries + 1
    if self.closed or not wanted or tries > 200 or listening() then return done(true) end
    loop.timer(5, step)
  end
  step()
end

--- Up, with its routes; the policy is in force by then.
function Device:raise(done)
  local device = self.config
  if not self.index then return done(nil, ("device '%s' is gone"):format(device.name), "ENODEV") end
  if device.kind == "existing" then
    local ok, err, code = true, nil, nil
    if self.lowered then ok, err, code = self.links:set(self.index, { up = true }) end
    self.lowered = false
    return done(ok, err, code)
  end
  local ok, err, code = self.links:set(self.index, { up = true })
  if ok then ok, err, code = net.routes(self.links, device, self.log) end
  if not ok then
    self.links:set(self.index, { up = false })
    return done(nil, err, code)
  end
  self.up = true
  if self.wg and not self.ticker then
    self.ticker = loop.timer(REFRESH_MS, function() refresh(self) end, REFRESH_MS)
    refresh(self)
  end
  if self.wg and self.wg:pid() then return await_port(self, done) end
  return done(true)
end

--- Down: nothing passes. For an agent that finds that the policy is not in force.
function Device:lower(done)
  if not self.index then return done(true) end
  self.up = false
  return done(self.links:set(self.index, { up = false }))
end

--- Peers, addresses and MTU of a reload. On an error what was before is set again.
function Device:change(device, done)
  local old = self.config
  if device.kind ~= old.kind or device.name ~= old.name then
    return done(nil, ("%s: device '%s': its kind needs a restart"):format(device.where, old.name), "restart")
  end
  self.queue(function()
    if device.kind == "existing" then
      self.config = device
      return true
    elseif not self.index then
      self.config = device -- what it will be when it is made anew
      return true
    end
    local ok, err, code = configure(self, device, old)
    if ok and self.up then ok, err, code = net.routes(self.links, device, self.log) end
    if ok then
      self.config = device
      refresh(self)
      return true
    end
    configure(self, old, device)
    if self.up then net.routes(self.links, old, function() end) end
    return nil, ("%s: device '%s': %s"):format(device.where, old.name, err), code
  end, done)
end

--- For `status`.
---@return table
function Device:status()
  local device, there = self.config, self.index and self.links:get(self.config.name) or nil
  local status = { name = device.name, kind = device.kind, up = there ~= nil and there.up, present = there ~= nil,
    index = self.index, mtu = there and there.mtu, address = device.address }
  if device.kind == "existing" and there then
    status.address = {}
    for _, one in ipairs(self.links:addresses(self.index) or {}) do
      status.address[#status.address + 1] = one.address
    end
  end
  if self.wg then
    local state = self.state or {}
    status.by, status.public_key, status.listen = self.wg:kind(), state.public_key, state.listen
    status.peers, status.problem = state.peers or {}, self.problem
  end
  return status
end

--- keep: leave it to the next agent, else remove what was made.
function Device:close(keep, done)
  if self.closed and not self.links then return done(true) end
  self.closed = true
  for _, name in ipairs({ "watch", "timer", "ticker" }) do
    if self[name] then self[name]:close() end
    self[name] = nil
  end
  local ok, err, code = true, nil, nil
  if self.wg then
    if keep then self.wg:release() else self.wg:close() end
  elseif self.index and self.config.kind == "tun" and not keep then
    ok, err, code = self.links:delete(self.index)
    if code == "ENODEV" then ok = true end
  end
  self.wg, self.index = nil, nil
  if self.links then self.links:close() end
  self.links = nil
  return done(ok, err, code)
end

return M
