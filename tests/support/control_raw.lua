-- A client of the control socket that sends whatever it is told to, for specs of the server.
local frames = require("lattice.control.frames")
local json = require("lattice.json")
local uv = require("luv")

local M = {}

--- Runs the loop until what() is true, with a bound; whether it was.
function M.until_(what, limit_ms)
  local timer, late = uv.new_timer(), false
  timer:start(limit_ms or 5000, 0, function() late = true end)
  while not what() and not late do uv.run("once") end
  timer:close()
  uv.run("nowait")
  return not late
end

--- A connection to the socket at path: .got, the frames that came; .ended; .pipe, to write bytes.
function M.connect(path)
  local pipe, decoder, got = uv.new_pipe(false), frames.decoder(frames.MAX_ANSWER), {}
  local one = { pipe = pipe, got = got, ended = false }
  local connected
  pipe:connect(path, function(err) connected = err or true end)
  assert(M.until_(function() return connected end))
  pipe:read_start(function(err, bytes)
    if not bytes then
      one.ended = true
      return pipe:close()
    end
    for _, frame in ipairs(assert(decoder:feed(bytes))) do got[#got + 1] = frame end
  end)
  return one
end

--- Sends a value as a frame.
function M.send(one, value) one.pipe:write(string.pack(">s4", json.encode(value))) end

return M
