-- tests/golden/NAME.lua -> NAME.ir: what the policy lowers to, as text. LATTICE_BLESS=1 rewrites the .ir files.
local path = require("tests.support.path")
local policy = require("lattice.policy")

local function names()
  local list = {}
  local pipe = assert(io.popen("ls tests/golden/*.lua"))
  for line in pipe:lines() do list[#list + 1] = line:match("([^/]+)%.lua$") end
  pipe:close()
  return list
end

local function dump(file, loader)
  local loaded, errors = policy.load(loader(file))
  if not loaded then error(policy.format_error(errors[1])) end
  local lines = { policy.print.dump(loaded) }
  for _, warning in ipairs(loaded.warnings) do lines[#lines + 1] = "warning " .. policy.format_error(warning) end
  return table.concat(lines, "\n")
end

local function compare(name, text)
  local expected = "tests/golden/" .. name .. ".ir"
  if os.getenv("LATTICE_BLESS") then
    local file = assert(io.open(expected, "w"))
    file:write(text)
    file:close()
  end
  assert.equal(path.read(expected), text)
end

describe("golden policies", function()
  for _, name in ipairs(names()) do
    it("lower as they did: " .. name, function()
      compare(name, dump(("tests/golden/%s.lua"):format(name), function(file)
        return { files = { file }, mesh = { "10.99.0.0/16", "fd99::/64" }, run_tests = true }
      end))
    end)
  end

  for _, name in ipairs({ "guards", "default-deny", "coding-agent", "package-install", "lan-only", "lab-open" }) do
    it("lower as they did: policies/" .. name, function()
      compare("policies-" .. name, dump(name, function(file)
        return { files = { file }, shipped = path.shipped, run_tests = true }
      end))
    end)
  end
end)
