-- Counts of passed, failed and skipped, with the names that the closing screen prints.
---@class lattice.test.Tally
---@field passed integer
---@field failed integer
---@field skipped integer
---@field failures string[]
---@field skips table<string, string[]>  reason -> names
local Tally = {}
Tally.__index = Tally

---@return lattice.test.Tally
function Tally.new()
  return setmetatable({ passed = 0, failed = 0, skipped = 0, failures = {}, skips = {},
    reasons = {} }, Tally)
end

function Tally:pass(number)
  self.passed = self.passed + (number or 1)
end

function Tally:fail(where, name)
  self.failed = self.failed + 1
  self.failures[#self.failures + 1] = where .. ": " .. name
end

function Tally:skip(where, name, reason)
  self.skipped = self.skipped + 1
  if not self.skips[reason] then
    self.skips[reason] = {}
    self.reasons[#self.reasons + 1] = reason
  end
  table.insert(self.skips[reason], where .. ": " .. name)
end

--- Adds another tally to this one.
---@param other lattice.test.Tally
function Tally:add(other)
  self:pass(other.passed)
  self.failed = self.failed + other.failed
  table.move(other.failures, 1, #other.failures, #self.failures + 1, self.failures)
  for _, reason in ipairs(other.reasons) do
    for _, name in ipairs(other.skips[reason]) do
      local where, what = name:match("^(.-): (.*)$")
      self:skip(where, what, reason)
    end
  end
end

---@return string  "3 passed, 0 failed, 1 skipped"
function Tally:line()
  return ("%d passed, %d failed, %d skipped"):format(self.passed, self.failed, self.skipped)
end

return Tally
