-- examples/custom-sink and examples/tail-audit do what they say and leave nothing behind.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")

local lattice = World.lattice_path or os.getenv("LATTICE")
local python = World.has("python3")

local function run(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local text = pipe:read("a")
  return pipe:close() == true, text
end

local function test(name, fn)
  if python then it(name, fn) else pending(name, "python3 is not installed") end
end

describe("examples/custom-sink", function()
  test("sums up what the policy denied, and leaves nothing", function()
    local function left() return select(2, run("ls -d /tmp/lattice-sink-* 2>/dev/null")) end
    local before = left()
    local good, text = run(("LATTICE='%s' TMPDIR=/tmp timeout 60 examples/custom-sink/run"):format(lattice))
    assert.is_true(good, text)
    assert.matches("   3  deny   203%.0%.113%.7:443 +default\n", text)
    assert.matches("   1  deny   203%.0%.113%.8:22 +default\n", text)
    assert.matches("  drop   198%.51%.100%.9:80 +[^\n]*policy%.lua:6\n", text)
    assert.matches("\n0 records lost\n$", text)
    assert.not_matches("missing", text)
    assert.equal(before, left())
  end)
end)

describe("examples/tail-audit", function()
  test("shows each refusal as it happens, through a rotation", function()
    local uv = require("luv")
    local dir = assert(uv.fs_mkdtemp("/tmp/lattice-tail-XXXXXX"))
    local file, out = dir .. "/audit.jsonl", dir .. "/out"
    local pipe = assert(io.popen(("timeout 60 '%s' lua examples/tail-audit/tail.lua '%s' >'%s' 2>&1 & echo $!"):format(
      lattice, file, out)))
    local pid = pipe:read("n")
    pipe:close()
    local function shown(pattern)
      for _ = 1, 1000 do
        local f = io.open(out)
        local text = f and f:read("a") or ""
        if f then f:close() end
        if text:find(pattern) then return text end
        uv.sleep(10) -- a bounded wait for what another process writes
      end
    end
    local function try(port)
      run(("'%s' run -q --allow 'udp to 192.0.2.1' --audit '%s' -- python3 -c 'import socket; socket.create_connection("
        .. '("203.0.113.7", %d), 1)\''):format(lattice, file, port))
    end
    local ok, err = pcall(function()
      assert.truthy(shown("following"))
      try(443)
      assert.truthy(shown("DENY  python3[^\n]*203%.0%.113%.7:443"))
      assert(os.rename(file, file .. ".1"))
      try(444)
      local text = assert(shown("203%.0%.113%.7:444 tcp"))
      assert.equal(1, select(2, text:gsub(":443 tcp", "")))
      assert.not_matches("START", text)
    end)
    uv.kill(pid, "sigterm")
    run("rm -rf " .. dir)
    assert(ok, err)
  end)
end)
