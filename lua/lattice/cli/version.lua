-- lattice version
local M = {
  name = "version",
  summary = "Print the version, the edition and the libraries.",
  examples = { "lattice version --json" },
}

function M.run(args, out)
  local v = require("lattice.sys").version()
  if args.json then
    out:json("version", v)
    return 0
  end
  out:print(("lattice %s (%s)"):format(v.version, v.edition))
  local names = {}
  for name in pairs(v.libraries) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do names[i] = name .. " " .. v.libraries[name] end
  out:print(table.concat(names, ", "))
  return 0
end

return M
