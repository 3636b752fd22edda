-- Writes a C file with every given Lua file: embed.lua OUT ROOT RELEASE (FILE | MODULE=FILE)...
-- RELEASE ("Lua 5.4.4") is this interpreter's: what it compiles is for that release alone.
-- The table is sorted by name (src/lua/embed.h).
local out, root, release = arg[1], arg[2], arg[3]

local escapes = { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = '\\n"\n"', ["\t"] = "\\t", ["?"] = "\\?" }

local function literal(text)
  return '"' .. text:gsub("[%c\\\"?\128-\255]", function(c)
    return escapes[c] or ("\\%03o"):format(c:byte())
  end) .. '"'
end

local function read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read("a")
end

local entries = {}
for i = 4, #arg do
  local name, path = arg[i]:match("^(%w+)=(.*)$")
  local chunk = name and "@" .. name .. ".lua"
  if not name then
    path = arg[i]
    local relative = path:sub(#root + 2)
    local module = relative:match("^lua/(.*)%.lua$")
    name = module and module:gsub("/", "."):gsub("%.init$", "") or relative
    chunk = "@" .. relative
  end
  local text = read(path)
  -- a policy is data; a module that does not compile is reported when it is required
  local code = not name:find("/") and load(text, chunk, "t")
  entries[#entries + 1] = { name = name, chunk = chunk, text = text, code = code and string.dump(code) or "" }
end
table.sort(entries, function(a, b) return a.name < b.name end)

local rows = {}
for i, e in ipairs(entries) do
  rows[i] = ("\t{ %s, %s, %s, %d, %s, %d },\n"):format(literal(e.name), literal(e.chunk), literal(e.text),
    #e.text, literal(e.code), #e.code)
end
local file <close> = assert(io.open(out, "wb"))
file:write('#include "lua/embed.h"\n\nconst struct lat_embedded lat_embedded[] = {\n', table.concat(rows),
  "\t{ 0 },\n};\n",
  ("const size_t lat_embedded_count = %d;\nconst char lat_embedded_release[] = %s;\n"):format(#entries,
    literal(release)))
