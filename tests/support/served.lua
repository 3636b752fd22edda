-- A server that says "served", and a client that tells what it heard: bash itself, a program that nobody here wrote.
local M = {}

-- Answers every TCP connection on ports 80 and 81 with "served\n", then echoes; prints a line for each.
M.server = [[
local uv = require("luv")
uv.new_signal():start("sigpipe", function() end) -- a client that is killed must not end the server
io.stdout:setvbuf("line")
for _, port in ipairs({ 80, 81 }) do
  local listener = uv.new_tcp()
  assert(listener:bind("::", port))
  listener:listen(512, function()
    local peer = uv.new_tcp()
    listener:accept(peer)
    print("served", port)
    peer:write("served\n")
    peer:read_start(function(_, data) if data then peer:write(data) else peer:close() end end)
  end)
end
uv.run()
]]

-- get ADDRESS [PORT]: "ADDRESS: served", or "ADDRESS: refused".
M.get = [[
get() {
  if exec 3<>/dev/tcp/$1/${2:-80}; then read -r -t 5 line <&3; echo "$1: $line"; exec 3>&-
  else echo "$1: refused"; fi
}
]]

--- The words of a command that runs a bash script which may use get.
---@param script string
---@return string[]
function M.bash(script)
  return { "bash", "-c", M.get .. script }
end

--- Starts the server in the world's server namespace (or opts.ns).
function M.start(world, opts)
  opts = opts or {}
  opts.tcp = { 80, 81 }
  return world:serve({ "lua5.4", world:file("served.lua", M.server) }, opts)
end

return M
