-- Writes a C file with every given Lua file as a byte array: embed.lua OUT ROOT FILE...
local out, root = arg[1], arg[2]
local parts = { '#include "lua/embed.h"\n' }
local table_rows = {}
for i = 3, #arg do
  local path = arg[i]
  local relative = path:sub(#root + 2)
  local name = relative:match("^lua/(.*)%.lua$")
  name = name and name:gsub("/", "."):gsub("%.init$", "") or relative
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  local bytes = {}
  for at = 1, #text, 24 do
    bytes[#bytes + 1] = table.concat({ text:byte(at, at + 23) }, ",") .. ","
  end
  parts[#parts + 1] = ("static const char f%d[] = {\n%s\n0};\n"):format(i, table.concat(bytes, "\n"))
  table_rows[#table_rows + 1] = ('\t{ "%s", "@%s", f%d, %d },\n'):format(name, relative, i, #text)
end
parts[#parts + 1] = ("const struct lat_embedded lat_embedded[] = {\n%s\t{ 0, 0, 0, 0 },\n};\n"):format(table.concat(table_rows))
local file = assert(io.open(out, "wb"))
file:write(table.concat(parts))
file:close()
