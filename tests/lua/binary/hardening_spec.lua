-- The release build is hardened, and the binary needs no search path to find its Lua files.
local lattice = os.getenv("LATTICE")

local function lines(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local text = pipe:read("a")
  return text, pipe:close() == true
end

local function readelf(option)
  return (lines(("readelf -W %s '%s'"):format(option, lattice)))
end

describe("the release binary", function()
  local sanitized = lattice and readelf("-d"):find("libasan", 1, true) ~= nil

  local function hardened(name, test)
    it(name, function()
      if not lattice then pending("LATTICE does not name the binary") end
      if sanitized then pending("a build with sanitizers is not hardened") end
      test()
    end)
  end

  hardened("is position independent", function()
    assert.truthy(readelf("-h"):find("Type:%s+DYN"))
  end)

  hardened("has its relocations read-only and bound at start", function()
    assert.truthy(readelf("-l"):find("GNU_RELRO", 1, true))
    assert.truthy(readelf("-d"):find("BIND_NOW", 1, true) or readelf("-d"):find("Flags:.*NOW"))
  end)

  hardened("has no executable stack", function()
    assert.truthy(readelf("-l"):find("GNU_STACK[^\n]* RW "))
  end)

  hardened("has stack protectors and checked libc calls", function()
    local symbols = readelf("--dyn-syms")
    assert.truthy(symbols:find("__stack_chk_fail", 1, true))
    assert.truthy(symbols:find("_chk@", 1, true))
  end)

  it("ignores Lua search paths of the environment", function()
    if not lattice then pending("LATTICE does not name the binary") end
    local plain = lines(("'%s' version"):format(lattice))
    local text, good = lines(("cd / && LUA_PATH=/nowhere/?.lua LUA_PATH_5_4=/nowhere/?.lua "
      .. "LUA_INIT='error(1)' LUA_INIT_5_4='error(1)' '%s' version"):format(lattice))
    assert.is_true(good, text)
    assert.equal(plain, text)
  end)
end)
