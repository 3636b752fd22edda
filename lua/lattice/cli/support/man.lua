-- A command's manual page, from what its parser says: nothing here can be out of date.
local M = {}

-- A line of text as roff takes it: no escapes, no requests.
local function plain(line)
  line = line:gsub("\\", "\\e"):gsub("%-", "\\-")
  if line:find("^[.']") then line = "\\&" .. line end
  return line
end

--- The page in roff (man macros).
---@param command table
---@return string
function M.page(command)
  local version = require("lattice.sys").version().version
  local help = require("lattice.cli").help(command)
  local usage, rest = help:match("^(Usage: .-)\n\n(.*)$")
  local out = {
    ('.TH LATTICE\\-%s 1 "" "lattice %s" "Lattice"'):format(command.name:upper():gsub("%-", "\\-"), version),
    ".SH NAME", plain("lattice-" .. command.name) .. " \\- " .. plain(command.summary), ".SH SYNOPSIS", ".nf",
  }
  for line in usage:gsub("^Usage: ", ""):gmatch("[^\n]+") do out[#out + 1] = plain((line:gsub("^       ", ""))) end
  out[#out + 1] = ".fi"
  out[#out + 1] = ".SH DESCRIPTION"
  out[#out + 1] = ".nf"
  local titles = { ["Options:"] = "OPTIONS", ["Arguments:"] = "ARGUMENTS", ["Examples:"] = "EXAMPLES" }
  for line in (rest .. "\n"):gmatch("(.-)\n") do
    local title = titles[line]
    if title then
      for _, text in ipairs({ ".fi", ".SH " .. title, ".nf" }) do out[#out + 1] = text end
    else
      out[#out + 1] = line == "" and "" or plain(line)
    end
  end
  out[#out + 1] = ".fi"
  if command.agent then
    out[#out + 1] = ".SH EXIT STATUS"
    out[#out + 1] = "0; 1 it failed; 2 wrong arguments; 3 the policy was refused; 4 no agent answers; "
      .. "5 you may not; 6 a feature of the pro edition."
    out[#out + 1] = ".SH FILES"
    out[#out + 1] = "/run/lattice/control.sock"
  end
  out[#out + 1] = ".SH SEE ALSO"
  out[#out + 1] = "lattice help"
  return table.concat(out, "\n") .. "\n"
end

return M
