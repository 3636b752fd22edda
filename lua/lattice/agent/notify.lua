-- What the service manager is told (sd_notify(3)): ready, reloading, status, and signs of life for its watchdog.
local M = {}

--- env: NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID (tests give their own). Without a manager every word is dropped.
---@param env? table<string, string>
---@return table notify
function M.new(env)
  local sys, loop = require("lattice.sys"), require("lattice.loop")
  env = env or { NOTIFY_SOCKET = os.getenv("NOTIFY_SOCKET"), WATCHDOG_USEC = os.getenv("WATCHDOG_USEC"),
    WATCHDOG_PID = os.getenv("WATCHDOG_PID") }
  local self = {}
  local path = env.NOTIFY_SOCKET
  local function send(...)
    if path and #path > 1 then sys.notify(path, table.concat({ ... }, "\n")) end
  end
  local function clean(text)
    return "STATUS=" .. text:gsub("%c+", " "):sub(1, 900)
  end
  function self.ready(status) send("READY=1", clean(status), "MAINPID=" .. sys.pid()) end
  function self.status(status) send(clean(status)) end
  function self.reloading() send("RELOADING=1", ("MONOTONIC_USEC=%d"):format(sys.clock() // 1000)) end
  function self.stopping() send("STOPPING=1") end
  local every = tonumber(env.WATCHDOG_USEC)
  if path and every and (not env.WATCHDOG_PID or tonumber(env.WATCHDOG_PID) == sys.pid()) then
    -- A loop that stands still sends none.
    local ms = math.max(1, every // 3000)
    self.timer = loop.timer(ms, function() send("WATCHDOG=1") end, ms)
  end
  function self.close()
    if self.timer then self.timer:close() end
    self.timer = nil
  end
  return self
end

return M
