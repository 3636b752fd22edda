-- client.lua: the program that the demo runs under `lattice run`. Each line of its stdin is a port of this host's
-- loopback; it connects there and prints one line: the port, then what the server said or why there was no answer.
local uv = require("luv")

local function tell(port, answer)
  io.write(port, " ", answer, "\n")
  io.flush()
end

local function visit(port)
  local socket = uv.new_tcp()
  local received = ""
  local function done(answer)
    if not socket:is_closing() then
      socket:close()
      tell(port, answer)
    end
  end
  socket:connect("127.0.0.1", port, function(err)
    if err then return done("refused: " .. err) end
    socket:write("GET / HTTP/1.0\r\n\r\n")
    socket:read_start(function(read_err, data)
      received = received .. (data or "")
      if read_err then return done("broken: " .. read_err) end
      if not data then done("answered: " .. (received:match("\r\n\r\n(.-)%s*$") or "nothing")) end
    end)
  end)
end

local input = uv.guess_handle(0) == "pipe" and uv.new_pipe(false) or uv.new_tty(0, true)
if input.open then input:open(0) end
local rest = ""
input:read_start(function(_, data)
  if not data then return input:close() end
  rest = rest .. data
  rest = rest:gsub("(%d+)\n", function(port)
    visit(tonumber(port))
    return ""
  end)
end)
uv.run()
