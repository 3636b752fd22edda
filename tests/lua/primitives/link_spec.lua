local link = require("lattice.link")
local loop = require("lattice.loop")
local netns = require("lattice.netns")

local possible, why = netns.open()
if possible then possible:close() end
local function test(name, fn)
  if possible then it(name, fn) else pending(name, "needs network namespaces: " .. why) end
end

-- The first of `list` whose fields are those of `want`.
local function find(list, want)
  for _, one in ipairs(list) do
    local same = true
    for key, value in pairs(want) do same = same and one[key] == value end
    if same then return one end
  end
end

describe("lattice.link", function()
  test("makes a veth pair, changes it and removes it", function()
    local ns <close> = assert(netns.open())
    local links <close> = assert(link.open(ns))
    assert(links:add_veth("left", "right"))
    local left = assert(links:get("left"))
    assert.equal("veth", left.kind)
    assert.is_false(left.up)
    assert(links:set("left", { up = true, mtu = 1280, alias = "made by a test" }))
    assert(links:set("right", { up = true, name = "other" }))
    left = assert(links:get("left"))
    assert.is_true(left.up)
    assert.equal(1280, left.mtu)
    assert.equal("made by a test", left.alias)
    assert.is_table(find(links:list(), { name = "other", kind = "veth", up = true }))
    assert(links:delete("left"))
    for _, name in ipairs { "left", "other" } do
      local gone, _, code = links:get(name)
      assert.is_nil(gone)
      assert.equal("ENODEV", code)
    end
  end)

  test("puts the peer into another namespace", function()
    local a <close> = assert(netns.open())
    local b <close> = assert(netns.open())
    local in_a <close> = assert(link.open(a))
    local in_b <close> = assert(link.open(b))
    local ok, reason, code = in_a:add_veth("left", "right", b)
    if code == "EPERM" then return pending("namespaces of two user namespaces: " .. reason) end
    assert(ok, reason)
    assert.is_nil((in_a:get("right")))
    assert.equal("veth", assert(in_b:get("right")).kind)
    assert(in_a:add_veth("mover", "stayer"))
    assert(in_a:set("mover", { netns = b }))
    assert.is_nil((in_a:get("mover")))
    assert.is_table(in_b:get("mover"))
  end)

  test("adds, lists and removes addresses of both families", function()
    local ns <close> = assert(netns.open())
    local links <close> = assert(link.open(ns))
    assert(links:add_veth("left", "right"))
    assert(links:set("left", { up = true }))
    assert(links:set("right", { up = true }))
    assert(links:address_add("left", "10.42.0.1/24"))
    assert(links:address_add("left", "fd42::1/64"))
    local list = assert(links:addresses("left"))
    assert.same({ address = "10.42.0.1/24", family = 4, index = links:get("left").index, tentative = false },
      find(list, { family = 4 }))
    assert.is_false(assert(find(list, { address = "fd42::1/64" })).tentative)
    local again, _, code = links:address_add("left", "10.42.0.1/24")
    assert.is_nil(again)
    assert.equal("EEXIST", code)
    assert(links:address_delete("left", "10.42.0.1/24"))
    assert.is_nil(find(links:addresses("left"), { family = 4 }))
    again, _, code = links:address_delete("left", "10.42.0.1/24")
    assert.is_nil(again)
    assert.equal("EADDRNOTAVAIL", code)
  end)

  test("adds, replaces, lists and removes routes", function()
    local ns <close> = assert(netns.open())
    local links <close> = assert(link.open(ns))
    assert(links:add_veth("left", "right"))
    assert(links:set("left", { up = true }))
    assert(links:set("right", { up = true }))
    assert(links:address_add("left", "10.42.0.1/24"))
    local index = links:get("left").index
    for _, to in ipairs { "192.0.2.0/24", "2001:db8:5::/48", "192.0.2.77/32" } do
      assert(links:route_add { to = to, dev = "left" })
      assert.is_table(find(links:routes("left"), { to = to, index = index, table = 254, protocol = 4 }))
      local again, _, code = links:route_add { to = to, dev = "left" }
      assert.is_nil(again)
      assert.equal("EEXIST", code)
      assert(links:route_add { to = to, dev = "left", replace = true })
      assert(links:route_delete { to = to, dev = "left" })
      assert.is_nil(find(links:routes("left"), { to = to }))
    end
    assert(links:route_add { to = "0.0.0.0/0", via = "10.42.0.9", metric = 7 })
    assert.is_table(find(links:routes(), { to = "0.0.0.0/0", via = "10.42.0.9", metric = 7, index = index }))
    local gone, _, code = links:route_delete { to = "198.51.100.0/24", dev = "left" }
    assert.is_nil(gone)
    assert.equal("ESRCH", code)
  end)

  test("lists queueing disciplines, adds clsact and takes it away", function()
    local ns <close> = assert(netns.open())
    local links <close> = assert(link.open(ns))
    assert(links:add_veth("left", "right"))
    assert(links:clsact("left", true))
    assert.is_table(find(links:qdiscs("left"), { kind = "clsact" }))
    local again, _, code = links:clsact("left", true)
    assert.is_nil(again)
    assert.equal("EEXIST", code)
    assert(links:clsact("left", false))
    assert.is_nil(find(links:qdiscs("left"), { kind = "clsact" }))
  end)

  test("tells what changes", function()
    local ns <close> = assert(netns.open())
    local links <close> = assert(link.open(ns))
    local seen = {}
    local _ <close> = loop.timer(5000, function() loop.stop() end)
    local _ <close> = assert(link.watch(ns, function(events)
      for _, event in ipairs(events) do
        seen[#seen + 1] = event
        if event.what == "link" and event.gone and event.name == "left" then loop.stop() end
      end
    end))
    assert(links:add_veth("left", "right"))
    assert(links:set("right", { up = true }))
    assert(links:set("left", { up = true }))
    assert(links:address_add("left", "10.42.0.1/24"))
    assert(links:route_add { to = "192.0.2.0/24", dev = "left" })
    assert(links:delete("left"))
    loop.run()
    assert.is_table(find(seen, { what = "link", gone = false, name = "left", up = true }))
    assert.is_table(find(seen, { what = "address", gone = false, address = "10.42.0.1/24" }))
    assert.is_table(find(seen, { what = "route", gone = false, to = "192.0.2.0/24" }))
    assert.is_table(find(seen, { what = "link", gone = true, name = "left" }))
  end)

  test("says resync when changes were lost, and goes on", function()
    local ns <close> = assert(netns.open())
    local links <close> = assert(link.open(ns))
    local resync, after
    local _ <close> = loop.timer(5000, function() loop.stop() end)
    local _ <close> = assert(link.watch(ns, function(events)
      for _, event in ipairs(events) do
        if event.what == "resync" then -- more than once: what is said while the socket is still full is lost, too
          resync = true
          loop.defer(function() assert(links:set("left", { mtu = 1900 })) end)
        elseif event.mtu == 1900 then
          after = true
          loop.stop()
        end
      end
    end, 4096))
    assert(links:add_veth("left", "right"))
    for i = 1, 300 do assert(links:set("left", { mtu = 1280 + i })) end
    loop.run()
    assert.is_true(resync)
    assert.is_true(after)
  end)

  it("refuses what is no address, prefix or name, with the reason", function()
    local links <close> = assert(link.open())
    assert.has_error(function() links:address_add("lo", "10.0.0.1/33") end,
      "bad argument #2 to 'address_add' ('10.0.0.1/33': the prefix length is beyond the address family)")
    assert.has_error(function() links:address_add("lo", "fd00::1/129") end)
    assert.has_error(function() links:address_add("lo", "10.0.0/8") end)
    assert.has_error(function() links:address_add("lo", "10.0.0.1/") end)
    assert.has_error(function() links:address_add("lo", "10.0.0.1/08") end)
    assert.has_error(function() links:route_add { to = "10.0.0.1/8", dev = "lo" } end)
    assert.has_error(function() links:route_add { to = "10.0.0.0/33", dev = "lo" } end)
    assert.has_error(function() links:route_add { to = "10.0.0.0/8", via = "fd00::1" } end)
    assert.has_error(function() links:route_add { to = "10.0.0.0/8", metric = -1 } end)
    assert.has_error(function() links:set("lo", { mtu = 1 }) end)
    for _, name in ipairs { "", "a/b", "a b", "a:b", "a%d", ".", "..", ("x"):rep(16), "a\n", "a\0b" } do
      assert.is_false(link.valid_name(name))
    end
    assert.is_true(link.valid_name(("x"):rep(15)))
    local gone, text, code = links:get("no-such-dev")
    assert.is_nil(gone)
    assert.equal("look at device no-such-dev: No such device", text)
    assert.equal("ENODEV", code)
  end)
end)
