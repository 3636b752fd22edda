-- The examples of questions do what their READMEs show, in every mode that is here, and leave nothing behind.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")
local remains = require("remains")

local missing = World.missing()
for _, program in ipairs { "python3", "unshare" } do
  if not missing and not World.has(program) then missing = program .. " is not installed" end
end

local function run(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local text = pipe:read("a")
  return pipe:close() == true, text
end

local word = ("LATTICE_EXAMPLES=%d"):format(require("luv").os_getpid())

local function example(name, mode)
  return run((word .. " LATTICE='%s' MODE=%s TMPDIR=/tmp timeout 90 examples/%s/run"):format(World.lattice_path, mode, name))
end

-- What a README shows as its output.
local function shown(name)
  return World.read("examples/" .. name .. "/README.md"):match("```text\n(.-)```")
end

-- Of these folders nothing is there after a run that was not there before it, and no process of its.
local function leaves_nothing(pattern, fn)
  local function left() return select(2, run("ls -d /tmp/" .. pattern .. " 2>/dev/null")) end
  local before = left()
  fn()
  assert.equal(before, left())
  remains.gone("processes", function() return remains.keys(remains.processes(word)) end)
end

for _, mode in ipairs({ "user", "kernel" }) do
  describe("in mode " .. mode, function()
    local none = missing or World.no_mode(mode)
    local function test(name, fn)
      if none then pending(name, none) else it(name, fn) end
    end

    test("examples/promote-once takes one question for a hundred connections", function()
      leaves_nothing("lattice-promote-*", function()
        local good, text = example("promote-once", mode)
        assert.is_true(good, text)
        assert.equal(shown("promote-once"), text)
      end)
    end)

    test("examples/ask-on-ssh opens what was answered, and only that", function()
      leaves_nothing("lattice-ask-*", function()
        local good, text = example("ask-on-ssh", mode)
        assert.is_true(good, text)
        assert.equal((shown("ask-on-ssh"):gsub("python3%.%d+", "python3")), (text:gsub("python3%.%d+", "python3")))
      end)
    end)
  end)
end

describe("examples/database-node", function()
  local none = missing or World.no_mode("kernel")
  if not none and not World.has("redis-check-rdb") then none = "redis-tools is not installed (redis-check-rdb)" end
  if none then
    pending("lets the application in and nothing out", none)
    return
  end

  it("lets the application in and nothing out, and leaves nothing", function()
    leaves_nothing("lattice-database-*", function()
      local good, text = example("database-node", "kernel")
      assert.is_true(good, text)
      assert.equal(shown("database-node"), text)
    end)
  end)
end)
