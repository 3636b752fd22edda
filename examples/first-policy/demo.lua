-- The story of `lattice run` in five seconds: two servers of this host, a policy that names one of them, a program
-- that talks to both. Then the policy is edited, the supervisor gets SIGHUP, and the refused connection passes.
-- Exit 0 only if the allow was allowed, the deny denied, and the reload changed it.
local uv = require("luv")

local here = arg[0]:match("^(.*)/") or "."
local lattice = os.getenv("LATTICE") or here .. "/../../build/lattice"
local colour = uv.guess_handle(1) == "tty"
local folder = assert(uv.fs_mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/lattice-demo-XXXXXX"))
local policy = folder .. "/first.lua"
local patience = 15000 -- milliseconds for each step, on a slow and busy machine
local children = {}

local function say(...)
  io.write(...)
  io.write("\n")
  io.flush()
end

local function paint(code, text)
  return colour and ("\27[1;%dm%s\27[0m"):format(code, text) or text
end

local function finish(code)
  for _, child in ipairs(children) do
    if not child.handle:is_closing() then child.handle:kill("sigterm") end
  end
  os.remove(policy)
  os.remove(folder)
  os.exit(code)
end

local function fail(...)
  say(paint(31, "the demo failed: "), ...)
  finish(1)
end

-- The demo reads straight down: a coroutine that sleeps in wait() until a callback of the loop wakes it.
local waiting
local function wait(what)
  local timer = uv.new_timer()
  waiting = coroutine.running()
  timer:start(patience, 0, function()
    fail("no sign of ", what, " after ", patience // 1000, " s")
  end)
  local value = coroutine.yield()
  timer:close()
  return value
end

local function wake(value)
  local sleeper = waiting
  if sleeper then
    waiting = nil
    assert(coroutine.resume(sleeper, value))
  end
end

-- Starts a program; its stdout lines wake the demo, its stderr is shown.
local function start(command, arguments)
  local child = { input = uv.new_pipe(false), lines = "" }
  local output, errors = uv.new_pipe(false), uv.new_pipe(false)
  local err
  child.handle, err = uv.spawn(command, { args = arguments, stdio = { child.input, output, errors } },
    function(code)
      child.handle:close()
      if not child.ending then fail(command, " ended with status ", code) end
      wake("ended")
    end)
  if not child.handle then fail(command, ": ", err) end
  children[#children + 1] = child
  output:read_start(function(_, data)
    child.lines = child.lines .. (data or "")
    child.lines = child.lines:gsub("([^\n]*)\n", function(line)
      wake(line)
      return ""
    end)
  end)
  errors:read_start(function(_, data)
    if data then io.stderr:write((data:gsub("([^\n]+)", "    %1"))) end
  end)
  return child
end

-- The policy allows both ports; the line above that, while it is there, denies the second.
local function write_policy(open, closed, denied)
  local deny = denied and ('deny "tcp to host port %s"\n'):format(closed) or ""
  local text = ('policy "first"\ndefault "deny"\n%sallow "tcp to host port %s, %s"\n'):format(deny, open, closed)
  local file = assert(io.open(policy, "w"))
  file:write(text)
  file:close()
  say((text:gsub("([^\n]+)\n", "    %1\n"):gsub("\n$", "")))
end

-- Sends the program to a port and returns whether it got there.
local function try(program, port)
  program.input:write(port .. "\n")
  local line = wait("an answer from port " .. port)
  return line:find("answered", 1, true) ~= nil, line
end

local function show(port, good, line)
  say("  connect to port ", port, ": ", good and paint(32, "ALLOWED") or paint(31, "DENIED"),
    "  (", line:match("^%d+ (.*)$") or line, ")")
end

local function pause(milliseconds)
  local timer = uv.new_timer()
  local me = coroutine.running()
  timer:start(milliseconds, 0, function()
    timer:close()
    assert(coroutine.resume(me))
  end)
  coroutine.yield()
end

local function demo()
  start("lua5.4", { here .. "/server.lua", "127.0.0.1", "0", "0" })
  local open, closed = wait("the servers"):match("^(%d+) (%d+)$")
  say("Two servers of this host listen on the ports ", open, " and ", closed, ". The policy:")
  write_policy(open, closed, true)
  say("lattice run --policy first.lua -- lua5.4 client.lua")
  local program = start(lattice, { "run", "-v", "--policy", policy, "--", "lua5.4", here .. "/client.lua" })

  local good, line = try(program, open)
  show(open, good, line)
  if not good then fail("the policy allows port ", open) end
  good, line = try(program, closed)
  show(closed, good, line)
  if good then fail("the policy denies port ", closed) end

  say("The line with deny is taken out, and the supervisor gets SIGHUP:")
  write_policy(open, closed, false)
  program.handle:kill("sighup")
  local give_up = uv.now() + patience
  repeat
    pause(50)
    good, line = try(program, closed)
  until good or uv.now() > give_up
  show(closed, good, line)
  if not good then fail("the reload changed nothing") end

  program.ending = true
  program.input:close()
  wait("the end of the program")
  finish(0)
end

assert(coroutine.resume(coroutine.create(demo)))
uv.run()
