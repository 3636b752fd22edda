-- lattice down: the agent removes everything it made and stops; without one, what a dead one left is removed.
local M = {
  name = "down",
  summary = "Remove all that the agent enforces on this node, and stop it.",
  agent = true,
  examples = { "lattice down", "lattice --socket /run/lattice-b/control.sock down" },
}

function M.args(parser)
  parser:description(table.concat({
    M.summary,
    "",
    "The node is open afterwards: nothing is judged any more, and devices that the agent made are gone. Where no",
    "agent runs, what a dead one left (programs, rules, devices) is removed. For root.",
    "Exit status: 0; 1 something is left; 4 no agent, and nothing of one was found; 5 you may not.",
  }, "\n"))
  parser:option("--pins", "Where a dead agent's programs are pinned."):argname("DIR")
end

-- What a dead agent left. nil when this cannot be told here.
local function remove_remains(args, out, err)
  local support = require("lattice.cli.support.agent")
  if err.code ~= "ENOENT" and err.code ~= "ECONNREFUSED" then return support.fail(err, out) end
  if require("lattice.sys").uid() ~= 0 then
    return support.fail({ text = err.text .. "; what a dead one left is for root to remove", code = err.code,
      exit = 4 }, out)
  end
  if not require("lattice.api").has_module("lattice.agent.remains") then return support.fail(err, out) end
  local result, why, over
  require("lattice.agent.remains").remove({ pins = args.pins, socket = args.socket }, function(r, e)
    result, why, over = r, e, true
  end)
  while not over do require("luv").run("once") end
  if not result then return support.fail({ text = why, code = "EIO", exit = 1 }, out) end
  local list = type(result) == "table" and result or {}
  if #list == 0 then return support.fail(err, out) end
  if out.as_json then
    out:json("down", { agent = false, removed = require("lattice.json").array(list) })
    return 0
  end
  out:print("no agent was running; of a dead one was removed:")
  for _, line in ipairs(list) do out:print("  " .. tostring(line)) end
  return 0
end

function M.run(args, out)
  local support = require("lattice.cli.support.agent")
  local c, err = require("lattice.control.client").open(args.socket)
  if not c then return remove_remains(args, out, err) end
  local result
  result, err = c:call("down")
  c:close()
  -- it says goodbye by closing the connection at the latest
  if not result and err.code ~= "EPIPE" and err.code ~= "ECONNRESET" then return support.fail(err, out) end
  if out.as_json then
    out:json("down", { agent = true, removed = require("lattice.json").array({}) })
  else
    out:print("the agent has removed everything and stopped; nothing is enforced on this node any more")
  end
  return 0
end

return M
