-- examples/mesh-node does what it says and leaves nothing behind.
package.path = "tests/support/?.lua;" .. package.path
local Nodes = require("nodes")

local missing = Nodes.missing()
for _, program in ipairs { "wireguard-go", "wg", "python3", "ping" } do
  if not missing and not Nodes.has(program) then missing = program .. " is not installed" end
end

local function run(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local text = pipe:read("a")
  return pipe:close() == true, text
end

local function test(name, fn)
  if missing then pending(name, missing) else it(name, fn) end
end

describe("examples/mesh-node", function()
  test("joins two nodes, lets through what the policy allows, and leaves nothing", function()
    local function left()
      return select(2, run("ip netns | grep ^mesh; ps -eo args | grep '[l]atticed --config /tmp/tmp'; "
        .. "ls -d /var/run/wireguard/*.sock 2>/dev/null"))
    end
    local before = left()
    local good, text = run(("LATTICE='%s' examples/mesh-node/run"):format(Nodes.lattice_path))
    assert.is_true(good, text)
    assert.matches("PASSED   ping to 10%.42%.0%.2\nPASSED   ping to fd42::2\n", text)
    assert.matches("PASSED   tcp to 10%.42%.0%.2 port 5432: hello from B\n", text)
    assert.matches("REFUSED  tcp to 10%.42%.0%.2 port 2222\n", text)
    assert.matches("devices    wf0  wireguard  up", text)
    assert.equal(before, left())
  end)
end)
