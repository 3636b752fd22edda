local cgroup = require("lattice.cgroup")
local uv = require("luv")

local probe, why = cgroup.make { name = "spec-probe", unique = true, limits = { pids = 10 } }
if probe then probe:close() end

local function test(name, fn)
  if probe then it(name, fn) else pending(name, why) end
end

local function name() return "spec-" .. require("lattice.sys").pid() end

local function make(options)
  options.name = options.name or name()
  return assert(cgroup.make(options))
end

local function exists(path) return uv.fs_stat(path) ~= nil end

-- A process that does nothing but what it is killed for.
local function sleeper()
  local ended
  local handle, pid = uv.spawn("sleep", { args = { "1000" } }, function(_, signal) ended = signal end)
  return pid, function()
    while not ended do uv.run("once") end
    handle:close()
    uv.run("nowait")
    return ended
  end
end

describe("lattice.cgroup", function()
  test("makes a group, puts processes into it, kills and removes it", function()
    local group = make { limits = { pids = 10 } }
    local paths = group:paths()
    assert.is_true(#paths >= 1)
    for _, path in ipairs(paths) do assert.is_true(exists(path)) end
    local pid, wait = sleeper()
    assert.is_true(group:join(pid))
    local file = assert(io.open(paths[1] .. "/cgroup.procs"))
    assert.equal(pid, file:read("n"))
    file:close()
    assert.is_true(group:kill())
    assert.equal(9, wait())
    group:close()
    group:close()
    for _, path in ipairs(paths) do assert.is_false(exists(path)) end
    assert.has_error(function() group:paths() end)
  end)

  test("closing kills what is inside", function()
    local pid, wait = sleeper()
    do
      local group <close> = make { limits = { pids = 10 } }
      assert.is_true(group:join(pid))
    end
    assert.equal(9, wait())
  end)

  test("tells what was used and which limits were met", function()
    local group <close> = make { limits = { pids = 10 } }
    assert.equal(0, group:usage().pids)
    assert.equal(0, group:events().pids_refused)
    assert.is_nil(group:events().oom_kills)
  end)

  test("a name in use is refused, or made another", function()
    local group <close> = make { limits = { pids = 10 } }
    local other, text, code = cgroup.make { name = name(), limits = { pids = 10 } }
    assert.is_nil(other)
    assert.matches("the name is in use", text)
    assert.equal("EEXIST", code)
    local second <close> = make { unique = true, limits = { pids = 10 } }
    assert.not_equal(group:paths()[1], second:paths()[1])
  end)

  test("a process that is not there is an error", function()
    local group <close> = make { limits = { pids = 10 } }
    local pid, wait = sleeper()
    uv.kill(pid, "sigkill")
    wait()
    local ok, text, code = group:join(pid)
    assert.is_nil(ok)
    assert.matches("put process " .. pid, text)
    assert.equal("ESRCH", code)
  end)

  it("refuses limits that are none", function()
    assert.has_error(function() cgroup.make { name = "x", limits = { memroy = 1 } } end)
    assert.has_error(function() cgroup.make { name = "x", limits = { memory = -1 } } end)
    assert.has_error(function() cgroup.make { name = "x", limits = { pids = 0 } } end)
    assert.has_error(function() cgroup.make { limits = {} } end)
    local group, text, code = cgroup.make { name = "a/b" }
    assert.is_nil(group)
    assert.matches("no slash", text)
    assert.equal("EINVAL", code)
  end)

  -- LATTICE_ROUNDS is for the long run.
  test("leaks neither groups, descriptors nor keepers", function()
    local function count(path)
      local n, scan = 0, uv.fs_scandir(path)
      while scan and uv.fs_scandir_next(scan) do n = n + 1 end
      return n
    end
    local before = count("/proc/self/fd")
    local last
    for i = 1, tonumber(os.getenv("LATTICE_ROUNDS")) or 300 do
      local group = make { limits = { pids = 10 } }
      last = group:paths()[1]
      if i % 3 > 0 then
        group:close()
      else
        group = nil -- luacheck: ignore 311
        collectgarbage()
      end
    end
    collectgarbage()
    assert.equal(before, count("/proc/self/fd"))
    assert.is_false(exists(last))
    local file = assert(io.open("/proc/self/task/" .. require("lattice.sys").pid() .. "/children"))
    assert.equal("", file:read("a"))
    file:close()
  end)
end)
