-- The last probe of doctor: `lattice run` itself, as a program, under a time limit.
local M = {}

--- Runs `true` under a policy that allows nothing.
---@param timeout_ms integer
---@return boolean ok
---@return string? why  what it said, in one line
function M.probe(timeout_ms)
  local uv = require "luv"
  local loop = require "lattice.loop"
  local errors, status, late = uv.new_pipe(), nil, false
  local said = {}
  local child, why = uv.spawn(uv.exepath(), {
    args = { "run", "--quiet", "--deny", "any to any", "--", "true" },
    stdio = { nil, nil, errors },
  }, function(code, signal) status = signal ~= 0 and 128 + signal or code end)
  if not child then
    errors:close()
    loop.run()
    return false, why
  end
  errors:read_start(function(_, data)
    if data then said[#said + 1] = data else errors:close() end
  end)
  local limit = loop.timer(timeout_ms, function()
    late = true
    child:kill("sigkill")
  end)
  while status == nil or not errors:is_closing() do loop.run("once") end
  limit:close()
  child:close()
  loop.run("nowait")
  if late then return false, ("it did not end within %d ms"):format(timeout_ms) end
  local text = table.concat(said):gsub("%s+$", ""):gsub("\n", "; ")
  return status == 0, text ~= "" and text or ("exit status " .. status)
end

return M
