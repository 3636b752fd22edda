-- latticed: the node agent as a program: arguments, signals, exit status. What it does is in start.lua and reload.lua.
local M = {}

-- What an error of the start means for the exit status.
local STATUS = { policy = 3, unavailable = 5, [402] = 6, EPERM = 5, EACCES = 5, stopped = 0 }

local function parse(argv)
  local parser = require("argparse")("latticed", "The node agent: guards the devices of its config by the policy.")
  parser:option("-c --config", "The configuration."):argname("FILE"):default(require("lattice.agent.config").FILE)
  parser:flag("--check", "Read and check the configuration and the policy, touch nothing.")
  parser:flag("-v --verbose", "Say more.")
  parser:flag("--version", "Say which version and edition this is.")
  parser:epilog("Signals: HUP reloads, TERM and INT stop and remove everything, USR2 ends and leaves enforcement in force.\n"
    .. "Exit: 0 stopped, 1 failed, 2 usage, 3 config or policy wrong, 5 privilege or kernel feature missing, 6 pro edition.")
  local ok, result = parser:pparse(argv)
  if ok then return result end
  return nil, result
end

local function check_policy(config)
  local ok, err
  require("lattice.agent.start").load_policy(config, 1, function(generation, problem)
    ok, err = generation ~= nil, problem
    if generation then
      local info = generation:info()
      if info.ask then io.stderr:write("warning: there is nobody to ask on a node: `ask` is deny\n") end
      generation:close()
    end
  end)
  require("lattice.loop").run()
  return ok, err
end

local function check(path)
  local config, err = require("lattice.agent.config").load(path)
  local ok
  if config then
    for _, warning in ipairs(config.warnings) do io.stderr:write("warning: ", warning, "\n") end
    ok, err = check_policy(config)
  end
  if not ok then
    io.stderr:write(tostring(err), "\n")
    return 3
  end
  io.stdout:write("ok\n")
  return 0
end

-- Runs until it is told to stop.
local function serve(config)
  local core, start = require("lattice.agent.core"), require("lattice.agent.start")
  local log, loop, reload = require("lattice.log"), require("lattice.loop"), require("lattice.agent.reload")
  local notify = require("lattice.agent.notify").new()
  local status, signals, agent, started, stopping, hup = 1, {}, nil, false, false, false
  local finished = {}

  local function finish(code)
    status = code
    notify.close()
    for _, signal in ipairs(signals) do signal:close() end
    loop.defer(loop.stop) -- what was just answered still goes out
  end
  local function stop(keep, done)
    finished[#finished + 1] = done
    if stopping then return end
    stopping, agent.stopping = true, true
    notify.stopping()
    start.stop(agent, keep, function()
      for _, answer in ipairs(finished) do answer() end
    end, function(good)
      log.info(keep and "ended; enforcement stays in force" or "stopped; everything is removed")
      finish(good and 0 or 1)
    end)
  end
  agent = core.new(config, { stop = stop, notify = notify })
  local function on(name, fn) signals[#signals + 1] = loop.signal(name, fn) end
  on("SIGPIPE", function() end)
  on("SIGTERM", function() stop(false) end)
  on("SIGINT", function() stop(false) end)
  on("SIGUSR2", function() stop(true) end)
  on("SIGHUP", function()
    if started then reload.request(agent, { by = "SIGHUP" }) else hup = true end
  end)
  start.start(agent, function(ok, err, code)
    if stopping then return end -- the stop that waits takes back what was done
    if not ok then
      log.error("not started: " .. tostring(err))
      return finish(STATUS[code] or 1)
    end
    started = true
    log.info(("guarding %s by %s (%s), generation %d"):format(table.concat(agent:device_names(), ", "),
      agent.enforcing.name, agent.choice.reason, agent.live:number()))
    notify.ready(reload.status_line(agent))
    if hup then reload.request(agent, { by = "SIGHUP" }) end
  end)
  -- A callback that raises is a fault of ours: it is told, and the agent goes on. Verdicts do not depend on it.
  repeat
    local ok, problem = pcall(loop.run)
    if not ok then log.error("internal error: " .. tostring(problem)) end
  until ok
  return status
end

--- The program.
---@param argv string[]
---@return integer status
function M.main(argv)
  local args, problem = parse(argv)
  if not args then
    io.stderr:write("latticed: ", problem, "\n")
    return 2
  end
  local sys, log = require("lattice.sys"), require("lattice.log")
  if args.version then
    local version = sys.version()
    io.stdout:write(("latticed %s (%s)\n"):format(version.version, version.edition))
    return 0
  end
  if args.check then return check(args.config) end
  log.level(args.verbose and "debug" or "info")
  log.service(not sys.isatty(2))
  local config, err = require("lattice.agent.config").load(args.config, { log = function(text) log.info(text) end })
  if not config then
    log.error(err)
    return 3
  end
  for _, warning in ipairs(config.warnings) do log.warn(warning) end
  return serve(config)
end

return M
