-- Writes a C file with the text of every given Lua file: embed.lua OUT ROOT (FILE | MODULE=FILE)...
-- The table is sorted by name (src/lua/embed.h).
local out, root = arg[1], arg[2]

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
for i = 3, #arg do
  local name, path = arg[i]:match("^(%w+)=(.*)$")
  local chunk = name and "@" .. name .. ".lua"
  if not name then
    path = arg[i]
    local relative = path:sub(#root + 2)
    local module = relative:match("^lua/(.*)%.lua$")
    name = module and module:gsub("/", "."):gsub("%.init$", "") or relative
    chunk = "@" .. relative
  end
  entries[#entries + 1] = { name = name, chunk = chunk, text = read(path) }
end
table.sort(entries, function(a, b) return a.name < b.name end)

local rows = {}
for i, e in ipairs(entries) do
  rows[i] = ("\t{ %s, %s, %s, %d },\n"):format(literal(e.name), literal(e.chunk), literal(e.text), #e.text)
end
local file <close> = assert(io.open(out, "wb"))
file:write('#include "lua/embed.h"\n\nconst struct lat_embedded lat_embedded[] = {\n', table.concat(rows),
  "\t{ 0, 0, 0, 0 },\n};\n",
  ("const size_t lat_embedded_count = %d;\n"):format(#entries))
