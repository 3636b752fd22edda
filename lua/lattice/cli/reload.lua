-- lattice reload: the agent loads its policies again.
local M = {
  name = "reload",
  summary = "Load the agent's policies again, or show what that would change.",
  agent = true,
  examples = { "lattice reload --preview", "lattice reload" },
}

function M.args(parser)
  parser:description(table.concat({
    M.summary,
    "",
    "A policy that is wrong is refused with file and line, and the one in force stays. For root.",
    "Exit status: 0; 1 in force, but not all that follows from it was done; 3 refused; 4 no agent; 5 you may not.",
  }, "\n"))
  parser:flag("--preview", "Change nothing: say which rules and open flows would change.")
end

local function plain_lines(text, out)
  local plain = require("lattice.audit.format").plain
  for line in text:gmatch("[^\n]+") do out:print("  " .. plain(line)) end
end

function M.run(args, out)
  local support = require("lattice.cli.support.agent")
  local result, code = support.call(args, out, "reload", { preview = args.preview or nil })
  if not result then return code end
  local status = result.problems and #result.problems > 0 and 1 or 0
  if out.as_json then
    result.preview = args.preview or false
    out:json("reload", result)
    return status
  end
  local changes = ("%s added, %d removed, %s %s"):format(support.count(result.rules_added or 0, "rule"),
    result.rules_removed or 0, support.count(result.flows_cut or 0, "open flow"), args.preview and "to cut" or "cut")
  if args.preview then
    out:print("nothing was changed; a reload would be: " .. changes)
  else
    out:print(("generation %d is in force: %s%s"):format(result.generation, changes,
      result.ms and (" (%d ms)"):format(math.floor(result.ms + 0.5)) or ""))
  end
  if result.text then plain_lines(result.text, out) end
  for _, problem in ipairs(result.problems or {}) do out:message("after it: " .. tostring(problem)) end
  return status
end

return M
