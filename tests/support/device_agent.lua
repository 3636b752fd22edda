-- An agent that has devices and no policy, for tests: `lattice lua device_agent.lua CONFIG` opens the devices of the Lua
-- table in CONFIG, prints "open", raises them and prints "up". SIGHUP reads CONFIG again; SIGUSR1 prints the status as
-- JSON; SIGTERM ends and removes, SIGUSR2 ends and keeps. LATTICE_HOLD: waits for SIGUSR1 before raising.
local device = require("lattice.agent.device")
local json = require("lattice.json")
local loop = require("lattice.loop")

local function say(...)
  print(...)
  io.stdout:flush()
end

local function config()
  return assert(loadfile(arg[1]))()
end

local handles, signals, raised = {}, {}, false
local options = {
  adopt = true, log = function(level, text) say(level .. ": " .. text) end,
  gone = function(name) say("gone " .. name) end,
  back = function(name)
    say("back " .. name)
    for _, handle in ipairs(handles) do handle:raise(function(ok, err) say(ok and "raised again" or err) end) end
  end,
}

local function finish(keep)
  for _, handle in ipairs(handles) do
    handle:close(keep, function(ok, err) say(ok and "closed" or err) end)
  end
  for _, signal in ipairs(signals) do signal:close() end
end

local function raise()
  raised = true
  for _, handle in ipairs(handles) do
    handle:raise(function(ok, err) say(ok and "up" or "not up: " .. err) end)
  end
end

local function on(name, fn)
  signals[#signals + 1] = assert(loop.signal(name, fn))
end
on("SIGTERM", function() finish(false) end)
on("SIGUSR2", function() finish(true) end)
on("SIGUSR1", function()
  if not raised then return raise() end
  for _, handle in ipairs(handles) do say("status " .. json.encode(handle:status())) end
end)
on("SIGHUP", function()
  for i, one in ipairs(config()) do
    handles[i]:change(one, function(ok, err) say(ok and "changed" or "refused: " .. err) end)
  end
end)

for _, one in ipairs(config()) do
  device.open(one, options, function(handle, err, code)
    if not handle then
      say(("cannot: %s (%s)"):format(err, code))
      return finish(false)
    end
    handles[#handles + 1] = handle
    say("open", handle.adopted and "adopted" or "new")
    if not os.getenv("LATTICE_HOLD") then raise() end
  end)
end
loop.run()
