-- lattice version
local M = {
  name = "version",
  summary = "Print the version, the edition and the libraries.",
  agent = true,
  examples = { "lattice version --json", "lattice --socket /run/lattice/control.sock version" },
}

function M.run(args, out)
  local v = require("lattice.sys").version()
  if args.socket then
    local code
    v, code = require("lattice.cli.support.agent").call(args, out, "version")
    if not v then return code end
  end
  if args.json then
    out:json("version", v)
    return 0
  end
  out:print(("%s %s (%s)"):format(args.socket and "latticed" or "lattice", v.version, v.edition))
  local names = {}
  for name in pairs(v.libraries) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do names[i] = name .. " " .. v.libraries[name] end
  out:print(table.concat(names, ", "))
  return 0
end

return M
