-- Is an audit log complete? Each file numbers the records that were meant for it (unmapped.lattice.line, from 1
-- in each run), and a loss is told by a record of kind "loss". So a number that is jumped without such a record was
-- removed or never arrived; a filtered file is checked as well as a full one.
local M = {}

---@class lattice.audit.Gap
---@field run string
---@field from integer   the first number that is missing
---@field to integer
---@field at integer     the line in the file where the records go on
---@field file? string
---@field known boolean  a loss record tells of it

---@class lattice.audit.Checker
local Checker = {}
Checker.__index = Checker

--- A checker: give it every record in order, then ask for the result.
---@return lattice.audit.Checker
function M.new()
  return setmetatable({ runs = {}, order = {}, gaps = {}, problems = {}, records = 0, lost = 0 }, Checker)
end

function Checker:run_of(record)
  local run = self.runs[record.run]
  if not run then
    run = { id = record.run, name = record.run_name, records = 0, last = 0, seq = 0 }
    self.runs[record.run] = run
    self.order[#self.order + 1] = run
  end
  return run
end

function Checker:problem(file, at, what)
  self.problems[#self.problems + 1] = { file = file, at = at, what = what }
end

local function add_gap(self, run, record, file, from, to, known)
  self.gaps[#self.gaps + 1] = { run = run.id, from = from, to = to, at = record.at, file = file, known = known }
end

--- The next record of a file.
---@param record lattice.audit.Record
---@param file? string
function Checker:add(record, file)
  local run = self:run_of(record)
  local number = record.line or record.seq
  local missing = number - run.last - 1
  run.records, self.records = run.records + 1, self.records + 1
  if missing < 0 then
    self:problem(file, record.at, ("number %d comes after %d: repeated or moved"):format(number, run.last))
    return
  end
  if record.line and record.seq <= run.seq then
    self:problem(file, record.at, ("sequence %d comes after %d: repeated or moved"):format(record.seq, run.seq))
  end
  local told = record.kind == "loss" and record.lost or 0
  if missing > 0 then add_gap(self, run, record, file, run.last + 1, number - 1, told >= missing) end
  if record.kind == "loss" then self.lost = self.lost + told end
  if run.ended then self:problem(file, record.at, "a record after the end of its run") end
  run.started = run.started or record.kind == "start"
  run.ended = run.ended or record.kind == "exit"
  run.last, run.seq = number, math.max(run.seq, record.seq)
end

--- A line that is no record.
---@param problem lattice.audit.Problem
---@param file? string
function Checker:garbage(problem, file)
  self:problem(file, problem.at, problem.torn and "the last line is cut off" or problem.what)
end

--- The verdict over all that was added. complete: no gap, no loss, nothing odd, and each run that began here also
--- ended.
---@return table result  { complete, records, lost, runs, gaps, problems, open }
function Checker:result()
  local open = {}
  for _, run in ipairs(self.order) do
    if run.started and not run.ended then open[#open + 1] = run.id end
  end
  local complete = #self.gaps == 0 and self.lost == 0 and #self.problems == 0 and #open == 0
  return { complete = complete, records = self.records, lost = self.lost, runs = self.order, gaps = self.gaps,
    problems = self.problems, open = open }
end

local function place(item)
  return item.file and ("%s:%d"):format(item.file, item.at) or ("line %d"):format(item.at)
end

local function describe_gap(gap)
  local numbers = gap.from == gap.to and ("record %d is"):format(gap.from)
    or ("records %d to %d are"):format(gap.from, gap.to)
  return ("%s: %s missing before it (run %s)%s"):format(place(gap), numbers, gap.run,
    gap.known and "; a loss record tells of it" or "")
end

--- The result as lines for people: "complete", or every gap.
---@param result table
---@return string[] lines
function M.describe(result)
  local runs = #result.runs == 1 and "1 run" or #result.runs .. " runs"
  if result.complete then return { ("complete: %d records, %s"):format(result.records, runs) } end
  local lines = { ("not complete: %d records, %s"):format(result.records, runs) }
  for _, gap in ipairs(result.gaps) do lines[#lines + 1] = describe_gap(gap) end
  for _, problem in ipairs(result.problems) do
    lines[#lines + 1] = ("%s: %s"):format(place(problem), problem.what)
  end
  if result.lost > 0 then
    lines[#lines + 1] = ("%d records could not be written, say the loss records"):format(result.lost)
  end
  for _, id in ipairs(result.open) do
    lines[#lines + 1] = ("run %s has no record of its end: it still runs, was killed, or its end is missing"):format(id)
  end
  return lines
end

return M
