-- Which mode lattice run takes, on a host and with capabilities that are really so; the audit's start record tells why.
-- The choice itself, with faked probes: tests/lua/sandbox/select_spec.lua.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")

local missing = World.missing()

describe("the mode of lattice run", function()
  if missing then
    pending("all of it", missing)
    return
  end
  local world
  local version <close> = assert(io.popen(World.lattice_path .. " version --json"))
  local edition = require("dkjson").decode(version:read("a")).edition

  local function pro(name, fn)
    if edition == "pro" then it(name, fn) else pending(name, "kernel mode is of the pro edition") end
  end

  setup(function() world = World.new() end)
  teardown(function()
    if world then world:close() end
  end)

  -- As root of this world, with other words in front.
  local function root_run(before, options, command)
    local argv = table.move(before, 1, #before, 1, {})
    for _, list in ipairs({ { World.lattice_path, "run", "-v" }, options, { "--" }, command or { "true" } }) do
      table.move(list, 1, #list, #argv + 1, argv)
    end
    return world:run("host", argv)
  end

  local function start_record(process)
    return World.find(process.audit, { kind = "start" })[1].unmapped.lattice
  end

  it("is user for an ordinary user; -v and the start record say what kernel mode lacks", function()
    local p = world:under("", { "true" })
    assert.equal(0, p.status)
    local want = edition == "pro" and "CAP_BPF and CAP_NET_ADMIN missing (root has them)"
      or "Pro feature: this is the community edition"
    assert.matches("lattice: mode user: the strongest that works here", p.err, 1, true)
    assert.matches("lattice: not kernel: " .. want, p.err, 1, true)
    assert.equal("user", start_record(p).mode)
    assert.equal("kernel: " .. want, (start_record(p).passed_over:gsub(";.*", ""))) -- and no agent is there to do it
  end)

  pro("is user for root without CAP_BPF", function()
    local p = root_run({ "setpriv", "--bounding-set", "-sys_admin,-cap_39" }, {})
    assert.equal(0, p.status, p.err)
    assert.matches("lattice: mode user", p.err, 1, true)
    assert.matches("lattice: not kernel: CAP_BPF missing (root has them)", p.err, 1, true)
    p = root_run({ "setpriv", "--bounding-set", "-sys_admin,-cap_39" }, { "--mode", "kernel" }, { "echo", "ran" })
    assert.equal(125, p.status)
    assert.equal("", p.out)
    assert.matches("mode kernel (forced by --mode) cannot be had: CAP_BPF missing (root has them)", p.err, 1, true)
  end)

  pro("is user for root of a user namespace", function()
    local p = root_run({ "unshare", "--user", "--map-root-user" }, {})
    assert.equal(0, p.status, p.err)
    assert.matches("lattice: not kernel: CAP_BPF and CAP_NET_ADMIN are a user namespace's here", p.err, 1, true)
  end)

  it("is refused before anything runs when it is forced and cannot be had", function()
    local mark = world.home .. "/ran"
    for _, mode in ipairs({ "kernel", "gvisor" }) do
      local p = world:lattice({ "run", "--mode", mode, "--", "touch", mark })
      assert.equal(p.err:find("Pro feature", 1, true) and 6 or 125, p.status)
      assert.equal("", p.out)
      assert.matches("mode " .. mode .. " (forced by --mode) cannot be had: ", p.err, 1, true)
      assert.matches("The command was not started", p.err, 1, true)
    end
    assert.is_nil(World.read(mark))
    local p = world:lattice({ "run", "--mode", "warp", "--", "touch", mark })
    assert.is_true(p.status ~= 0)
    assert.is_nil(World.read(mark))
  end)

  it("names the setting that forbids user namespaces, and runs nothing without a wall", function()
    -- The limit is that of a user namespace of the test's own.
    local inside = { "unshare", "--user", "--map-root-user", "sh", "-ec",
      'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"', "sh" }
    for _, options in ipairs({ {}, { "--mode", "user" } }) do
      local p = root_run(inside, options, { "echo", "ran" })
      assert.equal(125, p.status)
      assert.equal("", p.out)
      assert.matches("sysctl -w user.max_user_namespaces=10000 (it is 0 here)", p.err, 1, true)
    end
  end)

  it("is a script's choice, and a script that fails lets nothing run", function()
    local script = world:file("mode.lua", [[
      for _, mode in ipairs(...) do
        if mode.name == "user" and mode.ok then return "user" end
      end]])
    local p = world:lattice({ "run", "-v", "--mode-script", script, "--", "true" })
    assert.equal(0, p.status, p.err)
    assert.matches("lattice: mode user: chosen by the script of --mode-script", p.err, 1, true)
    local wrong = { ["return 'gvisor'"] = "cannot be had", ["error 'boom'"] = "boom", ["return {"] = "mode.lua:1" }
    for text, want in pairs(wrong) do
      p = world:lattice({ "run", "--mode-script", world:file("mode.lua", text), "--", "echo", "ran" })
      assert.equal(want == "cannot be had" and edition ~= "pro" and 6 or 125, p.status)
      assert.equal("", p.out)
      assert.matches(want, p.err, 1, true)
    end
  end)

  it("is what doctor says", function()
    local result = require("dkjson").decode(world:lattice({ "doctor", "--json" }).out)
    assert.equal("user", result.mode)
    local names = {}
    for i, mode in ipairs(result.modes) do
      names[i] = mode.name
      assert.is_true(mode.ok or type(mode.reason) == "string")
    end
    assert.same({ "kernel", "user", "gvisor", "preload" }, names)
    assert.is_true(result.modes[2].ok)
  end)
end)
