-- What the policy commands share: loading with the errors on stderr, JSON lists, flows from the command line.
local policy = require("lattice.policy")

local M = {}

--- A list that stays a list in JSON when it is empty.
---@param list table
---@return table
function M.array(list)
  local found, json = pcall(require, "lattice.json")
  return found and json.array and json.array(list) or list
end

--- Prints the problems of a policy: to stderr, or as a lattice/errors object.
---@param errors table[]
---@param out lattice.cli.Output
function M.print_errors(errors, out)
  if out.as_json then
    out:json("errors", { errors = M.array(errors) })
    return
  end
  for _, err in ipairs(errors) do out:problem(policy.format_error(err)) end
end

--- Loads one policy from files or names of shipped policies; nil after its problems were printed.
---@param files string[]
---@param out lattice.cli.Output
---@return table? policy
function M.load(files, out)
  local loaded, errors = policy.load({ files = files })
  if loaded then return loaded end
  M.print_errors(errors, out)
  return nil
end

--- A flow given as one text or as several words.
---@param words string[]
---@param out lattice.cli.Output
---@return table? flow
function M.flow(words, out)
  local text = table.concat(words, " ")
  local flow, problem = policy.flow.parse(text)
  if flow then return flow end
  problem.file, problem.col, problem.text = "flow", problem.pos, text
  problem.pos = nil
  M.print_errors({ problem }, out)
  if not out.as_json then out:problem('such as "tcp to 10.0.0.7 port 5432"') end
  return nil
end

local styles = { allow = "green", audit = "green", deny = "red", drop = "red", ask = "yellow" }

--- ALLOW, DENY, ... in its colour.
---@param action string
---@param out lattice.cli.Output
---@return string
function M.word(action, out) return out:paint(styles[action], action:upper()) end

return M
