-- One step of a tier: runs a command with a time limit, keeps its output in a log, and counts results from TAP, from
-- CTest's JUnit file, or from the exit status. Plain Lua, so that it runs before anything is built.
local M = { prefix = "" }

--- Quotes a word for the shell.
---@param word string
---@return string
function M.quote(word)
  return "'" .. tostring(word):gsub("'", "'\\''") .. "'"
end
local quote = M.quote

--- The lines that a shell command prints.
---@param command string
---@return string[]
function M.lines(command)
  local found = {}
  local pipe = assert(io.popen(command))
  for line in pipe:lines() do
    found[#found + 1] = line
  end
  pipe:close()
  return found
end

--- The whole text of a file, or "" if there is none.
---@param path string
---@return string
function M.text(path)
  local file = io.open(path, "r")
  if not file then return "" end
  local text = file:read("a")
  file:close()
  return text
end

-- Where what runs leaves the number of its process, in a file: runtests passes an interrupt on to it.
local function note(slot)
  local folder = os.getenv("LATTICE_RUNNING")
  return folder and quote(folder .. "/" .. slot) or "/dev/null"
end

-- One step as a shell command whose status is the step's. The shell's number is timeout's, too.
local function step(words, log, limit, slot)
  local file = note(slot)
  return M.prefix .. ("sh -c %s; status=$?; %s; (exit $status)"):format(
    quote(("echo $$ >%s; exec timeout -k 10 %d sh -c %s >%s 2>&1 </dev/null"):format(
      file, limit, quote(words), quote(log))), file == "/dev/null" and ":" or "rm -f " .. file)
end

local function ended(status, limit)
  if status == 0 then return true, "exit 0" end
  if status == 124 or status == 137 then return false, ("stopped after %d s"):format(limit) end
  return false, "exit " .. status
end

--- Runs `words` (already a shell command) for at most `limit` seconds.
---@param words string
---@param log string     file for stdout and stderr
---@param limit integer  seconds
---@return boolean ended_well
---@return string how    "exit 3", "stopped after 120 s" ...
function M.run(words, log, limit)
  local good, kind, code = os.execute(step(words, log, limit, 0))
  if good or kind == "exit" then return ended(good and 0 or code, limit) end
  return false, kind .. " " .. code
end

---@class lattice.test.Job
---@field words string
---@field log string
---@field limit integer

--- Runs jobs, at most `width` at a time, in their order; done(job, ended_well, how, seconds) as each ends.
---@param jobs lattice.test.Job[]
---@param width integer
---@param done fun(job: lattice.test.Job, ended_well: boolean, how: string, seconds: integer)
function M.pool(jobs, width, done)
  local dir = M.lines("mktemp -d -p " .. quote(os.getenv("LATTICE_RUNNING") or "/tmp"))[1]
  for at, job in ipairs(jobs) do
    local file = assert(io.open(dir .. "/" .. at, "w"))
    file:write("began=$(date +%s)\n", step(job.words, job.log, job.limit, at),
      ("\necho %d $? $(($(date +%%s) - began))\n"):format(at))
    file:close()
  end
  local pipe = assert(io.popen(("echo $$ >%s; seq %d >%s/all; exec xargs -a %s/all -P %d -I@ sh %s/@"):format(
    note("pool"), #jobs, quote(dir), quote(dir), width, quote(dir))))
  local left = {}
  for at in ipairs(jobs) do left[at] = true end
  for line in pipe:lines() do
    local at, status, seconds = line:match("^(%d+) (%d+) (%d+)$")
    at = math.tointeger(tonumber(at))
    if at and left[at] then
      left[at] = nil
      local good, how = ended(tonumber(status), jobs[at].limit)
      done(jobs[at], good, how, tonumber(seconds))
    end
  end
  pipe:close()
  for at in pairs(left) do done(jobs[at], false, "never ended", 0) end
  os.execute("rm -rf " .. quote(dir))
end

--- Reads TAP lines into a tally. Returns the numbers of results and of failed ones, and whether the plan ("1..N")
--- was seen and kept.
---@param text string
---@param tally lattice.test.Tally
---@return integer results
---@return integer failed
---@return boolean complete
function M.tap(text, tally, where)
  local results, failed, plan = 0, 0, nil
  for line in text:gmatch("[^\n]+") do
    local bad, rest = line:match("^(n?o?t? ?)ok%s+%d*%s*%-?%s*(.*)$")
    if bad == "" or bad == "not " then
      results = results + 1
      local name, reason = rest:match("^(.-)%s*# SKIP%s*(.*)$")
      if bad == "not " then
        failed = failed + 1
        tally:fail(where, rest)
      elseif reason then
        tally:skip(where, name, reason)
      else
        tally:pass()
      end
    end
    plan = tonumber(line:match("^1%.%.(%d+)")) or plan
  end
  return results, failed, plan == results
end

local entities = { lt = "<", gt = ">", quot = '"', apos = "'", amp = "&" }

-- One cmocka program says how many of its tests passed, failed and were skipped; each counts.
local function cmocka(output, name, tally)
  local passed, failed, skipped = 0, 0, 0
  for kind, number in output:gmatch("%[%s+(%u+)%s+%] (%d+) test%(s%)") do
    if kind == "PASSED" then passed = passed + tonumber(number) end
    if kind == "FAILED" then failed = failed + tonumber(number) end
    if kind == "SKIPPED" then skipped = skipped + tonumber(number) end
  end
  if passed + failed + skipped == 0 then return false end
  tally:pass(passed)
  local seen = {}
  for test in output:gmatch("%[%s+FAILED%s+%] ([%w_]+)") do
    if not seen[test] and failed > 0 then
      seen[test], failed = true, failed - 1
      tally:fail(name, test)
    end
  end
  for _ = 1, failed do tally:fail(name, "a test") end
  for line, test in output:gmatch("([^\n]*)\n%[%s+SKIPPED%s+%] ([%a_][%w_]*)") do
    if not seen[test] and skipped > 0 then
      seen[test], skipped = true, skipped - 1
      tally:skip(name, test, line:match("^%[") and "no reason given" or line)
    end
  end
  for _ = 1, skipped do tally:skip(name, "a test", "no reason given") end
  return true
end

--- Reads CTest's JUnit file into a tally; the output of what failed is printed.
---@param xml string
---@param tally lattice.test.Tally
---@return integer programs
function M.junit(xml, tally)
  local programs = 0
  for attributes, body in xml:gmatch("<testcase%s(.-)>(.-)</testcase>") do
    programs = programs + 1
    local name = attributes:match('name="(.-)"')
    local status = attributes:match('status="(.-)"')
    local output = (body:match("<system%-out>(.-)</system%-out>") or ""):gsub("&(%a+);", entities)
    if status == "run" then
      if not cmocka(output, name, tally) then tally:pass() end
    elseif body:find("<skipped", 1, true) then
      local reason = output:match("[^\n]*[Ss]kip[^\n]*") or output:match("([^\n]+)\n*$")
      tally:skip(name, "all of it", reason and reason:gsub("^[Ss]kip%a*: ", "") or "no reason given")
    else
      io.write(output, "\n")
      local before = tally.failed
      cmocka(output, name, tally)
      -- a crash or a time-out: the program never got to its own count
      if tally.failed == before then
        local how = body:match('<failure message="(.-)"') or ""
        tally:fail(name, how ~= "" and how or "crashed or ran out of time")
      end
    end
  end
  return programs
end

return M
