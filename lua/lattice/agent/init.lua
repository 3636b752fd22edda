-- latticed: the node agent. Start order, stop, and what the control socket sees of it.
local M = {}

--- The program.
---@param argv string[]
---@return integer status
function M.main(argv)
  io.stderr:write("latticed: not started: this build has no enforcer\n")
  return 5
end

return M
