-- server.lua ADDRESS PORT...: answers every connection on these ports with a line of HTTP. Prints the ports (0 asks
-- for a free one), then serves until its stdin, if that is a pipe, is closed at the other end.
local uv = require("luv")

local address = arg[1] or "127.0.0.1"
local ports = {}

local function answer(server)
  local client = uv.new_tcp()
  server:accept(client)
  client:read_start(function(err, data)
    if err or not data then
      if not client:is_closing() then client:close() end
      return
    end
    local body = ("hello from port %d\n"):format(server:getsockname().port)
    client:write(("HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s"):format(#body, body))
    client:shutdown(function()
      if not client:is_closing() then client:close() end
    end)
  end)
end

for at = 2, math.max(#arg, 2) do
  local server = uv.new_tcp()
  assert(server:bind(address, tonumber(arg[at] or 0)))
  assert(server:listen(64, function() answer(server) end))
  ports[#ports + 1] = server:getsockname().port
end

if uv.guess_handle(0) == "pipe" then
  local input = uv.new_pipe(false)
  input:open(0)
  input:read_start(function(_, data)
    if not data then os.exit(0) end
  end)
end

io.write(table.concat(ports, " "), "\n")
io.flush()
uv.run()
