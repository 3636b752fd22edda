-- busted inside `lattice lua`: the test libraries are looked for in the distribution's folders, named here and not by the
-- environment. What a spec leaves open (boxes: timers, descriptors, namespaces) fails the run.
local api = require("lattice.api")

local dirs = { "/usr/share/lua/5.4", "/usr/local/share/lua/5.4", os.getenv("LATTICE_LUA_SHARE") }
local c_dirs = { "/usr/lib/x86_64-linux-gnu/lua/5.4", "/usr/lib/aarch64-linux-gnu/lua/5.4", "/usr/lib/lua/5.4",
  "/usr/local/lib/lua/5.4", os.getenv("LATTICE_LUA_LIB") }

local paths, c_paths = {}, {}
for _, dir in ipairs(dirs) do
  paths[#paths + 1] = dir .. "/?.lua"
  paths[#paths + 1] = dir .. "/?/init.lua"
end
for _, dir in ipairs(c_dirs) do c_paths[#c_paths + 1] = dir .. "/?.so" end
package.path = table.concat(paths, ";")
local c_path = table.concat(c_paths, ";")

-- lattice lua's own searcher follows package.path; this one adds the test libraries' C parts (lfs, term, system).
table.insert(package.searchers, function(name)
  local file, why = package.searchpath(name, c_path)
  if not file then return why end
  return assert(package.loadlib(file, "luaopen_" .. name:gsub("%.", "_"))), file
end)

-- busted ends the process by os.exit.
local exit = os.exit
os.exit = function(code, close) -- luacheck: ignore 122
  collectgarbage()
  collectgarbage()
  local left = api.boxes()
  if left > 0 then
    io.stderr:write(("%d boxes are still open after the last test\n"):format(left))
    if code == nil or code == true or code == 0 then code = 1 end
  end
  exit(code, close)
end

dofile("tests/support/busted.lua")
