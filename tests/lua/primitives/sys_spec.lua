local sys = require("lattice.sys")

-- What a piece of Lua says on both streams, in a process of its own.
local function said(code)
  local pipe = io.popen(("%s lua -e '%s' 2>&1"):format(require("luv").exepath(), code))
  local text = pipe:read("a")
  pipe:close()
  return text
end

describe("lattice.sys", function()
  it("tells who and what runs", function()
    local uv = require("luv")
    assert.equal(uv.os_getpid(), sys.pid())
    assert.equal("integer", math.type(sys.uid()))
    local v = sys.version()
    assert.is_true(v.edition == "community" or v.edition == "pro")
    assert.matches("^%d+%.%d+%.%d+$", v.version)
    assert.matches("^5%.4%.", v.libraries.lua)
  end)

  it("has a clock that does not go back, in nanoseconds", function()
    local from = sys.clock()
    local uv_from = require("luv").hrtime()
    local to = sys.clock()
    assert.is_true(from <= uv_from and uv_from <= to)
  end)

  it("knows what is no terminal", function()
    assert.is_false(sys.isatty(999))
  end)
end)

describe("lattice.log", function()
  it("says what is at or above the level, on one line", function()
    assert.equal("lattice: error: a 1 nil true\n",
      said [[require("lattice.log").error("a", 1, nil, true)]])
    assert.equal("lattice: warning: w\n",
      said [[local log = require("lattice.log") log.warn("w") log.info("i") log.debug("d")]])
    assert.equal("lattice: i\nlattice: debug: d\n",
      said [[local log = require("lattice.log") log.level("debug") log.info("i") log.debug("d")]])
    assert.equal("", said [[local log = require("lattice.log") log.level("error") log.warn("w")]])
  end)

  it("takes no % for a format", function()
    assert.equal("lattice: error: %s %n\n", said [[require("lattice.log").error("%s %n")]])
  end)

  it("refuses an unknown level", function()
    assert.has_error(function() require("lattice.log").level("loud") end)
  end)
end)
