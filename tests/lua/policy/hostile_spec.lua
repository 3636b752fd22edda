-- Policies that try to run for ever, take all memory, get at the host or crash the loader. Each is refused with
-- file:line, within bounds, and leaves the interpreter as it was. The first line of each says what is expected:
--   -- expect [line N]: text of the first message
local path = require("tests.support.path")
local policy = require("lattice.policy")

local FOLDER = "tests/lua/hostile"
local SECONDS = 10

local function names()
  local list = {}
  local pipe = assert(io.popen("ls " .. FOLDER .. "/*.lua"))
  for line in pipe:lines() do list[#list + 1] = line end
  pipe:close()
  return list
end

describe("a hostile policy", function()
  local files = names()

  it("has company", function() assert.is_true(#files >= 40) end)

  for _, file in ipairs(files) do
    it("is refused: " .. file:match("([^/]+)%.lua$"), function()
      local line, text = path.read(file):match("^%-%- expect l?i?n?e? ?(%d*): ?([^\n]*)")
      local find, started = string.find, os.clock()
      local loaded, errors = policy.load({
        files = { file }, shipped = path.shipped,
        budget = { instructions = 2000000, memory = 32 * 1024, work = 20000000, seconds = 2 },
      })
      assert.is_nil(loaded)
      assert.is_true(os.clock() - started < SECONDS)
      local message = policy.format_error(errors[1])
      assert.equal(file, errors[1].file, message)
      assert.is_number(errors[1].line, message)
      if line and line ~= "" then assert.equal(tonumber(line), errors[1].line, message) end
      if text and text ~= "" then assert.truthy(message:find(text, 1, true), message) end
      assert.is_nil(message:find("%c"), message)
      assert.equal(find, string.find)
      assert.equal(string, getmetatable("").__index)
      assert.is_nil((debug.gethook()))
    end)
  end
end)
