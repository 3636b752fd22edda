-- What lattice.wireguard refuses, keys, and thousands of peers; with traffic it is in tests/e2e/wireguard_spec.lua.
local loop = require("lattice.loop")
local netns = require("lattice.netns")
local uv = require("luv")
local wireguard = require("lattice.wireguard")

local dir

-- Runs `text` as a script of this binary in a new namespace (ns:run's child has no loop); its output.
local function script(ns, text, ...)
  local path = dir .. "/script.lua"
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  local words = { uv.fs_readlink("/proc/self/exe"), "lua", path, ... }
  return ns:run(function()
    local pipe = assert(io.popen(table.concat(words, " ") .. " 2>&1"))
    local all = pipe:read("a")
    pipe:close()
    return all
  end)
end

local ns, why = netns.open()
if ns then
  local ok, reason = ns:run(function()
    local tun, text = require("lattice.tun").open { name = "probe" }
    if tun then tun:close() end
    return { tun ~= nil, text }
  end)
  ns:close()
  ns, why = ok and ok[1], ok and ok[2] or reason
end
if ns and not wireguard.kernel() and not uv.fs_access("/usr/bin/wireguard-go", "X") then
  ns, why = nil, "neither a kernel with WireGuard nor wireguard-go"
end
local function test(name, fn)
  if ns then it(name, fn) else pending(name, "needs a device: " .. tostring(why)) end
end

describe("lattice.wireguard", function()
  setup(function() dir = assert(uv.fs_mkdtemp("/tmp/lattice-wg-XXXXXX")) end)
  teardown(function() os.execute("rm -rf " .. dir) end)

  it("makes key files for their owner alone, and tells their public keys", function()
    local path = dir .. "/a.key"
    local public = assert(wireguard.create_key(path))
    assert.is_true(wireguard.valid_key(public))
    assert.equal(public, wireguard.public_key(path))
    assert.equal(tonumber("600", 8), uv.fs_stat(path).mode & 4095)
    local again, text, code = wireguard.create_key(path)
    assert.is_nil(again)
    assert.equal("EEXIST", code)
    assert.matches("make key file .*a%.key: File exists", text)
  end)

  it("refuses key files that others may read, with the way out", function()
    local path = dir .. "/b.key"
    assert(wireguard.create_key(path))
    assert(uv.fs_chmod(path, tonumber("640", 8)))
    local key, text, code = wireguard.public_key(path)
    assert.is_nil(key)
    assert.equal("EPERM", code)
    assert.matches("b%.key: others than its owner may read or change it %(chmod 600 it%)", text)
    for _, name in ipairs { "/nowhere", "/dev/zero", dir } do assert.is_nil((wireguard.public_key(name))) end
  end)

  it("knows what is a key", function()
    local good = ("A"):rep(42) .. "E="
    for _, text in ipairs { "", "x", ("A"):rep(44), good .. "\n", good .. "\0", ("A"):rep(43) .. "==" } do
      assert.is_false(wireguard.valid_key(text), text)
    end
    assert.is_true(wireguard.valid_key(("A"):rep(42) .. "E="))
  end)

  it("refuses bad arguments at once", function()
    local function none() end
    assert.has_error(function() wireguard.open({ name = "a/b" }, none) end)
    assert.has_error(function() wireguard.open({ name = "wf0", kind = "other" }, none) end)
    assert.has_error(function() wireguard.open({ name = "wf0" }) end)
    assert.has_error(function() wireguard.open({}, none) end)
    assert.has_error(function() wireguard.adopt({ name = "wf0", pid = "x" }, none) end)
  end)

  test("says EEXIST for a name that is taken, and names what cannot be started", function()
    local space <close> = assert(netns.open())
    local out = script(space, [[
      local link, loop, wireguard = require("lattice.link"), require("lattice.loop"), require("lattice.wireguard")
      local links <close> = assert(link.open())
      assert(links:add_veth("wf0", "other"))
      wireguard.open({ name = "wf0" }, function(device, err, code)
        print(device, err, code)
        wireguard.open({ name = "wf1", kind = "wireguard-go", program = "/bin/false" }, function(_, text, name)
          print(text, name)
          print(#links:list())
        end)
      end)
      loop.run()
    ]])
    assert.equal("nil\tmake device wf0: File exists\tEEXIST\n"
      .. "start /bin/false for wf1: it ended (): No child processes\tECHILD\n3\n", out)
  end)

  test("checks a configuration before anything of it is set", function()
    local space <close> = assert(netns.open())
    local out = script(space, [[
      local loop, wireguard = require("lattice.loop"), require("lattice.wireguard")
      local key = ("A"):rep(42) .. "E="
      local function none() end
      wireguard.open({ name = "wf0" }, function(device, err)
        assert(device, err)
        for _, config in ipairs {
          { peers = { { key = "x" } } }, { peers = { { key = key }, { key = key } } },
          { peers = { { key = key, allowed = { "10.0.0.1/8" } } } },
          { peers = { { key = key, allowed = { "10.0.0.0/33" } } } },
          { peers = { { key = key, endpoint = "host:1" } } }, { peers = { { key = key, keepalive = 65536 } } },
          { listen = 65536 }, { listen = -1 }, { peers = 1 }, { peers = { 1 } } } do
          local ok, text = pcall(device.set, device, config, none)
          print(ok, (text:gsub("^bad argument #%d to '.-' ", ""):gsub("^.-: ", "")))
        end
        device:set({ private_key_file = "/nowhere", listen = 1 }, function(ok, text, code)
          print(ok, text, code)
          device:get(function(state)
            print(#state.peers, state.public_key)
            device:close()
            print(pcall(device.get, device, none))
          end)
        end)
      end)
      loop.run()
    ]])
    assert.equal(10, select(2, out:gsub("false\t", "")) - 1, out)
    assert.matches("'x' is no public key", out)
    assert.matches("is there twice", out)
    assert.matches("nil\tkey file /nowhere: No such file or directory\tENOENT\n0\tnil\n", out)
    assert.matches("this lattice.wireguard.Device is closed", out)
  end)

  test("carries thousands of peers and addresses both ways, and removes what is stale", function()
    local space <close> = assert(netns.open())
    local out = script(space, [[
      local loop, wireguard = require("lattice.loop"), require("lattice.wireguard")
      local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
      local function key(n)
        local a, b, c = n % 64 + 1, n // 64 % 64 + 1, n // 4096 + 1
        return ("A"):rep(30) .. alphabet:sub(c, c) .. alphabet:sub(b, b) .. alphabet:sub(a, a) .. ("A"):rep(9) .. "E="
      end
      local function peers(count, each)
        local list = {}
        for i = 1, count do
          local allowed = {}
          for j = 1, each do allowed[j] = ("10.%d.%d.%d/32"):format(i // 250, i % 250, j) end
          allowed[#allowed + 1] = ("fd42:%x::/64"):format(i)
          list[i] = { key = key(i), allowed = allowed, endpoint = "192.0.2.1:4000", keepalive = i == 7 and 25 or nil }
        end
        return list
      end
      local function total(state)
        local n, v4 = 0, 0
        for _, peer in ipairs(state.peers) do
          n = n + #peer.allowed
          for _, text in ipairs(peer.allowed) do v4 = v4 + (text:find("/32") and 1 or 0) end
        end
        return #state.peers .. " " .. n .. " " .. v4
      end
      wireguard.open({ name = "wf0" }, function(device, err)
        assert(device, err)
        device:set({ private_key_file = arg[1], listen = 4000, peers = peers(2000, 3), replace = true }, function(ok, why)
          assert(ok, why)
          device:get(function(state)
            print(total(state), state.listen)
            local many = peers(3, 1)
            for j = 1, 5000 do many[2].allowed[j] = ("10.99.%d.%d/32"):format(j // 250, j % 250) end
            device:set({ peers = many, replace = true }, function(good, reason)
              assert(good, reason)
              device:get(function(after)
                print(total(after), after.listen)
                local change = { { key = key(2), remove = true }, { key = key(9), allowed = { "10.1.1.1/32" } } }
                device:set({ peers = change }, function()
                  device:get(function(last)
                    print(total(last))
                    device:close()
                  end)
                end)
              end)
            end)
          end)
        end)
      end)
      loop.run()
    ]], (function()
      local path = dir .. "/many.key"
      assert(wireguard.create_key(path))
      return path
    end)())
    assert.equal("2000 8000 6000\t4000\n3 5004 5002\t4000\n3 5 3\n", out)
  end)

  it("leaves the loop when a job's end comes after the state is told to go", function()
    wireguard.adopt({ name = "none-such" }, function() end)
    loop.run()
  end)
end)
