-- Bindings: a process that runs already, and all its children, on one device: sandbox.attach_pid(pid, "wf0"), detach_pid,
-- list_bindings. Underneath a binding is a group of cgroup v2 right below the one that the process was in (so limits, and
-- the service manager's account of it, stay), and programs on it: they put every socket that is made from then on on the
-- device, refuse any other, and, with a policy, judge. Where the device is gone nothing leaves.
--
-- The programs are the group's: a binding stays in force when whoever made it ends, and the next one finds it by the
-- group's name (lattice-bind-PID-START-DEVICE). It ends with its last process, or by detach.
--
-- What no binding reaches: sockets that were open before (they keep the group they were made in), and a process that may
-- write to another group's cgroup.procs (root).
local uv = require("luv")
local log = require("lattice.log")
local peer = require("lattice.peer")
local process = require("lattice.sandbox.process")

local M = {}

local PREFIX = "lattice-bind-"
local ROUNDS = 50    -- looks for children that were born meanwhile
local MAKING_S = 120
local EVERYTHING = { "allow any to any", "allow any to host", "allow in any from any" }

---@class lattice.sandbox.Binding
---@field pid integer
---@field start integer       of the process: ticks since the boot
---@field comm string?        nil: the process itself has ended, children of it are bound still
---@field device string
---@field group string        path of its directory
---@field processes integer   in it now
---@field policy string[]?    files that judge it
---@field mine boolean        made by this process: else by one that has ended, or by another
---@field moved integer?      of attach: processes that were moved
---@field skipped integer[]?  of attach: children in a sandbox of their own, which stay there
---@field open_before integer?  of attach: sockets that the process had before; nil: cannot be told

---@class lattice.sandbox.AttachOptions
---@field policy? string|string[]  files of a policy; without it the device alone counts
---@field events? fun(generation: lattice.policies.Generation): lattice.events.Source?  where its verdicts go
---@field ended? fun(binding: lattice.sandbox.Binding)  its last process has ended, and it is removed

local live = {} -- by group: what this process holds of its own bindings

local function parse(folder) return process.binding(folder:match("[^/]+$")) end

local function describe(folder)
  local pid, start, device = parse(folder)
  if not pid then return nil end
  local stat, held = process.stat(pid), live[folder]
  local count = #process.members(folder)
  process.each_group(folder, function(below) count = count + #process.members(below) end)
  return { pid = pid, start = start, device = device, group = folder, processes = count,
    comm = stat and stat.start == start and stat.comm or nil, policy = held and held.policy, mine = held ~= nil }
end

-- The group goes when nobody is in it; the programs go with it.
local function remove(folder)
  local held = live[folder]
  if held and held.watch then held.watch:close() end
  live[folder] = nil
  if held then
    if held.events then held.events:close() end
    if held.filter then held.filter:close() end -- the programs are the group's: sockets that stay keep them
  end
  local below = {}
  process.each_group(folder, function(one) table.insert(below, 1, one) end)
  for _, one in ipairs(below) do uv.fs_rmdir(one) end
  return uv.fs_rmdir(folder)
end

-- A group without members may be one that another process is making: for a process that lives, and not for long.
local function in_the_making(folder)
  local pid, start = parse(folder)
  local stat, file = process.stat(pid), uv.fs_stat(folder)
  return stat and stat.start == start and file and os.time() - file.mtime.sec < MAKING_S
end

-- All groups of bindings; those that nobody is in any more are removed on the way.
local function folders()
  local tree, found = process.tree(), {}
  if not tree then return found end
  process.each_group(tree, function(folder)
    if parse(folder) then found[#found + 1] = folder end
  end)
  local list = {}
  for _, folder in ipairs(found) do
    local held = live[folder]
    if process.populated(folder) then
      list[#list + 1] = folder
    elseif not (held and held.attaching) and (held or not in_the_making(folder)) then
      remove(folder)
    end
  end
  return list
end

--- All bindings of the host, also those whose maker has ended.
---@return lattice.sandbox.Binding[]
function M.list()
  local list = {}
  for _, folder in ipairs(folders()) do list[#list + 1] = describe(folder) end
  table.sort(list, function(a, b) return a.pid < b.pid end)
  return list
end

-- ---- attach ----

-- What the process is, and its group, or why it cannot be bound.
local function look(pid, device)
  local stat = process.stat(pid)
  if not stat or stat.state == "Z" or stat.state == "X" then return nil, ("there is no process %d"):format(pid), "ESRCH" end
  if stat.kernel then return nil, ("process %d is a thread of the kernel"):format(pid), "EINVAL" end
  if process.our_network(pid) == false then
    return nil, ("process %d is in another network namespace, where '%s' is another device or none: attach it from there")
      :format(pid, device), "EXDEV"
  end
  local tree, group = process.tree(), process.group(pid)
  if not tree or not group then
    return nil, "no cgroup v2 is mounted, and programs hang on nothing else; mount -t cgroup2 none /sys/fs/cgroup/unified",
      "EOPNOTSUPP"
  elseif group:find("^/%.%.") then
    return nil, ("the group of process %d is not below %s"):format(pid, tree), "EXDEV"
  end
  local kind, name = process.ours(group)
  if kind == "binding" then
    local bound, _, to = process.binding(name)
    return nil, ("process %d is bound to '%s' already, with process %d: detach_pid(%d) first"):format(pid, to, bound,
      bound), "EEXIST"
  elseif kind then
    return nil, ("process %d is in a sandbox of Lattice, which stays as it is"):format(pid), "EBUSY"
  end
  return stat, tree, group
end

-- A group below the one of the process, or as near to it as we may.
local function make(tree, group, name)
  local at = group == "/" and "" or group
  local why, code
  repeat
    local folder = tree .. at .. "/" .. name
    local ok
    ok, why, code = uv.fs_mkdir(folder, 493) -- 0755
    if ok then return folder end
    if code ~= "EACCES" and code ~= "EPERM" or at == process.BOUND then break end
    at = at == "" and process.BOUND or at:match("^(.*)/[^/]*$") or ""
  until false
  return nil, ("making a group: %s"):format(tostring(why)), code
end

-- Every process that descends from this one comes along; until a look finds none that was not moved.
local function move(tree, folder, pid)
  local procs, moved, skipped = folder .. "/cgroup.procs", 1, {}
  local ok, why, code = process.write(procs, tostring(pid))
  if not ok then return nil, why, code end
  local known = {}
  for _ = 1, ROUNDS do
    local fresh = false
    for _, child in ipairs(process.descendants(pid)) do
      local group = not known[child] and process.group(child)
      if group and (tree .. group .. "/"):find(folder .. "/", 1, true) ~= 1 then
        known[child] = true
        if process.ours(group) then
          skipped[#skipped + 1] = child
        else
          fresh = true
          ok, why, code = process.write(procs, tostring(child))
          if ok then moved = moved + 1 end
          if not ok and code ~= "ESRCH" then return nil, why, code end
        end
      end
    end
    if not fresh then return moved, skipped end
  end
  return nil, ("process %d makes children faster than they can be moved"):format(pid), "EAGAIN"
end

-- Everybody in the group goes to the one above.
local function release(folder)
  local above = folder:match("^(.*)" .. process.BOUND .. "/[^/]*$") or folder:match("^(.*)/[^/]*$")
  local good, why, code = true, nil, nil
  for _ = 1, ROUNDS do
    local list = process.members(folder)
    process.each_group(folder, function(below)
      for _, pid in ipairs(process.members(below)) do list[#list + 1] = pid end
    end)
    if #list == 0 then return good, why, code end
    good = true
    for _, pid in ipairs(list) do
      local ok, problem, name = process.write(above .. "/cgroup.procs", tostring(pid))
      if not ok and name ~= "ESRCH" then good, why, code = nil, problem, name end
    end
    if not good then return nil, why, code end
  end
  return nil, "processes are made faster than they can be moved", "EAGAIN"
end

local function watch(folder, ended)
  local event = uv.new_fs_event()
  local function look_again()
    if process.populated(folder) then return end
    local one = describe(folder)
    remove(folder)
    if ended and one then
      local ok, problem = pcall(ended, one)
      if not ok then log.error("a binding's end: " .. tostring(problem)) end
    end
  end
  local ok = event:start(folder .. "/cgroup.events", {}, look_again)
  if not ok then -- no inotify: looked at now and then
    event:close()
    event = uv.new_timer()
    event:start(500, 500, look_again)
  end
  event:unref()
  live[folder].watch = event
end

-- The policy, or one that lets everything pass.
local function load(options, done)
  local files = options.policy
  if type(files) == "string" then files = { files } end
  require("lattice.policies").load({ number = 1, files = files or {}, rules_before = not files and EVERYTHING or nil }, done)
end

local function open(folder, device, options, done)
  local held = live[folder]
  load(options, function(generation, err, code)
    if not generation then return done(nil, err, code) end
    require("lattice.tc").open({ cgroup = { path = folder, bind = device } }, function(filter, say, number)
      if not filter then
        generation:close()
        return done(nil, say, number)
      end
      held.filter = filter
      filter:apply(generation, nil, function(ok, problem, name)
        if ok and options.events then
          held.events = options.events(generation)
          for _, ring in ipairs(held.events and filter:rings() or {}) do held.events:ring(ring) end
        end
        generation:close()
        done(ok, problem, name)
      end)
    end)
  end)
end

-- The programs are in force: the processes go in. A number that was given to another process meanwhile undoes it.
local function enter(tree, folder, pid, pidfd, options)
  local before = process.sockets(pid)
  if peer.ended(pidfd) then return nil, ("process %d has ended"):format(pid), "ESRCH" end
  local moved, skipped, code = move(tree, folder, pid)
  if not moved then return nil, skipped, code end
  if peer.ended(pidfd) then return nil, ("process %d has ended"):format(pid), "ESRCH" end
  watch(folder, options.ended)
  live[folder].attaching = nil
  local binding = describe(folder)
  binding.moved, binding.skipped, binding.open_before = moved, skipped, before
  return binding
end

local function attach(pid, device, options, done)
  local pidfd, err, code = peer.pidfd(pid)
  if not pidfd then
    if code == "ESRCH" or code == "EINVAL" then err, code = ("there is no process %d"):format(pid), "ESRCH" end
    return done(nil, err, code)
  end
  local function fail(...)
    uv.fs_close(pidfd)
    return done(nil, ...)
  end
  local stat, tree, group = look(pid, device)
  if not stat then return fail(tree, group) end
  folders() -- what nobody is in any more goes
  local folder
  folder, err, code = make(tree, group, ("%s%d-%d-%s"):format(PREFIX, pid, stat.start, device))
  if not folder then
    if code == "EEXIST" then err = ("process %d is being bound already"):format(pid) end
    return fail(err, code)
  end
  local policy = options.policy
  live[folder] = { attaching = true, policy = type(policy) == "string" and { policy } or policy }
  open(folder, device, options, function(ok, problem, name)
    local binding
    if ok then binding, problem, name = enter(tree, folder, pid, pidfd, options) end
    if binding then
      uv.fs_close(pidfd)
      return done(binding)
    end
    release(folder)
    remove(folder)
    fail(problem, name)
  end)
end

-- Runs the loop until the answer is there, for those who gave no `done`.
local function wait(start)
  local loop, result, running = require("lattice.loop"), nil, false
  start(function(...)
    result = table.pack(...)
    if running then loop.stop() end
  end)
  running = true
  if not result then loop.run() end
  if not result then return nil, "the loop was stopped before the answer came", "ECANCELED" end
  return table.unpack(result, 1, result.n)
end

--- Binds a process that runs, and its children, to a device. Without `done` it waits (not inside a callback) and returns the
--- binding, or nil, error, code.
---@param pid integer
---@param device string
---@param options? lattice.sandbox.AttachOptions
---@param done? fun(binding: lattice.sandbox.Binding?, err: string?, code: string|integer?)
---@return lattice.sandbox.Binding?
---@return string? err
---@return (string|integer)? code
function M.attach(pid, device, options, done)
  if math.type(pid) ~= "integer" or pid < 1 or pid > 0x7fffffff then error("attach_pid: the number of a process", 2) end
  if type(device) ~= "string" or not device:find("^[^%s%c/]+$") or #device > 15 or device == "lo" then
    error("attach_pid: the name of a device", 2)
  end
  if type(options) == "function" and not done then options, done = nil, options end
  options = options or {}
  if type(options) ~= "table" then error("attach_pid: options are a table", 2) end
  if not done then return wait(function(answer) attach(pid, device, options, answer) end) end
  attach(pid, device, options, done)
end

--- Ends the binding of a process (the one that was attached, or one of its children): all of its processes go back to the
--- group above. Sockets that were made while it held stay on the device.
---@param pid integer
---@return lattice.sandbox.Binding?  as it was
---@return string? err
---@return string? code
function M.detach(pid)
  if math.type(pid) ~= "integer" or pid < 1 then error("detach_pid: the number of a process", 2) end
  local tree, group = process.tree(), process.group(pid)
  local stat = process.stat(pid)
  for _, folder in ipairs(folders()) do
    local of, start = parse(folder)
    local inside = group and tree and (tree .. group .. "/"):find(folder .. "/", 1, true) == 1
    if inside or of == pid and (not stat or stat.start == start) then
      local one = describe(folder)
      local ok, why, code = release(folder)
      if not ok then return nil, why, code end
      ok, why, code = remove(folder)
      if not ok then return nil, tostring(why), code end
      return one
    end
  end
  return nil, stat and ("process %d is not bound"):format(pid) or ("there is no process %d"):format(pid),
    stat and "ENOENT" or "ESRCH"
end

return M
