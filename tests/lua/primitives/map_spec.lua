local api = require("lattice.api")
local map = require("lattice.map")

-- LATTICE_ROUNDS=1000000 for the long run.
local ROUNDS = tonumber(os.getenv("LATTICE_ROUNDS") or "") or 2000

local first, why, code = map.create({ type = "array", value = "I4", entries = 1 })
if first then first:close() end

local function test(name, fn)
  if first then it(name, fn) else pending(name, why) end
end

local function descriptors()
  local n = 0
  for _ in require("luv").fs_scandir_next, require("luv").fs_scandir("/proc/self/fd") do n = n + 1 end
  return n
end

local function all(m)
  local list = {}
  for key, value in m:each() do list[#list + 1] = { key, value } end
  table.sort(list, function(a, b) return tostring(a[1]) < tostring(b[1]) end)
  return list
end

describe("lattice.map", function()
  it("is a pro feature, and says so in the community edition", function()
    if first then return end
    assert.is_string(why)
    if code == 402 then assert.matches("Pro feature", why) end
  end)

  test("sets, looks up, walks and deletes typed entries", function()
    local m <close> = assert(map.create({ type = "hash", key = "I4", value = ">I2 c2 I4", entries = 8, name = "t" }))
    assert.is_nil(m:get(1))
    assert(m:set(1, { 2, "ab", 3 }))
    assert(m:set(9, { 4, "cd", 5 }, "new"))
    assert.same({ 2, "ab", 3 }, m:get(1))
    local ok, _, err = m:set(1, { 0, "xx", 0 }, "new")
    assert.is_nil(ok)
    assert.equal("EEXIST", err)
    assert.equal("ENOENT", select(3, m:set(2, { 0, "xx", 0 }, "existing")))
    assert.same({ { 1, { 2, "ab", 3 } }, { 9, { 4, "cd", 5 } } }, all(m))
    assert.is_true(m:delete(1))
    assert.is_false(m:delete(1))
    assert.same({ { 9, { 4, "cd", 5 } } }, all(m))
    local info = m:info()
    assert.same({ "hash", "t", 4, 8, 8, 1 },
      { info.type, info.name, info.key_size, info.value_size, info.entries, info.cpus })
  end)

  test("refuses what its layouts or sizes do not fit, and is still good", function()
    local m <close> = assert(map.create({ type = "hash", key = "I4", value = "I4", entries = 2 }))
    assert.has_error(function() m:set("x", 1) end)
    assert.has_error(function() m:set(1, { 1, 2 }) end)
    assert.has_error(function() m:set(1 << 40, 1) end)
    assert.has_error(function() m:get() end)
    assert.has_error(function() map.create({ type = "tree", entries = 1 }) end)
    local plain <close> = assert(map.create({ type = "hash", key_size = 3, value_size = 2, entries = 2 }))
    assert.has_error(function() plain:set("ab", "cd") end)
    assert(plain:set("abc", "de"))
    assert.equal("de", plain:get("abc"))
    assert(m:set(1, 2))
    assert(m:set(2, 3))
    assert.equal("E2BIG", select(3, m:set(3, 4)))
  end)

  test("keeps the newest in an LRU, and finds the longest prefix in an LPM trie", function()
    local lru <close> = assert(map.create({ type = "lru", key = "I4", value = "I4", entries = 64 }))
    for i = 1, 5000 do assert(lru:set(i, i)) end
    assert.is_true(#all(lru) <= 64)
    local lpm <close> = assert(map.create({ type = "lpm", key = "I4 c4", value = "I4", entries = 16 }))
    assert(lpm:set({ 8, "\10\0\0\0" }, 8))
    assert(lpm:set({ 24, "\10\1\2\0" }, 24))
    assert.equal(24, lpm:get({ 32, "\10\1\2\3" }))
    assert.equal(8, lpm:get({ 32, "\10\9\9\9" }))
    assert.is_nil(lpm:get({ 32, "\11\0\0\0" }))
  end)

  test("has arrays, for each CPU or one", function()
    local a <close> = assert(map.create({ type = "array", value = "I8", entries = 4 }))
    assert.equal(0, a:get(3))
    assert.equal(4, #all(a))
    local c <close> = assert(map.create({ type = "percpu_array", key = "I4", value = "I4", entries = 2 }))
    local cpus = c:info().cpus
    assert(c:set(0, 7))
    local values = {}
    for i = 1, cpus do values[i] = i * 10 end
    assert(c:set(1, values))
    assert.same(values, c:get(1))
    for _, v in ipairs(c:get(0)) do assert.equal(7, v) end
    assert.equal(cpus, #c:get(0))
  end)

  test("swaps maps in a map of maps", function()
    local one <close> = assert(map.create({ type = "hash", key = "I4", value = "I4", entries = 4 }))
    local two <close> = assert(map.create({ type = "hash", key = "I4", value = "I4", entries = 4 }))
    local outer <close> = assert(map.create({ type = "array_of_maps", key = "I4", entries = 1, inner = one }))
    assert.is_nil(outer:get(0))
    assert(outer:set(0, one))
    assert(outer:set(0, two))
    local got <close> = assert(outer:get(0))
    assert.equal(two:info().id, got:info().id)
    assert.is_true(outer:delete(0))
  end)

  test("updates and replaces many entries at once", function()
    for _, kind in ipairs({ "hash", "lpm" }) do
      local m <close> = assert(map.create({ type = kind, key = kind == "lpm" and "I4 >I4" or "I4 I4", value = "I4",
        entries = 5000 }))
      local function list(from, to, value)
        local entries = {}
        for i = from, to do entries[#entries + 1] = { { 32, i }, value } end
        return entries
      end
      assert.equal(2000, assert(m:update(list(1, 2000, 1))))
      assert(m:replace(list(1500, 3000, 2)))
      local n, sum = 0, 0
      for key, value in m:each() do
        n, sum = n + 1, sum + value
        assert.is_true(key[2] >= 1500 and key[2] <= 3000)
      end
      assert.same({ 1501, 3002 }, { n, sum })
      assert(m:replace({}))
      assert.same({}, all(m))
      local ok, _, err = m:update(list(1, 6000, 1))
      assert.is_true(ok == nil and (err == "E2BIG" or err == "ENOSPC") or ok == 5000)
    end
    local a <close> = assert(map.create({ type = "array", key = "I4", value = "I4", entries = 4 }))
    assert.equal(2, a:update({ { 0, 5 }, { 3, 6 } }))
    assert.same({ 5, 6 }, { a:get(0), a:get(3) })
    assert.equal("EINVAL", select(3, a:replace({ { 0, 1 } })))
    assert.has_error(function() a:update({ 1 }) end)
  end)

  test("ends a walk of a map that is changed meanwhile", function()
    local m <close> = assert(map.create({ type = "hash", key = "I4", value = "I4", entries = 100 }))
    for i = 1, 50 do assert(m:set(i, i)) end
    local steps = 0
    for key in m:each() do
      steps = steps + 1
      m:delete(key)
      m:set(1000 + steps % 40, 1)
    end
    assert.is_true(steps <= 216)
  end)

  test("is frozen for good", function()
    local m <close> = assert(map.create({ type = "hash", key = "I4", value = "I4", entries = 2 }))
    assert(m:set(1, 1))
    assert(m:freeze())
    assert.equal("EPERM", select(3, m:set(1, 2)))
    assert.equal(1, m:get(1))
  end)

  test("leaks nothing in many rounds", function()
    collectgarbage()
    local before, boxes = descriptors(), api.boxes()
    for i = 1, ROUNDS do
      local m = assert(map.create({ type = "hash", key = "I4", value = "I4", entries = 2 }))
      m:set(1, i)
      if i % 2 == 0 then m:close() end
      if i % 100 == 0 then collectgarbage() end
    end
    collectgarbage()
    collectgarbage()
    assert.equal(before, descriptors())
    assert.equal(boxes, api.boxes())
  end)
end)
