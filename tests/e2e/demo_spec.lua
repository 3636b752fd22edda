-- The first thing that a newcomer sees does what it says, twice in a row, and leaves nothing behind.
local lattice = os.getenv("LATTICE")

describe("examples/first-policy/demo", function()
  local function left_over()
    local pipe = assert(io.popen("ls -d /tmp/lattice-demo-* 2>/dev/null"))
    local text = pipe:read("a")
    pipe:close()
    return text
  end

  local function demo(binary)
    local pipe = assert(io.popen(("LATTICE='%s' TMPDIR=/tmp lua5.4 examples/first-policy/demo.lua 2>&1"):format(binary)))
    local text = pipe:read("a")
    return pipe:close() == true, text
  end

  it("allows one connection, denies one, and lets it pass after a reload", function()
    local before = left_over()
    for _ = 1, 2 do
      local good, text = demo(lattice)
      assert.is_true(good, text)
      assert.truthy(text:find("ALLOWED.*DENIED.*SIGHUP.*ALLOWED"), text)
    end
    assert.equal(before, left_over())
  end)

  it("fails when nothing is denied", function()
    local open = os.tmpname()
    local file = assert(io.open(open, "w"))
    file:write('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n')
    file:close()
    os.execute("chmod +x " .. open)
    local good, text = demo(open)
    os.remove(open)
    assert.is_false(good)
    assert.truthy(text:find("the policy denies port", 1, true), text)
  end)
end)
