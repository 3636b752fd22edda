local json = require("lattice.json")

describe("lattice.json", function()
  it("keeps 64-bit integers exact", function()
    for _, text in ipairs { "9007199254740993", "9223372036854775807", "-9223372036854775808", "0" } do
      local value = json.decode(text)
      assert.equal("integer", math.type(value))
      assert.equal(text, json.encode(value))
    end
    assert.is_nil(json.decode("9223372036854775808"))
  end)

  it("writes sorted keys, so equal values are equal text", function()
    assert.equal('{"a":1,"b":[true,false],"c":{"d":"x"}}',
      json.encode { c = { d = "x" }, b = { true, false }, a = 1 })
  end)

  it("gives floats back as they were", function()
    for _, x in ipairs { 0.1, 1 / 3, 1e300, -2.5, 1e15, 5e-324 } do
      assert.equal(x, json.decode(json.encode(x)))
    end
    assert.equal("1.0", json.encode(1.0))
    assert.equal("0.1", json.encode(0.1))
  end)

  it("escapes what JSON demands and passes UTF-8", function()
    local text = "\"\\\n\t\r\0\1\127 ä€𝄞/"
    assert.equal([["\"\\\n\t\r\u0000\u0001\u007f ä€𝄞/"]], json.encode(text))
    assert.equal(text, json.decode(json.encode(text)))
  end)

  it("tells an empty array from an empty object", function()
    assert.equal("[]", json.encode(json.array {}))
    assert.equal("{}", json.encode {})
    assert.equal('{"a":[],"b":{}}', json.encode(json.decode('{"a":[],"b":{}}')))
  end)

  it("has a null that is not nil", function()
    assert.equal(json.null, json.decode("null"))
    assert.equal('{"a":null}', json.encode { a = json.null })
    assert.equal("null", tostring(json.null))
  end)

  it("refuses what JSON cannot hold", function()
    local cycle = {}
    cycle.self = cycle
    for _, bad in ipairs { print, 0 / 0, math.huge, "\255", "\xed\xa0\x80", { 1, nil, 3 }, { 1, x = 2 },
      { [true] = 1 }, { ["a\0b"] = 1 }, cycle, coroutine.create(print) } do
      assert.has_error(function() json.encode(bad) end)
    end
    assert.has_error(function() json.encode() end)
  end)

  it("names line and column of a fault in the text", function()
    local value, why, code = json.decode('{\n"a": 1,\n}')
    assert.is_nil(value)
    assert.matches("^line 3, column %d", why)
    assert.equal("EINVAL", code)
  end)

  it("is strict", function()
    for _, text in ipairs { "", "{", "[1,]", "{a:1}", '{"a":1,"a":2}', "01", "nan", "'x'", "[1] 2", '"\255"' } do
      assert.is_nil((json.decode(text)), text)
    end
  end)

  it("bounds the depth both ways", function()
    local text = ("["):rep(60) .. ("]"):rep(60)
    assert.equal(text, json.encode(json.decode(text)))
    local value, why = json.decode(("["):rep(65) .. ("]"):rep(65))
    assert.is_nil(value)
    assert.matches("levels", why)
    assert.is_nil((json.decode(("["):rep(100000))))
  end)

  it("indents when asked", function()
    assert.equal('{\n  "a": [\n    1,\n    2\n  ],\n  "b": {}\n}', json.encode({ a = { 1, 2 }, b = {} }, true))
  end)
end)
