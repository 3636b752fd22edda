-- What the commands that talk to the agent share: asking, saying what went wrong, and words for numbers.
local client = require("lattice.control.client")

local M = {}

--- Says what an agent, or the way to it, answered; the exit status.
---@param err lattice.control.Error
---@param out lattice.cli.Output
---@return integer status
function M.fail(err, out)
  local text = err.text or "the agent gave an error without a reason"
  if out.as_json then
    out:json("error", { error = { text = text, code = err.code, exit = err.exit } })
  elseif err.exit == 3 then
    for line in text:gmatch("[^\n]+") do out:problem(line) end -- these begin with their place
  else
    out:message(text)
  end
  return err.exit or 1
end

--- Connects to the agent that the arguments name; nil and the exit status after saying why not.
---@param args table
---@param out lattice.cli.Output
---@return lattice.control.Client?
---@return integer? status
function M.open(args, out)
  local c, err = client.open(args.socket)
  if c then return c end
  return nil, M.fail(err, out)
end

--- Asks once; nil and the exit status after saying why not.
---@param args table
---@param out lattice.cli.Output
---@param verb string
---@param verb_args table?
---@return table? result
---@return integer? status
function M.call(args, out, verb, verb_args)
  local c, status = M.open(args, out)
  if not c then return nil, status end
  local result, err = c:call(verb, verb_args)
  c:close()
  if result then return result end
  return nil, M.fail(err, out)
end

--- "3 s", "5 min", "2 h 10 min", "3 d 4 h".
---@param seconds number
---@return string
function M.duration(seconds)
  seconds = math.max(0, math.floor(seconds))
  if seconds < 120 then return seconds .. " s" end
  if seconds < 7200 then return seconds // 60 .. " min" end
  if seconds < 86400 then return ("%d h %d min"):format(seconds // 3600, seconds % 3600 // 60) end
  return ("%d d %d h"):format(seconds // 86400, seconds % 86400 // 3600)
end

--- "512 B", "1.5 KiB", "20 MiB".
---@param count number
---@return string
function M.bytes(count)
  local units, i = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" }, 1
  while count >= 1024 and i < #units do count, i = count / 1024, i + 1 end
  return i == 1 and ("%d B"):format(count) or ("%.3g %s"):format(count, units[i])
end

--- "1 packet", "2 packets".
---@param count integer
---@param noun string
---@return string
function M.count(count, noun) return ("%d %s%s"):format(count, noun, count == 1 and "" or "s") end

return M
