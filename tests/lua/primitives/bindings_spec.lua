-- Bindings of running processes to a device, with programs that do nothing: which processes are moved where, what is
-- refused, and how a binding ends. What the programs do is tests/e2e/bindings_spec.lua's.
local loop = require("lattice.loop")
local peer = require("lattice.peer")
local process = require("lattice.sandbox.process")
local sandbox = require("lattice.sandbox")
local uv = require("luv")

local tree = process.tree()
local probe = tree and uv.fs_mkdir(tree .. "/lattice-bind-probe", 493)
if probe then uv.fs_rmdir(tree .. "/lattice-bind-probe") end

describe("bindings", function()
  if not probe then return pending("all of it", "needs a cgroup v2 in which we may make groups") end
  local children, real, opened

  -- A shell that does what it is told; .pid, :say(text), :ended().
  local function child(script)
    local stdin, out = uv.new_pipe(false), uv.new_pipe(false)
    local one = { out = "" }
    one.handle, one.pid = uv.spawn("/bin/sh", { args = { "-c", script or "read line; exec sleep 1000" },
      stdio = { stdin, out, nil }, detached = true }, function() one.over = true end)
    out:read_start(function(_, data) one.out = one.out .. (data or "") end)
    function one.close()
      uv.kill(-one.pid, "sigkill")
      for _, handle in ipairs({ one.handle, stdin, out }) do
        if not handle:is_closing() then handle:close() end
      end
    end
    children[#children + 1] = one
    return one
  end

  local function until_(what)
    local timer, late = uv.new_timer(), false
    timer:start(5000, 0, function() late = true end)
    while not what() and not late do uv.run("once") end
    timer:close()
    return not late
  end

  setup(function()
    real = package.loaded["lattice.tc"]
    package.loaded["lattice.tc"] = {
      open = function(options, done)
        opened[#opened + 1] = options
        if opened.fail then return done(nil, opened.fail, "ENODEV") end
        local filter = { apply = function(_, generation, _, applied)
          opened[#opened].rules = generation:info().rules
          applied(true)
        end, rings = function() return {} end, close = function() opened.closed = (opened.closed or 0) + 1 end }
        loop.defer(function() done(filter, "") end)
      end,
    }
  end)

  teardown(function() package.loaded["lattice.tc"] = real end)

  before_each(function() children, opened = {}, {} end)

  after_each(function()
    for _, one in ipairs(children) do one.close() end
    assert.is_true(until_(function() return #sandbox.list_bindings() == 0 end))
    uv.run("nowait")
  end)

  it("puts the process and its children into a group right below its own", function()
    local one = child("sleep 1000 & sleep 1000 & echo ready; wait")
    assert.is_true(until_(function() return one.out == "ready\n" end))
    local before = process.group(one.pid)
    local binding = assert(sandbox.attach_pid(one.pid, "wf0"))
    assert.same({ one.pid, "wf0", 3, 3, true }, { binding.pid, binding.device, binding.processes, binding.moved,
      binding.mine })
    assert.equal("sh", binding.comm)
    assert.equal(0, #binding.skipped)
    assert.equal(2, binding.open_before) -- libuv's pipes
    local after = process.group(one.pid)
    assert.equal(before == "/" and "/" or before .. "/", after:match("^(.*/)[^/]*$"))
    assert.equal(tree .. after, binding.group)
    for _, pid in ipairs(process.descendants(one.pid)) do assert.equal(after, process.group(pid)) end
    assert.same({ path = binding.group, bind = "wf0" }, opened[1].cgroup)
    assert.equal(3, opened[1].rules) -- everything passes
    assert.same(one.pid, sandbox.list_bindings()[1].pid)
    assert.equal(one.pid, assert(sandbox.detach_pid(one.pid)).pid)
    assert.equal(before, process.group(one.pid))
    for _, pid in ipairs(process.descendants(one.pid)) do assert.equal(before, process.group(pid)) end
    assert.is_nil(uv.fs_stat(binding.group))
    assert.equal(1, opened.closed)
  end)

  it("refuses what cannot be bound, with the reason", function()
    local function why(pid, code)
      local ok, err, got = sandbox.attach_pid(pid, "wf0")
      assert.is_nil(ok)
      assert.equal(code, got)
      return err
    end
    assert.matches("no process 2147483647", why(0x7fffffff, "ESRCH"))
    assert.matches("thread of the kernel", why(2, "EINVAL"))
    local one = child()
    assert(sandbox.attach_pid(one.pid, "wf0"))
    assert.matches(("process %d is bound to 'wf0' already"):format(one.pid), why(one.pid, "EEXIST"))
    assert.error_matches(function() sandbox.attach_pid(one.pid, "lo") end, "name of a device")
    assert.error_matches(function() sandbox.attach_pid("1", "wf0") end, "number of a process")
    local none, err, code = sandbox.detach_pid(1)
    assert.same({ "process 1 is not bound", "ENOENT" }, { err, code })
    assert.is_nil(none)
    assert.equal("ESRCH", select(3, sandbox.detach_pid(0x7fffffff)))
  end)

  it("leaves nothing when the programs cannot be had", function()
    local one = child()
    local before = process.group(one.pid)
    opened.fail = "there is no device 'wf0'"
    local ok, err, code = sandbox.attach_pid(one.pid, "wf0")
    assert.is_nil(ok)
    assert.same({ "there is no device 'wf0'", "ENODEV" }, { err, code })
    assert.equal(before, process.group(one.pid))
    assert.equal(0, #sandbox.list_bindings())
  end)

  it("moves nobody when the policy is wrong", function()
    local one = child()
    local ok, err, code = sandbox.attach_pid(one.pid, "wf0", { policy = "/nowhere/p.lua" })
    assert.is_nil(ok)
    assert.equal("policy", code)
    assert.matches("/nowhere/p.lua", err)
    assert.equal(0, #opened)
    assert.is_nil(process.ours(process.group(one.pid)))
  end)

  it("ends with the last of its processes, and says so", function()
    local one = child("sleep 1000 & echo $!; read line")
    assert.is_true(until_(function() return one.out:find("\n") end))
    local ended
    assert(sandbox.attach_pid(one.pid, "wf0", { ended = function(binding) ended = binding end }))
    uv.kill(one.pid, "sigkill") -- not its child
    assert.is_true(until_(function() return one.over end))
    local left = sandbox.list_bindings()[1] -- a child of it lives
    assert.same({ one.pid, 1 }, { left.pid, left.processes })
    assert.is_nil(left.comm)
    uv.kill(math.tointeger(tonumber(one.out)), "sigkill")
    assert.is_true(until_(function() return ended end))
    assert.equal(one.pid, ended.pid)
    assert.is_nil(uv.fs_stat(left.group))
  end)

  it("finds and ends bindings whose maker has gone, and removes the empty ones", function()
    local one = child()
    local stat = process.stat(one.pid)
    local folder = ("%s/lattice-bind-%d-%d-wf0"):format(tree, one.pid, stat.start)
    assert(uv.fs_mkdir(folder, 493))
    assert(process.write(folder .. "/cgroup.procs", tostring(one.pid)))
    assert(uv.fs_mkdir(tree .. "/lattice-bind-999999-5-wf1", 493))
    local list = sandbox.list_bindings()
    assert.equal(1, #list)
    assert.same({ one.pid, "wf0", false }, { list[1].pid, list[1].device, list[1].mine })
    assert.is_nil(uv.fs_stat(tree .. "/lattice-bind-999999-5-wf1"))
    assert.equal("EEXIST", select(3, sandbox.attach_pid(one.pid, "wf1")))
    assert(sandbox.detach_pid(one.pid))
    assert.equal("/", process.group(one.pid))
    assert.equal(0, #sandbox.list_bindings())
  end)

  it("keeps children in a sandbox of their own where they are", function()
    local one = child("sleep 1000 & echo $!; wait")
    assert.is_true(until_(function() return one.out:find("\n") end))
    local inner = math.tointeger(tonumber(one.out))
    local group = assert(require("lattice.cgroup").make({ name = "bindings-spec", programs = true }))
    assert(group:join(inner))
    local binding = assert(sandbox.attach_pid(one.pid, "wf0"))
    assert.same({ inner }, binding.skipped)
    assert.equal("run", process.ours(process.group(inner)))
    assert.equal("EBUSY", select(3, sandbox.attach_pid(inner, "wf0")))
    group:close()
  end)

  it("answers by a callback inside the loop", function()
    local one = child()
    local got
    loop.defer(function()
      sandbox.attach_pid(one.pid, "wf0", nil, function(binding) got = binding end)
    end)
    assert.is_true(until_(function() return got end))
    assert.equal(one.pid, got.pid)
  end)

  it("tells an ended process from another that has its number", function()
    local one = child("exit 0")
    local fd = peer.pidfd(one.pid)
    assert.is_true(until_(function() return one.over end))
    if fd then
      assert.is_true(peer.ended(fd))
      uv.fs_close(fd)
    end
    local mine = assert(peer.pidfd(uv.os_getpid()))
    assert.is_false(peer.ended(mine))
    uv.fs_close(mine)
    assert.is_nil(peer.pidfd(0x7fffffff))
  end)
end)
