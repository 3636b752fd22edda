local loop = require("lattice.loop")
local api = require("lattice.api")

describe("lattice.loop", function()
  it("calls a timer once and closes it", function()
    local before, calls = api.boxes(), 0
    loop.timer(1, function() calls = calls + 1 end)
    assert.equal(before + 1, api.boxes())
    loop.run()
    assert.equal(1, calls)
    assert.equal(before, api.boxes())
  end)

  it("repeats a timer until it is closed, and gives it to the callback", function()
    local calls = 0
    local timer
    timer = loop.timer(1, function(t)
      assert.equal(timer, t)
      calls = calls + 1
      if calls == 3 then t:close() end
    end, 1)
    loop.run()
    assert.equal(3, calls)
    timer:close()
  end)

  it("keeps a timer that nobody holds", function()
    local called = false
    loop.timer(1, function() called = true end)
    collectgarbage()
    collectgarbage()
    loop.run()
    assert.is_true(called)
  end)

  it("orders timers by their time", function()
    local order = {}
    loop.timer(8, function() order[#order + 1] = "late" end)
    loop.timer(2, function() order[#order + 1] = "early" end)
    loop.defer(function() order[#order + 1] = "now" end)
    loop.run()
    assert.same({ "now", "early", "late" }, order)
  end)

  it("throws a callback's error out of run, with the place", function()
    local rest = loop.timer(10000, function() end)
    loop.defer(function() error("broken here") end)
    local ok, why = pcall(loop.run)
    assert.is_false(ok)
    assert.matches("loop_spec.lua:%d+: broken here", why)
    assert.matches("stack traceback", why)
    rest:close()
    loop.run()
  end)

  it("stops when told and goes on later", function()
    local calls = 0
    local timer = loop.timer(1, function()
      calls = calls + 1
      loop.stop()
    end, 1)
    assert.is_true(loop.run())
    assert.equal(1, calls)
    loop.run()
    assert.equal(2, calls)
    timer:close()
    assert.is_false(loop.run())
  end)

  it("watches a descriptor", function()
    local uv = require("luv")
    local fds = uv.pipe()
    local seen
    local watch = loop.watch(fds.read, "r", function(w, readable, writable)
      seen = { readable, writable, uv.fs_read(fds.read, 10) }
      w:close()
    end)
    loop.timer(1, function() uv.fs_write(fds.write, "hello") end)
    loop.run()
    assert.same({ true, false, "hello" }, seen)
    watch:close()
    uv.fs_close(fds.read)
    uv.fs_close(fds.write)
  end)

  it("says why a descriptor cannot be watched", function()
    local watch, why, code = loop.watch(9999, "r", function() end)
    assert.is_nil(watch)
    assert.is_string(why)
    assert.equal("EBADF", code)
    loop.run()
  end)

  it("hears a signal", function()
    local uv, heard = require("luv"), false
    local signal = loop.signal("SIGUSR1", function(s)
      heard = true
      s:close()
    end)
    uv.kill(uv.os_getpid(), "sigusr1")
    loop.run()
    assert.is_true(heard)
    signal:close()
  end)

  it("runs luv's callbacks and its own on one loop", function()
    local uv, order = require("luv"), {}
    local timer = uv.new_timer()
    uv.update_time() -- luv counts from the loop's idea of now, which is old on a busy machine
    timer:start(4, 0, function()
      order[#order + 1] = "luv"
      timer:close()
    end)
    loop.timer(1, function() order[#order + 1] = "own" end)
    uv.run()
    assert.same({ "own", "luv" }, order)
  end)

  it("does not run inside itself, nor in a coroutine", function()
    local inner
    loop.defer(function() inner = { pcall(loop.run) } end)
    loop.run()
    assert.is_false(inner[1])
    assert.matches("running already", inner[2])
    local ok, why = coroutine.resume(coroutine.create(loop.run))
    assert.is_false(ok)
    assert.matches("main thread", why)
  end)

  it("refuses bad arguments", function()
    assert.has_error(function() loop.timer(-1, print) end)
    assert.has_error(function() loop.timer(1) end)
    assert.has_error(function() loop.watch(0, "x", print) end)
    assert.has_error(function() loop.signal("SIGKILL", print) end)
  end)

  it("answers a method of another type's box with an error", function()
    local timer = loop.timer(1, function() end)
    local signal = loop.signal("SIGUSR2", function() end)
    assert.has_error(function() timer.close(signal) end)
    assert.has_error(function() timer.close({}) end)
    timer:close()
    signal:close()
    loop.run()
  end)
end)
