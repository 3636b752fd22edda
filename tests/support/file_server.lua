-- file_server.lua PORT FOLDER: the smallest web server that curl, git and the others are content with. Every connection
-- is one GET of a file below the folder; each is printed.
local uv = require("luv")

local port, folder = tonumber(arg[1]), arg[2]
io.stdout:setvbuf("line")

local function content(path)
  if path:find("..", 1, true) then return nil end
  local f = io.open(folder .. path, "rb")
  local text = f and f:read("a")
  if f then f:close() end
  return text
end

local function answer(request)
  local path = request:match("^GET (/[^ ?]*)") or "/"
  print("GET", path)
  local text = content(path)
  return ("HTTP/1.1 %s\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s")
    :format(text and "200 OK" or "404 Not Found", #(text or ""), text or "")
end

uv.new_signal():start("sigpipe", function() end) -- a client that is killed must not end the server
local listener = uv.new_tcp()
assert(listener:bind("::", port))
assert(listener:listen(512, function()
  local peer, request = uv.new_tcp(), ""
  listener:accept(peer)
  peer:read_start(function(_, data)
    request = request .. (data or "")
    if request:find("\r\n\r\n", 1, true) then
      peer:read_stop()
      peer:write(answer(request), function()
        peer:shutdown(function() if not peer:is_closing() then peer:close() end end)
      end)
    elseif not data then
      peer:close()
    end
  end)
end))
uv.run()
