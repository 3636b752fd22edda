-- A policy as iptables rules, as text: tests/golden/iptables. LATTICE_BLESS=1 rewrites it; the diff is what is reviewed.
local loop = require("lattice.loop")
local policies = require("lattice.policies")
local text = require("lattice.enforcer.iptables.text")

local function compile(path, options)
  local generation, why
  policies.load({ number = 7, files = { path } }, function(g, err) generation, why = g, err end)
  loop.run()
  local g <close> = assert(generation, why)
  return text.compile(g, options, function() end)
end

local pins = { { addr = "192.0.2.7", names = { "db.example" } }, { addr = "10.1.2.3", names = { "a.svc.example" } },
  { addr = "2001:db8::7", names = { "db.example" } } }
local temporary = { { id = 3, action = "allow", log = true, entries = {
  { rule = 1, dir = "out", proto = 6, family = 4, addr = "10.9.9.9", len = 32, lo = 80, hi = 80 } } } }

describe("the rules' text", function()
  for _, family in ipairs({ 4, 6 }) do
    it("of IPv" .. family .. " is the golden one", function()
      local gen = compile("tests/golden/iptables/node.lua", { mark = 1, temporary = temporary, pins = pins })
      local made = text.transaction(gen.books[family], { "LATTICE-R99" },
        { "-I OUTPUT 1 -o wf0 -m comment --comment lattice -j LATTICE-OUT" })
      local path = "tests/golden/iptables/node.v" .. family
      if os.getenv("LATTICE_BLESS") then
        local f <close> = assert(io.open(path, "w"))
        f:write(made)
      end
      local f <close> = assert(io.open(path))
      assert.equal(f:read("a"), made)
    end)
  end

  it("is the same each time", function()
    local function whole()
      local gen = compile("tests/golden/iptables/node.lua", { mark = 1, temporary = {}, pins = {} })
      return text.transaction(gen.books[4], {}, {}) .. text.transaction(gen.books[6], {}, {})
    end
    assert.equal(whole(), whole())
  end)

  it("never touches a bit of a connection's mark but the top byte's", function()
    local gen = compile("tests/golden/iptables/node.lua", { mark = 15, temporary = temporary, pins = pins })
    for family = 4, 6, 2 do
      for value, mask in text.transaction(gen.books[family], {}, {}):gmatch("%-%-set%-xmark (0x%x+)/(0x%x+)") do
        assert.equal(0, tonumber(mask) & ~text.MASK)
        assert.equal(0, tonumber(value) & ~tonumber(mask))
      end
    end
  end)
end)
