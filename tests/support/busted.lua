-- Runs busted in this interpreter: the packaged command runs whatever `lua` happens to be. LATTICE_COLLECT=hard
-- makes the collector run often, in the other mode than usual, so that what lives too short fails here.
if os.getenv("LATTICE_COLLECT") == "hard" then
  collectgarbage("generational", 5, 20)
end

-- pending("name", "reason") beside tests, pending("reason") inside one: both say why. busted itself takes a second
-- string for a test to run.
local function with_reason(name, reason)
  return type(reason) == "string" and name .. ": " .. reason or name
end

local new = require("busted.core")
package.loaded["busted.core"] = function()
  local busted = new()
  local register, here = busted.register, busted.pending
  busted.pending = function(name, reason)
    return here(with_reason(name, reason))
  end
  busted.register = function(descriptor, ...)
    register(descriptor, ...)
    if descriptor == "pending" then
      local block = busted.executors.pending
      busted.export("pending", function(name, reason)
        return block(with_reason(name, reason), type(reason) == "function" and reason or nil)
      end)
    end
  end
  return busted
end

require("busted.runner")({ standalone = false })
