-- lattice test: the test blocks of policies, and *_test.lua files with expectations.
local M = {
  name = "test",
  summary = "Run the test blocks of policies and *_test.lua files.",
  examples = { "lattice test agent.lua", "lattice test policies/", "lattice test agent_test.lua --json" },
}

function M.args(parser)
  parser:argument("path", "Policies, *_test.lua files, or folders with them."):args("+"):argname("PATH")
  parser:flag("-v --verbose", "Name the tests that hold, too.")
end

--- The test blocks of one policy as results.
local function test_blocks(file, results)
  local policy = require("lattice.policy")
  local loaded, errors = policy.load({ files = { file } })
  if not loaded then return errors end
  local failed = {}
  for _, failure in ipairs(policy.failing_tests(loaded)) do failed[failure.test] = failure end
  for _, test in ipairs(loaded.tests) do
    if not (test.source.shipped and test.source.depth > 0) then
      local failure, message = failed[test], nil
      if failure then
        message = ("expected %s, the verdict is %s by %s"):format(test.expect, failure.verdict.verdict,
          failure.rule and failure.verdict.where .. ": " .. failure.rule.text or "the default")
      end
      results[#results + 1] = {
        file = file, where = test.where, name = ("%s %s"):format(test.expect, test.text),
        ok = not failure, message = message,
      }
    end
  end
  return nil
end

--- In a folder a policy is known by its name: a line that begins with policy "...".
local function is_policy(file)
  if file:find("_spec%.lua$") then return false end
  local handle = io.open(file, "rb")
  if not handle then return true end -- the error is the loader's
  local text = "\n" .. (handle:read(1 << 20) or "")
  handle:close()
  return text:find("\n[ \t]*policy[ \t(]*[\"']") ~= nil
end

local function run_paths(paths, out)
  local results, invalid = {}, false
  for _, path in ipairs(paths) do
    local files, why = require("lattice.cli.support.files").lua_files(path)
    if not files and path:find("^[%w_-]+$") then files = { path } end -- the name of a shipped policy
    if not files then
      out:message(why)
      return nil
    end
    for _, file in ipairs(files) do
      local errors
      if file:find("_test%.lua$") then
        errors = require("lattice.cli.support.expect").run(file, results)
      elseif file == path or is_policy(file) then
        errors = test_blocks(file, results)
      end
      if errors then
        invalid = true
        require("lattice.cli.support.policies").print_errors(errors, out)
      end
    end
  end
  return results, invalid
end

function M.run(args, out)
  local results, invalid = run_paths(args.path, out)
  if not results then return 2 end
  local passed, failed = 0, 0
  for _, result in ipairs(results) do
    if result.ok then passed = passed + 1 else failed = failed + 1 end
    if not out.as_json and (args.verbose or not result.ok) then
      out:print(("%s  %s: %s%s"):format(
        result.ok and out:paint("green", "ok  ") or out:paint("red", "FAIL"), result.where, result.name,
        result.message and "\n      " .. result.message or ""))
    end
  end
  if not out.as_json then
    out:print(("%d passed, %d failed"):format(passed, failed))
  elseif not invalid then
    require("lattice.cli.support.policies").array(results)
    out:json("test", { passed = passed, failed = failed, results = results })
  end
  if invalid then return 3 end
  return failed == 0 and 0 or 1
end

return M
