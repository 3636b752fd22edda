-- A busted output handler for the test runner: TAP lines into the file named by LATTICE_REPORT, readable failures
-- on stdout. What a spec itself prints cannot be taken for a result.
local busted = require("busted")
local base = require("busted.outputHandlers.base")

return function()
  local handler = base()
  local report = assert(io.open(assert(os.getenv("LATTICE_REPORT"), "LATTICE_REPORT"), "w"))
  report:setvbuf("line")
  local count = 0

  local function line(good, name, skip)
    count = count + 1
    name = name:gsub("[\n#]", " ")
    report:write(good and "ok " or "not ok ", count, " - ", name,
      skip and " # SKIP " .. skip:gsub("\n", " ") or "", "\n")
  end

  local function show(test)
    local message = test.message
    if type(message) ~= "string" then
      message = tostring(message == nil and "no message" or message)
    end
    local trace = test.trace and test.trace.traceback or ""
    io.write("FAILED: ", test.name, "\n", message, trace, "\n\n")
    io.flush()
  end

  handler.testEnd = function(element, _, status)
    local name = handler.getFullName(element)
    if status == "success" then
      line(true, name)
    elseif status == "pending" then
      local test = handler.pendings[#handler.pendings]
      -- busted puts the place in front of the message
      local reason = test.message and tostring(test.message):gsub("^[^\n]-:%d+: ", "")
      line(true, name, reason or element.name:match("^.-: (.*)$") or element.name)
    else
      line(false, name)
      show(status == "failure" and handler.failures[#handler.failures]
        or handler.errors[#handler.errors])
    end
    return nil, true
  end

  -- An error outside of any test: a spec that does not load, a setup that fails.
  handler.error = function(element)
    if element.descriptor ~= "it" then
      local test = handler.errors[#handler.errors]
      line(false, handler.getFullName(element) .. " (" .. element.descriptor .. ")")
      show(test)
    end
    return nil, true
  end

  handler.suiteEnd = function()
    report:write("1..", count, "\n")
    report:close()
    return nil, true
  end

  busted.subscribe({ "suite", "end" }, handler.suiteEnd)
  busted.subscribe({ "test", "end" }, handler.testEnd)
  busted.subscribe({ "error" }, handler.error)
  busted.subscribe({ "failure" }, handler.error)
  return handler
end
