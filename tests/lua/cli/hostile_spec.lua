-- The hostile corpus (see tests/lua/policy/hostile_spec.lua) against the program itself: `lattice run` loads policies in
-- a state of its own whose limits are in C. (`lattice check` has the limits of plain Lua: a sample suffices.) Nothing of
-- the corpus gets to the point where a command would start, but for what is merely large and stays within the program's
-- limits.
-- Takes long.
local lattice = os.getenv("LATTICE")
local SECONDS = 20

local within_limits = {
  format_width = true, gsub_function_growth = true, gsub_references = true, pattern_long = true,
}

local sample = { endless_while = true, string_doubling = true, deep_recursion = true, include_self = true }

local function run(command)
  local pipe = assert(io.popen(("timeout %d %s 2>&1 </dev/null; echo \"status $?\""):format(SECONDS, command)))
  local text = pipe:read("a")
  pipe:close()
  return tonumber(text:match("status (%d+)\n$")), text
end

local function names()
  local list = {}
  local pipe = assert(io.popen("ls tests/lua/hostile/*.lua"))
  for line in pipe:lines() do list[#list + 1] = line end
  pipe:close()
  return list
end

describe("in the program a hostile policy", function()
  if not lattice then
    pending("is refused", "LATTICE does not name the program")
    return
  end
  for _, file in ipairs(names()) do
    local name = file:match("([^/]+)%.lua$")
    it("is refused: " .. name, function()
      local place = ("^%s:%%d+:"):format(file:gsub("%p", "%%%0"))
      local status, text = run(("'%s' run --policy %s -- true"):format(lattice, file))
      if not within_limits[name] then
        assert.equal(125, status, text)
        assert.truthy(text:find(place), text)
      end
      if sample[name] then
        status, text = run(("'%s' check %s"):format(lattice, file))
        assert.equal(3, status, text)
        assert.truthy(text:find(place), text)
      end
    end)
  end
end)
