-- Looks after what is in force: other programs flush the tables (iptables -F, a firewall's restart) or put their own rules
-- before ours (Docker, kube-proxy). With the nft back end the kernel tells of each change; the legacy tables are looked at
-- every few seconds.
local iptables = require("lattice.iptables")
local loop = require("lattice.loop")

local M = {}

local SETTLE_MS = 30           -- after a change: others make several in a row
local AGAIN_MS = 1000          -- after we had to put something right: two that both want to be first
local EVERY_MS = { nft = 30000, legacy = 5000 }

---@class lattice.iptables.Guard
local Guard = {}
Guard.__index = Guard

--- Calls check(done) when something may have changed; never twice at once. done(whether something had to be put right).
---@param backend "nft"|"legacy"
---@param check fun(done: fun(changed: boolean))
---@return lattice.iptables.Guard
function M.new(backend, check)
  local self = setmetatable({ check = check, tells = backend == "nft" }, Guard)
  self:listen()
  self.timer = loop.timer(EVERY_MS[backend], function() self:look() end, EVERY_MS[backend])
  return self
end

function Guard:listen()
  self.changes = self.tells and iptables.changes()
  self.watch = self.changes and loop.watch(self.changes:fd(), "r", function()
    if self.changes:drain() then self:soon() end
  end)
end

--- Before a large change of our own: while somebody listens the kernel describes each rule of it, which takes it as long as
--- the change itself.
function Guard:pause()
  if self.closed or not self.watch then return end
  self.watch:close()
  self.changes:close()
  self.watch, self.changes = nil, nil
end

--- After it: what others did meanwhile is found by a look.
function Guard:resume()
  if self.closed or self.watch or not self.tells then return end
  self:listen()
  self:soon()
end

function Guard:soon()
  if self.pending or self.closed then return end
  self.pending = loop.timer(self.changed and AGAIN_MS or SETTLE_MS, function()
    self.pending = nil
    self:look()
  end)
end

function Guard:look()
  if self.closed then return end
  if self.looking then
    self.again = true
    return
  end
  self.looking = true
  self.check(function(changed)
    self.looking, self.changed = false, changed
    if self.again and not self.closed then
      self.again = false
      self:soon()
    end
  end)
end

function Guard:close()
  self.closed = true
  for _, key in ipairs({ "watch", "changes", "timer", "pending" }) do
    if self[key] then self[key]:close() end
    self[key] = nil
  end
end

return M
