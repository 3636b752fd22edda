local link = require("lattice.link")
local netns = require("lattice.netns")
local tun = require("lattice.tun")

-- What runs in the namespace is a child without the loop; `lib` gives it the modules.
local possible, why = netns.open()
if possible then
  local ok, reason = possible:run(function()
    local device, text = tun.open { name = "probe" }
    if device then device:close() end
    return { device ~= nil, text }
  end)
  possible:close()
  possible, why = ok and ok[1], ok and ok[2] or reason
end
local function test(name, fn)
  if possible then it(name, fn) else pending(name, "needs /dev/net/tun: " .. tostring(why)) end
end

-- An IPv4 UDP packet; the kernel does not ask for the UDP checksum.
local function udp(from, to, text)
  local addr = require("lattice.addr")
  local function four(a) return addr.bytes(a):sub(13) end
  local total = 28 + #text
  local head = string.pack(">BBI2I2I2BBI2", 0x45, 0, total, 0, 0, 64, 17, 0) .. four(from) .. four(to)
  local sum = 0
  for i = 1, 20, 2 do sum = sum + string.unpack(">I2", head, i) end
  while sum > 0xffff do sum = (sum & 0xffff) + (sum >> 16) end
  head = head:sub(1, 10) .. string.pack(">I2", ~sum & 0xffff) .. head:sub(13)
  return head .. string.pack(">I2I2I2I2", 4000, 4001, 8 + #text, 0) .. text
end

describe("lattice.tun", function()
  test("makes a device that ends with its box", function()
    local ns <close> = assert(netns.open())
    assert.same({ name = "wf0", kind = "tun", gone = "ENODEV", index = true }, ns:run(function()
      local links <close> = assert(link.open())
      local device = assert(tun.open { name = "wf0" })
      local seen = assert(links:get("wf0"))
      local index = device:index() == seen.index
      device:close()
      device:close()
      local _, _, code = links:get("wf0")
      return { name = seen.name, kind = seen.kind, gone = code, index = index }
    end))
  end)

  test("says EEXIST for a name that is taken, by a TUN or by something else", function()
    local ns <close> = assert(netns.open())
    assert.same({ "EEXIST", "make device wf0: File exists", "EEXIST", 2 }, ns:run(function()
      local links <close> = assert(link.open())
      local _ <close> = assert(tun.open { name = "wf0" })
      local _, text, first = tun.open { name = "wf0" }
      local _, _, second = tun.open { name = "lo" }
      return { first, text, second, #links:list() }
    end))
  end)

  test("leaves a persistent device, attaches to it and removes it again", function()
    local ns <close> = assert(netns.open())
    assert.same({ "ENODEV", true, true, "ENODEV" }, ns:run(function()
      local links <close> = assert(link.open())
      local _, _, missing = tun.open { name = "wf0", attach = true }
      assert(tun.open { name = "wf0", persist = true }):close()
      local stays = links:get("wf0") ~= nil
      local device = assert(tun.open { name = "wf0", attach = true })
      local same = device:index() == links:get("wf0").index
      assert(device:persist(false))
      device:close()
      local _, _, gone = links:get("wf0")
      return { missing, stays, same, gone }
    end))
  end)

  test("makes TAP devices, and devices of several queues", function()
    local ns <close> = assert(netns.open())
    assert.same({ true, true, true, "EINVAL" }, ns:run(function()
      local links <close> = assert(link.open())
      local tap <close> = assert(tun.open { name = "tap0", kind = "tap" })
      local many <close> = assert(tun.open { name = "many", queues = 4 })
      local mac = links:get("tap0").mac ~= ""
      local _, _, code = tun.open { name = "tap0", attach = true }
      return { mac, many:fd(1) ~= many:fd(4), tap:fd() >= 0, code }
    end))
  end)

  test("reads and writes packets", function()
    local ns <close> = assert(netns.open())
    local got = ns:run(function()
      local links <close> = assert(link.open())
      local uv = require("luv")
      local device <close> = assert(tun.open { name = "wf0" })
      local _, _, down = device:write(udp("10.42.0.2", "10.42.0.1", "early"))
      assert(links:set("wf0", { up = true, mtu = 1280 }))
      assert(links:address_add("wf0", "10.42.0.1/24"))
      local server = uv.new_udp()
      assert(server:bind("10.42.0.1", 4001))
      local fd = server:fileno()
      -- no loop in here: the socket is read as a descriptor
      local written = assert(device:write({ udp("10.42.0.2", "10.42.0.1", "one"), udp("10.42.0.2", "10.42.0.1", "two") }))
      local texts = {}
      for i = 1, 2 do texts[i] = assert(uv.fs_read(fd, 100)) end
      return { down = down, written = written, texts = texts }
    end)
    assert.same({ down = "EIO", written = 2, texts = { "one", "two" } }, got)
  end)

  it("refuses names that are none, and odd options", function()
    for _, name in ipairs { "", ("x"):rep(16), "a/b", "tun%d", ".." } do
      local device, text, code = tun.open { name = name }
      assert.is_nil(device)
      assert.equal("EINVAL", code)
      assert.matches("a name is 1 to 15 bytes", text)
    end
    assert.has_error(function() tun.open { name = "a", kind = "tin" } end)
    assert.has_error(function() tun.open { name = "a", queues = 17 } end)
    assert.has_error(function() tun.open {} end)
    assert.has_error(function() tun.open("wf0") end)
  end)

  -- Making and removing a device takes the kernel 10 ms and more, attaching to one does not. LATTICE_ROUNDS=1000000 is the
  -- long run.
  test("leaks neither descriptors nor devices in thousands of rounds", function()
    local ns <close> = assert(netns.open())
    local rounds = tonumber(os.getenv("LATTICE_ROUNDS")) or 5000
    local left = ns:run(function()
      local uv = require("luv")
      local links <close> = assert(link.open())
      local function open_files()
        local n, scan = 0, uv.fs_scandir("/proc/self/fd")
        while uv.fs_scandir_next(scan) do n = n + 1 end
        return n
      end
      collectgarbage()
      local before = open_files()
      assert(tun.open { name = "stays", persist = true }):close()
      for i = 1, rounds do
        local options = { name = "stays", attach = true }
        if i % 25 == 0 then options = { name = "wf" .. i % 8, queues = i % 50 == 0 and 2 or 1 } end
        local device = assert(tun.open(options))
        if i % 3 > 0 then
          device:close()
        else
          device = nil -- luacheck: ignore 311
          collectgarbage()
        end
      end
      assert(links:delete("stays"))
      collectgarbage()
      return { files = open_files() - before, devices = #links:list() }
    end)
    assert.same({ files = 0, devices = 1 }, left)
  end)
end)

-- Reading needs the loop, which ns:run's child must not use: another process of this binary in the namespace.
describe("lattice.tun on the loop", function()
  test("gives what was read in batches, and tells that the device was deleted", function()
    local ns <close> = assert(netns.open())
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write([[
      local link, loop, tun = require("lattice.link"), require("lattice.loop"), require("lattice.tun")
      local uv = require("luv")
      local device <close> = assert(tun.open { name = "wf0" })
      local links <close> = assert(link.open())
      local late <close> = loop.timer(5000, function() error("no end in sight") end)
      local texts, batches = {}, 0
      assert(device:read(function(packets, queue)
        assert(queue == 1)
        if packets == nil then
          print(table.concat(texts, " "), batches < 10)
          return loop.stop()
        end
        batches = batches + 1
        for _, packet in ipairs(packets) do
          if packet:byte() == 0x45 then texts[#texts + 1] = packet:sub(29) end
        end
        if #texts == 10 then assert(links:delete("wf0")) end
      end))
      assert(links:set("wf0", { up = true }))
      assert(links:address_add("wf0", "10.42.0.1/24"))
      local socket = uv.new_udp()
      for i = 1, 10 do assert(socket:try_send("t" .. i, "10.42.0.2", 4000)) end
      loop.run()
      socket:close()
      loop.run("nowait")
    ]])
    file:close()
    local text = ns:run(function()
      local pipe = assert(io.popen(("%s lua %s 2>&1"):format(require("luv").fs_readlink("/proc/self/exe"), path)))
      local all = pipe:read("a")
      pipe:close()
      return all
    end)
    os.remove(path)
    assert.equal("t1 t2 t3 t4 t5 t6 t7 t8 t9 t10\ttrue\n", text)
  end)
end)
