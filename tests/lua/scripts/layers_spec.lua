-- scripts/layers catches each kind of step up, and is content with the tree as it is.
local source = os.getenv("LATTICE_SOURCE") or "."

describe("scripts/layers", function()
  local root

  local function plant(path, text)
    os.execute(("mkdir -p '%s/%s'"):format(root, path:match("^(.*)/") or ""))
    local file = assert(io.open(root .. "/" .. path, "w"))
    file:write(text)
    file:close()
  end

  local function layers()
    local pipe = assert(io.popen(("lua5.4 '%s/scripts/layers' '%s'"):format(source, root)))
    local text = pipe:read("a")
    return pipe:close() == true, text
  end

  before_each(function()
    local pipe = assert(io.popen("mktemp -d"))
    root = pipe:read("l")
    pipe:close()
    plant("src/base/addr.h", "#include <stdio.h>\n")
    plant("src/core/flow.h", '#include "base/addr.h"\n')
    plant("src/lua/box.c", '#include <lua.h>\n#include "core/flow.h"\n')
    plant("lua/lattice/policy/eval.lua", 'local lpeg = require("lpeg")\n')
    plant("lua/lattice/audit/format.lua", "")
    plant("lua/lattice/cli/run.lua", 'require("lattice.policy.eval")\n')
  end)

  after_each(function()
    os.execute(("rm -rf '%s'"):format(root))
  end)

  it("passes a tree that only goes down", function()
    local good, text = layers()
    assert.is_true(good, text)
  end)

  local violations = {
    { "an include from base to core", "src/base/up.c", '#include "core/flow.h"\n',
      "base may not include core" },
    { "an include from the sandbox to core", "sandbox/launcher/up.c", '#include "../../src/core/flow.h"\n',
      "sandbox may not include core" },
    { "lua.h outside of src/lua", "src/core/up.c", "#include <lua5.4/lua.h>\n", "only src/lua includes" },
    { "a cleanup attribute beside lua.h", "src/lua/up.c",
      "#include <lauxlib.h>\nvoid f(void) { lat_autoclose int fd = -1; }\n", "cleanup attribute" },
    { "a require from policy to a C module", "lua/lattice/policy/up.lua", 'local j = require("lattice.json")\n',
      "policy requires lpeg and itself only" },
    { "a require from audit to policy", "lua/lattice/audit/up.lua", "require 'lattice.policy.eval'\n",
      "audit may not require lattice.policy.eval" },
    { "a require of the command line", "lua/lattice/events/up.lua", 'require("lattice.cli.run")\n',
      "nothing requires lattice.cli.run" },
  }
  for _, case in ipairs(violations) do
    it("catches " .. case[1], function()
      plant(case[2], case[3])
      local good, text = layers()
      assert.is_false(good)
      assert.truthy(text:find(case[4], 1, true), text)
      assert.truthy(text:find("not ok", 1, true))
    end)
  end
end)
