local frames = require("lattice.control.frames")
local json = require("lattice.json")

local function frame(text) return string.pack(">s4", text) end

describe("the frames of the control socket", function()
  it("are the same after the way there", function()
    local value = { v = 1, id = 7, verb = "status", args = { list = json.array({}), text = "ä\0\n" } }
    local found = frames.decoder(1000):feed(assert(frames.encode(value, 1000)))
    assert.same({ value }, found)
  end)

  it("may come in pieces of any size, and several at once", function()
    local bytes = frame('{"id":1}') .. frame('{"id":2}') .. frame('{}')
    for size = 1, #bytes do
      local decoder, seen = frames.decoder(100), {}
      for at = 1, #bytes, size do
        for _, one in ipairs(assert(decoder:feed(bytes:sub(at, at + size - 1)))) do seen[#seen + 1] = one end
      end
      assert.same({ { id = 1 }, { id = 2 }, {} }, seen)
    end
  end)

  it("are refused by their length before their bytes come", function()
    local decoder = frames.decoder(100)
    local found, why = decoder:feed(string.pack(">I4", 101))
    assert.is_nil(found)
    assert.equal("a frame of 101 bytes; at most 100 are taken", why)
    assert.is_nil(decoder:feed(frame("{}")))
  end)

  it("are refused when they are no JSON object; those before count", function()
    for _, text in ipairs({ "", "[1]", "1", "null", "{", '{"a":1,"a":2}', "\xff" }) do
      local found, why = frames.decoder(100):feed(frame('{"id":1}') .. frame(text) .. frame('{"id":2}'))
      assert.same({ { id = 1 } }, found)
      assert.matches("^a frame that is no JSON object", why)
    end
  end)

  it("hold text that is no UTF-8, and say what they cannot hold", function()
    local found = frames.decoder(100):feed(assert(frames.encode({ text = "a\xffb", n = 0 / 0 }, 100)))
    assert.equal("a\\xffb", found[1].text)
    local none, why = frames.encode({ text = ("x"):rep(200) }, 100)
    assert.is_nil(none)
    assert.matches("at most 100 can be sent", why)
    assert.is_nil((frames.encode({ print }, 100)))
  end)
end)
