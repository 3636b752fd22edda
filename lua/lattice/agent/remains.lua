-- What a dead agent left in this network namespace (kill -9, a crash): found and removed, for `lattice down` without an
-- agent. The devices first: nothing may pass by them unguarded.
local steps = require("lattice.agent.steps")

local M = {}

local await = steps.await

-- Devices that an agent made, by their mark; the children that carry their traffic end with them.
local function remove_devices(removed, failures)
  local links = require("lattice.link").open()
  if not links then return end
  local owner = require("lattice.agent.device_owner")
  for _, one in ipairs(links:list() or {}) do
    local mark = one.alias and owner.read(one.alias)
    if mark and not mark.running then
      local ok, err = links:delete(one.index)
      if ok then removed[#removed + 1] = "device " .. one.name else failures[#failures + 1] = one.name .. ": " .. err end
    end
  end
  links:close()
end

local function remove_programs(pins, removed, failures)
  if require("lattice.sys").version().edition ~= "pro" then return end
  local fs, err = require("lattice.bpffs").open(pins)
  if not fs then
    failures[#failures + 1] = err
    return
  end
  local path = fs:find()
  if not path then return fs:close() end
  local count
  count, err = await(function(done) require("lattice.enforcer.ebpf").clear({ pins = path }, done) end)
  fs:remove()
  if not count then
    failures[#failures + 1] = "eBPF programs: " .. tostring(err)
  elseif count > 0 then
    removed[#removed + 1] = ("eBPF programs and pins of %d devices"):format(count)
  end
end

local function remove_rules(removed, failures)
  local options = { devices = {}, log = function() end }
  local backend, task = require("lattice.enforcer.iptables.backend"), require("lattice.enforcer.iptables.task")
  for _, name in ipairs(backend.names) do
    local ours = await(function(done) task.run(function() return backend.has_ours(name) end, done) end)
    if ours then removed[#removed + 1] = ("iptables rules (%s)"):format(name) end
  end
  for _, part in ipairs({ "iptables", "nat" }) do
    local ok, err = await(function(done) require("lattice.enforcer." .. part).remove(options, done) end)
    if not ok then failures[#failures + 1] = part .. ": " .. tostring(err) end
  end
end

--- Removes it all. done(list of what was removed), or done(nil, what could not be).
---@param options { pins?: string }
---@param done fun(removed: string[]?, err?: string)
function M.remove(options, done)
  steps.run(function()
    local held = require("lattice.agent.locks").held()
    if held then
      return nil, ("an agent is alive here (it holds %s), with another control socket: lattice --socket PATH down")
        :format(held)
    end
    local removed, failures = {}, {}
    remove_devices(removed, failures)
    remove_programs(options.pins or require("lattice.agent.config").PINS, removed, failures)
    remove_rules(removed, failures)
    local found, names = pcall(require, "lattice.agent.names")
    if found and names.clear then names.clear() end
    require("lattice.agent.locks").sweep()
    if #failures > 0 then return nil, table.concat(failures, "; ") end
    return removed
  end, done)
end

return M
