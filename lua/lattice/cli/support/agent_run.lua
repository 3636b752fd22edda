-- What the agent of this host lets the caller run in kernel mode (`runs` of its config), for a `lattice run` without
-- privilege.
local M = {}

-- Which of the agent's policies the arguments mean, or why none.
local function choose(args, offer)
  local uv = require("luv")
  if #args.allow > 0 or #args.deny > 0 then
    return nil, "the agent takes policies of its own, and no --allow or --deny"
  elseif args.learn or args.audit_only then
    return nil, "the agent lets nothing pass that its policy denies (--learn, --audit-only)"
  elseif args.network and args.network ~= offer.network then
    return nil, offer.network and ("the agent binds your runs to '%s'"):format(offer.network)
      or "the agent binds your runs to no device"
  elseif #args.policy > 1 then
    return nil, "the agent takes one policy"
  end
  local said = args.policy[1]
  if not said and #offer.policies == 1 then return offer.policies[1] end
  local real = said and uv.fs_realpath(said)
  for _, file in ipairs(offer.policies) do
    if real and (uv.fs_realpath(file) or file) == real then return file end
  end
  return nil, ("the agent lets you run by: %s"):format(table.concat(offer.policies, ", "))
end

---@class lattice.cli.AgentRun
---@field socket string
---@field policy string    the file, as the agent names it
---@field mesh string[]
---@field network? string
---@field limits? table

--- Asks the agent; nil and why not. A host without an agent costs one look at the disk.
---@param args table  of `lattice run`
---@return lattice.cli.AgentRun?
---@return string? reason
function M.offer(args)
  local client = require("lattice.control.client")
  local path = args.socket or client.DEFAULT
  if not require("luv").fs_stat(path) then return nil, "no agent is there to do it (latticed)" end
  local c, err = client.open(path)
  local offer
  if c then
    offer, err = c:call("runs")
    c:close()
  end
  if not offer then return nil, "agent: " .. err.text end
  local policy, why = choose(args, offer)
  if not policy then return nil, why end
  return { socket = path, policy = policy, mesh = offer.mesh, network = offer.network, limits = offer.limits }
end

return M
