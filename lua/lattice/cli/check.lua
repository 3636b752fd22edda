-- lattice check: is a policy valid, do its own tests hold, and does every rule have a chance to match?
local M = {
  name = "check",
  summary = "Check policies: grammar, meaning, their own tests. Touches nothing.",
  examples = { "lattice check agent.lua", "lattice check --rules coding-agent" },
}

function M.args(parser)
  parser:argument("file", "Policy files, or names of shipped policies."):args("+"):argname("FILE")
  parser:flag("--rules", "Print the rules as they were understood.")
end

local function check_one(file)
  local policy = require("lattice.policy")
  local loaded, errors = policy.load({ files = { file }, run_tests = true })
  if not loaded then return { file = file, ok = false, errors = errors, warnings = {} } end
  local warnings = loaded.warnings
  for _, warning in ipairs(require("lattice.policy.lint").unreachable(loaded)) do
    warnings[#warnings + 1] = warning
  end
  return {
    file = file, ok = true, policy = loaded.name, default = loaded.default, rules = #loaded.rules,
    tests = #loaded.tests, errors = {}, warnings = warnings, loaded = loaded,
  }
end

local function count(number, word) return ("%d %s%s"):format(number, word, number == 1 and "" or "s") end

local function print_one(result, args, out)
  local format = require("lattice.policy").format_error
  for _, err in ipairs(result.errors) do out:problem(format(err)) end
  for _, warning in ipairs(result.warnings) do out:problem("warning: " .. format(warning)) end
  if not result.ok then
    out:problem(("%s: %s"):format(result.file, count(#result.errors, "error")))
    return
  end
  out:print(("%s: %s, %s, %s, default %s"):format(result.file, out:paint("green", "ok"),
    count(result.rules, "rule"), count(result.tests, "test"), result.default))
  if args.rules then out:print((require("lattice.policy").print.dump(result.loaded):gsub("\n$", ""))) end
end

function M.run(args, out)
  local results, ok = {}, true
  for i, file in ipairs(args.file) do
    local result = check_one(file)
    results[i], ok = result, ok and result.ok
    if not out.as_json then print_one(result, args, out) end
  end
  if out.as_json then
    local array = require("lattice.cli.support.policies").array
    for _, result in ipairs(results) do
      if args.rules and result.loaded then
        result.text = require("lattice.policy").print.dump(result.loaded)
      end
      result.loaded = nil
      array(result.errors)
      array(result.warnings)
    end
    out:json("check", { ok = ok, files = results })
  end
  return ok and 0 or 3
end

return M
