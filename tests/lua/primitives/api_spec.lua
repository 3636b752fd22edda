local api = require("lattice.api")
local stubs = require("lattice.cli.support.stubs")

local function read(path)
  local file = io.open(path, "r")
  local text = file and file:read("a")
  if file then file:close() end
  return text
end

describe("the table of C modules", function()
  it("has the stub of every module in the tree, letter for letter", function()
    for name, text in pairs(stubs.generate(api.list())) do
      local have = read("lua/lattice/_meta/" .. name)
      assert.is_true(have == text,
        name .. " differs: run build/lattice lua --stubs lua/lattice/_meta")
    end
  end)

  it("has a module for every stub in the tree", function()
    local generated = stubs.generate(api.list())
    local lfs = require("lfs")
    for name in lfs.dir("lua/lattice/_meta") do
      if name:match("%.lua$") then assert.is_string(generated[name], "no module for " .. name) end
    end
  end)

  it("documents every function and really has it", function()
    for _, module in ipairs(api.list()) do
      local loaded = require(module.name)
      assert.is_true(#module.doc > 0)
      for _, f in ipairs(module.functions) do
        assert.is_function(loaded[f.name], module.name .. "." .. f.name)
        assert.is_true(#f.doc > 0, module.name .. "." .. f.name)
      end
      for _, field in ipairs(module.fields) do
        assert.not_nil(loaded[field.name], module.name .. "." .. field.name)
      end
      for name in pairs(loaded) do
        local known = false
        for _, f in ipairs(module.functions) do known = known or f.name == name end
        for _, f in ipairs(module.fields) do known = known or f.name == name end
        assert.is_true(known, module.name .. "." .. name .. " is not in the table")
      end
    end
  end)

  it("has stubs that Lua can read", function()
    for name, text in pairs(stubs.generate(api.list())) do assert(load(text, "=" .. name)) end
  end)

  it("explains modules", function()
    assert.matches("lattice.addr", stubs.help(api.list(), "all"))
    assert.matches("contains%(prefix: string", stubs.help(api.list(), "addr"))
    local text, why = stubs.help(api.list(), "lattice.adr")
    assert.is_nil(text)
    assert.matches("did you mean 'lattice.addr'", why)
  end)
end)

describe("what is compiled in", function()
  it("is listed, sorted, and can be read", function()
    local names = api.modules()
    for i = 2, #names do assert.is_true(names[i - 1] < names[i]) end
    assert.is_true(api.has_module("lattice.cli"))
    assert.is_false(api.has_module("lattice.nothing"))
    assert.equal(read("lua/lattice/cli/init.lua"), api.text("lattice.cli"))
    assert.equal("ENOENT", select(3, api.text("nothing")))
  end)

  it("is what require finds, and a path is not", function()
    assert.is_false((pcall(require, "lattice.nothing")))
    assert.is_false((pcall(require, "policies/guards.lua")))
  end)
end)
