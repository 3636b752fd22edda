-- lattice lua: runs a script with every primitive; and prints or writes what the primitives are.
local M = {
  name = "lua",
  summary = "Run a Lua script with every primitive of lattice.",
  examples = {
    "lattice lua probe.lua 192.0.2.7",
    [[lattice lua -e 'print(require("lattice.addr").prefix("10.0.0.0/8").len)']],
    "lattice lua --api lattice.loop",
  },
  rest = "FILE [ARGS]",
}

local takes_value = { ["-e"] = true, ["--stubs"] = true, ["--color"] = true, ["--api"] = true }

--- What follows the first word that is no option of ours belongs to the script.
function M.split(argv)
  local at = 1
  while argv[at] and argv[at]:sub(1, 1) == "-" and argv[at] ~= "-" do
    if argv[at] == "--" then
      return table.move(argv, 1, at - 1, 1, {}), table.move(argv, at + 1, #argv, 1, {})
    end
    at = at + (takes_value[argv[at]] and 2 or 1)
  end
  return table.move(argv, 1, at - 1, 1, {}), table.move(argv, at, #argv, 1, {})
end

function M.args(parser)
  parser:option("-e", "Run this text instead of a file."):argname("CODE"):target("code")
  parser:option("--api", "Explain a C module, or list them (\"all\")."):argname("MODULE")
  parser:option("--stubs", "Write LuaLS stubs of the C modules into a folder."):argname("DIR")
end

local function write_stubs(dir, out)
  local files = require("lattice.cli.support.stubs").generate(require("lattice.api").list())
  for name, text in pairs(files) do
    local file, why = io.open(dir .. "/" .. name, "w")
    if not file then
      out:message(why .. "; make the folder first")
      return 1
    end
    file:write(text)
    file:close()
  end
  return 0
end

-- A script may be made of several files beside each other. Nothing comes from the environment.
local function search_beside(path)
  local dir = path:match("^(.*)/[^/]*$") or "."
  package.path = dir .. "/?.lua;" .. dir .. "/?/init.lua"
  table.insert(package.searchers, function(name)
    local file, why = package.searchpath(name, package.path)
    if not file then return why end
    return assert(loadfile(file)), file
  end)
end

-- A script's error object may have a __tostring that fails or gives no string.
local function describe(e)
  local ok, text = pcall(tostring, e)
  return debug.traceback(ok and text or "(error object is a " .. type(e) .. " value)", 2)
end

function M.run(args, out)
  if args.stubs then return write_stubs(args.stubs, out) end
  if args.api and args.json then
    out:json("api", { modules = require("lattice.api").list() })
    return 0
  end
  if args.api then
    local text, why = require("lattice.cli.support.stubs").help(require("lattice.api").list(), args.api)
    if text then io.stdout:write(text) else out:message(why) end
    return text and 0 or 2
  end
  local words = args.rest or {}
  local chunk, why, name
  if args.code then
    name = "(command line)"
    chunk, why = load(args.code, "=" .. name)
  else
    name = table.remove(words, 1)
    if not name then
      out:message("lattice lua: which file? (lattice help lua)")
      return 2
    end
    chunk, why = loadfile(name ~= "-" and name or nil)
    if name ~= "-" then search_beside(name) end
  end
  if not chunk then
    out:message(why)
    return 1
  end
  words[0] = name
  arg = words -- luacheck: ignore 111 (as the lua command has it)
  local ok, trace = xpcall(chunk, describe, table.unpack(words))
  if not ok then
    io.stderr:write("lattice lua: ", trace, "\n")
    return 1
  end
  return 0
end

return M
