local caps = require("lattice.caps")
local json = require("lattice.json")
local sandbox = require("lattice.sandbox")

local function possible()
  for _, name in ipairs { "nested_user_namespace", "mount_namespace", "pid_namespace", "tproxy", "seccomp_notify" } do
    if not caps.probe(name).ok then return false end
  end
  return caps.probe("nfqueue").ok or caps.probe("nfqueue_compat").ok
end

local function load(text)
  return sandbox.load(json.encode { sources = { { name = "spec.lua", text = text } } })
end

describe("lattice.sandbox", function()
  it("loads a policy and tells what it is", function()
    local generation <close> = assert(load('policy "spec"\ndefault "deny"\nallow "tcp to 10.0.0.0/8 port 1-9"'))
    local info = json.decode(generation:info())
    assert.equal("spec", info.name)
    assert.equal("deny", info.default)
  end)

  it("says where a policy is wrong", function()
    local generation, why, code = load('policy "spec"\nallow "tcp to 10.0.0.0/33"')
    assert.is_nil(generation)
    assert.matches("spec.lua:2", why)
    assert.is_string(code)
    for _, text in ipairs { "while true do end", "error()", "local t = {} for i = 1, 1e9 do t[i] = {} end", "\27Lua" } do
      local none, message = load('policy "spec"\n' .. text)
      assert.is_nil(none, text)
      assert.matches("spec.lua", message)
    end
  end)

  it("refuses what is no description of a policy", function()
    for _, text in ipairs { "", "{", '{"files":["/nonexistent.lua"]}' } do
      assert.is_nil((sandbox.load(text)), text)
    end
  end)

  it("closes a generation once", function()
    local generation = assert(load('policy "spec"'))
    generation:close()
    generation:close()
    assert.error_matches(function() generation:info() end, "closed")
  end)

  it("makes a private file, and follows no symbolic link", function()
    local uv = require("luv")
    local dir = assert(uv.fs_mkdtemp("/tmp/lattice-spec-XXXXXX"))
    assert.is_true(sandbox.create(dir .. "/file"))
    assert.is_true(sandbox.create(dir .. "/file"))
    assert.equal(tonumber("600", 8), uv.fs_stat(dir .. "/file").mode & tonumber("777", 8))
    assert(uv.fs_symlink(dir .. "/file", dir .. "/link"))
    assert.is_nil((sandbox.create(dir .. "/link")))
    assert.equal(sandbox.realpath(dir .. "/file"), sandbox.realpath(dir .. "/link"))
    assert.is_nil((sandbox.realpath(dir .. "/nothing")))
    for _, name in ipairs { "/link", "/file" } do uv.fs_unlink(dir .. name) end
    uv.fs_rmdir(dir)
  end)

  if possible() then
    it("runs a command under a policy and gives its exit status", function()
      local generation <close> = assert(load('policy "spec"\ndefault "deny"'))
      local status, why = sandbox.run(generation, {
        argv = { "sh", "-c", "exit 7" }, name = "spec", run_id = "spec-1", audit = "[]", hide = {}, readonly = {},
        rlimits = {}, no_summary = true, notices = false,
      })
      assert.equal(7, status, why)
    end)
  else
    pending("runs a command under a policy and gives its exit status", "no sandbox can be made here")
  end
end)
