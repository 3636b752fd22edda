local caps = require("lattice.caps")
local notify = require("lattice.notify")
local possible = caps.probe("seccomp_notify").ok

local function test(name, fn)
  if possible then it(name, fn) else pending(name, "seccomp user notification is not possible here") end
end

-- What a child does with the answer is its exit status.
local function child_cwd()
  local cwd, _, code = require("luv").cwd()
  return cwd and 1 or code == "EACCES" and 2 or 3
end

describe("lattice.notify", function()
  test("traps the named calls of a child, and an errno is what it gets", function()
    local l <close> = assert(notify.spawn({ "getcwd" }, child_cwd))
    local call = assert(l:receive(5000))
    assert.equal("getcwd", call.name)
    assert.equal(l:pid(), call.tid)
    assert.equal(6, #call.args)
    assert.is_true(l:valid(call.id))
    assert.equal(0, l:error(call.id, "EACCES"))
    assert.is_false(l:valid(call.id))
    assert.equal(2, l:wait())
  end)

  test("answers with a value", function()
    local l <close> = assert(notify.spawn({ "getpriority" }, function()
      return require("luv").os_getpriority(0)
    end))
    local call = assert(l:receive(5000))
    assert.equal(0, l:value(call.id, 20 - 7)) -- the call's own coding of 7
    assert.equal(7, l:wait())
  end)

  test("puts a descriptor into the child", function()
    local uv = require("luv")
    local null = assert(uv.fs_open("/dev/null", "r", 0))
    local l <close> = assert(notify.spawn({ "dup" }, { "sh", "-c", "exit 0" }))
    -- the shell makes no dup: nothing waits
    assert.equal("EAGAIN", select(3, l:receive(0)) == "EPIPE" and "EAGAIN" or select(3, l:receive(0)))
    assert.equal(0, l:wait())
    local m <close> = assert(notify.spawn({ "openat2", "getcwd" }, function()
      uv.cwd()
      return uv.fs_fstat(100) and 5 or 6
    end))
    local call = assert(m:receive(5000))
    assert.equal(100, m:addfd(call.id, null, 100))
    assert.equal(0, m:error(call.id, "ENOENT"))
    assert.equal(5, m:wait())
    uv.fs_close(null)
  end)

  test("runs a program", function()
    local l <close> = assert(notify.spawn({ "personality" }, { "sh", "-c", "exit 7" }))
    assert.equal(7, l:wait())
    local missing <close> = assert(notify.spawn({ "personality" }, { "/nonexistent/program" }))
    assert.equal(127, missing:wait())
  end)

  test("tells when nobody is left to answer", function()
    local l <close> = assert(notify.spawn({ "getcwd" }, function() return 0 end))
    l:wait()
    assert.equal("EPIPE", select(3, l:receive(5000)))
    local m <close> = assert(notify.spawn({ "getcwd" }, child_cwd))
    local call = assert(m:receive(5000))
    require("luv").kill(m:pid(), "sigkill")
    m:wait()
    assert.equal("ENOENT", select(3, m:error(call.id, "EACCES")))
  end)

  test("works on the loop", function()
    local loop = require("lattice.loop")
    local l <close> = assert(notify.spawn({ "getcwd" }, child_cwd))
    local watch = loop.watch(l:fd(), "r", function(w)
      local call = l:receive()
      if call then l:error(call.id, "EACCES") end
      w:close()
    end)
    loop.run()
    assert.equal(2, l:wait())
    watch:close()
  end)

  it("refuses unknown calls, and those it needs itself", function()
    assert.error_matches(function() notify.spawn({ "no_such_call" }, print) end, "no system call 'no_such_call'")
    assert.has_error(function() notify.spawn({}, print) end)
    assert.has_error(function() notify.spawn({ "connect" }, {}) end)
    assert.equal("EINVAL", select(3, notify.spawn({ "sendmsg" }, print)))
  end)
end)
