local api = require("lattice.api")
local iptables = require("lattice.iptables")
local loop = require("lattice.loop")
local netns = require("lattice.netns")

-- Waits for one call; what done was given.
local function wait(start)
  local results
  local ok, err, code = start(function(...) results = table.pack(...) end)
  if ok == nil then return nil, err, code end
  loop.run()
  return table.unpack(results, 1, results.n)
end

local function works(backend)
  local text = "*filter\n:LATTICE-T - [0:0]\n-A LATTICE-T -p tcp -j DROP\nCOMMIT\n"
  return wait(function(done) return iptables.probe(backend, 4, text, done) end)
end

local function rules(text) return (text:gsub("#[^\n]*\n", ""):gsub("%[%d+:%d+%]", "[]")) end

for _, backend in ipairs({ "nft", "legacy" }) do
  describe("lattice.iptables, back end " .. backend, function()
    local _, why = works(backend)
    local function test(name, fn)
      if why then pending(name, backend .. " does not work here: " .. why) else it(name, fn) end
    end

    after_each(function()
      collectgarbage()
      assert.equal(0, api.boxes())
    end)

    test("applies a text as a whole and reads it back with counters", function()
      local ns <close> = assert(netns.open())
      local t <close> = assert(iptables.open(backend, ns))
      assert.equal(backend, t:backend())
      for _, family in ipairs({ 4, 6 }) do
        local text = "*filter\n:LATTICE-T - [0:0]\n-A LATTICE-T -p tcp -j DROP\nCOMMIT\n"
        assert.is_true(wait(function(done) return t:apply(family, text, done) end))
        local saved = assert(wait(function(done) return t:save(family, "filter", done) end))
        assert.matches("%[0:0%] %-A LATTICE%-T %-p tcp %-j DROP", saved)
      end
    end)

    test("changes nothing when one line of a text is wrong, and says which", function()
      local ns <close> = assert(netns.open())
      local t <close> = assert(iptables.open(backend, ns))
      assert.is_true(wait(function(done)
        return t:apply(4, "*filter\n:LATTICE-T - [0:0]\n-A LATTICE-T -j DROP\nCOMMIT\n", done)
      end))
      local before = wait(function(done) return t:save(4, "filter", done) end)
      local ok, err = wait(function(done)
        local text = "*filter\n:LATTICE-T - [0:0]\n-A LATTICE-T -p tcp -j ACCEPT\n-A LATTICE-T --nonsense\nCOMMIT\n"
        return t:apply(4, text, done)
      end)
      assert.is_nil(ok)
      assert.matches("apply the iptables rules: iptables%-" .. backend .. " refused: .*nonsense", err)
      assert.equal(rules(before), rules(wait(function(done) return t:save(4, "filter", done) end)))
    end)

    test("tests a text without a change", function()
      local ns <close> = assert(netns.open())
      local t <close> = assert(iptables.open(backend, ns))
      assert.is_true(wait(function(done) return t:test(4, "*filter\n:LATTICE-T - [0:0]\nCOMMIT\n", done) end))
      assert.is_nil((wait(function(done) return t:test(4, "*filter\n-A INPUT --nonsense\nCOMMIT\n", done) end)))
      assert.is_nil(wait(function(done) return t:save(4, "filter", done) end):find("LATTICE", 1, true))
    end)

    test("keeps every rule that the text does not name", function()
      local ns <close> = assert(netns.open())
      local t <close> = assert(iptables.open(backend, ns))
      local foreign = "*filter\n:DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\n"
        .. "-A DOCKER-USER -s 172.17.0.0/16 -j RETURN\nCOMMIT\n"
      assert.is_true(wait(function(done) return t:apply(4, foreign, done) end))
      local before = wait(function(done) return t:save(4, "filter", done) end)
      assert.is_true(wait(function(done) return t:apply(4, "*filter\n:LATTICE-T - [0:0]\nCOMMIT\n", done) end))
      assert.is_true(wait(function(done) return t:apply(4, "*filter\n-X LATTICE-T\nCOMMIT\n", done) end))
      assert.equal(rules(before), rules(wait(function(done) return t:save(4, "filter", done) end)))
    end)
  end)
end

describe("lattice.iptables", function()
  it("refuses a closed box, an unknown back end and an unknown family", function()
    local t = assert(iptables.open("nft"))
    t:close()
    assert.has_error(function() t:save(4, "filter", function() end) end)
    assert.has_error(function() iptables.open("none") end)
    assert.has_error(function() iptables.probe("nft", 5, "", function() end) end)
  end)

  it("reports a refusal in a namespace of its own", function()
    local saved, err, code = wait(function(done) return iptables.probe("nft", 4, "*filter\n-A NOWHERE\nCOMMIT\n", done) end)
    assert.is_nil(saved)
    assert.matches("refused", err)
    assert.equal("EIO", code)
  end)
end)
