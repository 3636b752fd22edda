-- Addresses, prefixes, ranges and names: the strict forms, the canonical text, the private classes.
require("tests.support.path")
local addr = require("lattice.policy.addr")
local names = require("lattice.policy.names")

local function round(text)
  local family, hi, lo = addr.parse(text)
  return family and addr.format(family, hi, lo)
end

describe("an address", function()
  for text, canonical in pairs({
    ["0.0.0.0"] = "0.0.0.0", ["255.255.255.255"] = "255.255.255.255", ["::"] = "::", ["::1"] = "::1", ["1::"] = "1::",
    ["2001:DB8::A"] = "2001:db8::a", ["1:0:0:2:0:0:0:3"] = "1:0:0:2::3", ["1:0:0:2:3:0:0:4"] = "1::2:3:0:0:4",
    ["::ffff:1.2.3.4"] = "::ffff:1.2.3.4", ["::1.2.3.4"] = "::1.2.3.4", ["64:ff9b::1.2.3.4"] = "64:ff9b::102:304",
    ["1:2:3:4:5:6:7:8"] = "1:2:3:4:5:6:7:8", ["1:2:3:4:5:6:7::"] = "1:2:3:4:5:6:7:0", ["0:1::"] = "0:1::",
    ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ["1:0:2::"] = "1:0:2::",
    ["::2:0:0:0"] = "::2:0:0:0",
  }) do
    it("is read and written: " .. text, function() assert.equal(canonical, round(text)) end)
  end
  for _, text in ipairs({
    "", "1", "127.1", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.04", "256.1.1.1", "1.2.3.-4", " 1.2.3.4", "1.2.3.4 ",
    "0x7f.0.0.1", ":", ":::", "1:::2", "::1::", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::", "12345::",
    "g::", ":1::", "::1:", "1.2.3.4::", "::1.2.3", "::1.2.3.4:5", "fe80::1%lo", "[::1]", "::ffff:01.2.3.4",
  }) do
    it(("is refused: '%s'"):format(text), function() assert.is_nil(addr.parse(text)) end)
  end

  for text, private in pairs({
    ["10.1.2.3"] = true, ["100.64.0.1"] = true, ["100.128.0.1"] = false, ["127.0.0.1"] = true, ["169.254.1.1"] = true,
    ["172.16.0.1"] = true, ["172.32.0.1"] = false, ["192.0.0.1"] = true, ["192.0.2.1"] = false, ["192.168.0.1"] = true,
    ["224.0.0.1"] = true, ["255.255.255.255"] = true, ["0.1.2.3"] = true, ["8.8.8.8"] = false, ["::1"] = true,
    ["::"] = true, ["::8.8.8.8"] = true, ["::ffff:10.0.0.1"] = true, ["::ffff:8.8.8.8"] = false, ["fe80::1"] = true,
    ["fec0::1"] = true, ["fd00::1"] = true, ["fe00::1"] = false, ["ff02::1"] = true, ["2001:db8::1"] = false,
    ["64:ff9b::10.0.0.1"] = true, ["64:ff9b::8.8.8.8"] = false, ["64:ff9b:1::8.8.8.8"] = true, ["2001::1"] = true,
    ["2002:a00:1::"] = true, ["2002:808:808::"] = false, ["::ffff:0:10.0.0.1"] = true, ["::ffff:0:8.8.8.8"] = false,
  }) do
    it(("is %s: %s"):format(private and "private" or "public", text), function()
      assert.equal(private, addr.is_private(addr.parse(text)))
    end)
  end
end)

describe("a range", function()
  it("becomes prefixes that cover it exactly", function()
    for _, case in ipairs({
      { "10.0.0.0", "10.0.0.0" }, { "10.0.0.1", "10.0.0.6" }, { "0.0.0.0", "255.255.255.255" },
      { "0.0.0.1", "255.255.255.254" }, { "2001:db8::", "2001:db8::ffff" }, { "2001:db8::5", "2001:db9::3" },
      { "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" }, { "::ffff:ffff:ffff:ffff", "0:0:0:1::" },
    }) do
      local family, hi, lo = addr.parse(case[1])
      local _, last_hi, last_lo = addr.parse(case[2])
      local next_hi, next_lo = hi, lo
      for _, p in ipairs(addr.range_prefixes(family, hi, lo, last_hi, last_lo)) do
        -- each begins where the one before ended, and has no bits beyond its length
        assert.same({ next_hi, next_lo }, { p.hi, p.lo })
        local mask_hi, mask_lo = addr.mask(family, p.len)
        assert.same({ p.hi, p.lo }, { p.hi & mask_hi, p.lo & mask_lo })
        local end_hi, end_lo = p.hi | ~mask_hi, p.lo | ~mask_lo
        if family == 4 then end_hi, end_lo = 0, end_lo & 0xffffffff end
        next_lo = end_lo + 1
        next_hi = next_lo == 0 and end_hi + 1 or end_hi
        hi, lo = end_hi, end_lo
      end
      assert.same({ last_hi, last_lo }, { hi, lo })
    end
  end)
end)

describe("a name", function()
  it("matches as in C", function()
    for _, case in ipairs({
      { "a.example", "a.example", true }, { "a.example", "b.a.example", false }, { "*.example", "a.example", true },
      { "*.example", "b.a.example", true }, { "*.example", "example", false }, { "*.example", "aexample", false },
      { "*.a.example", "ba.example", false },
    }) do
      assert.equal(case[3], names.matches(case[1], case[2]), case[1] .. " " .. case[2])
    end
  end)

  it("is normalized", function()
    assert.equal("a.example", (names.normalize("A.Example.")))
    assert.equal("*.a.example", (names.normalize("*.A.example", true)))
    assert.equal("_srv._tcp.a-b.example", (names.normalize("_srv._tcp.a-b.example")))
    assert.equal(("a"):rep(63) .. ".example", (names.normalize(("a"):rep(63) .. ".example")))
  end)

  for _, text in ipairs({
    "", ".", "a..b", ".a", "a.example..", "*.a", "a b", "a/b", "a\0b", "a\127", "b\195\188", ("a"):rep(64) .. ".example",
    ("abcdefg."):rep(32) .. "x", "127.1", "1", "0x7f000001", "a.0x", "a.1.", "1.2.3.4", "a:b",
  }) do
    it(("is refused: %q"):format(text):gsub("[%c\128-\255]", "?"), function() assert.is_nil(names.normalize(text)) end)
  end
end)
