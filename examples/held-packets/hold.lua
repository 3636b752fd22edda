-- Packets that wait for a script: a network namespace of our own, in which datagrams to port 5353 are held until the
-- function below has said what becomes of them. No privilege needed: build/lattice lua examples/held-packets/hold.lua
local loop = require "lattice.loop"
local netns = require "lattice.netns"
local queue = require "lattice.queue"
local uv = require "luv"

local ns <close> = assert(netns.open())

-- The verdict: data is the packet from its IP header on, 28 bytes before the payload here.
local q <close> = assert(queue.open(ns, 0, function(data)
  local text = data:sub(29)
  local verdict = text:match("please") and "accept" or "drop"
  print(("held: %-16s %s"):format(text, verdict))
  return verdict
end))
assert(queue.hold(ns, 0, "udp", 5353))

-- A server and a client inside; their sockets are the namespace's, the code runs here.
local server, client = uv.new_udp(), uv.new_udp()
assert(server:open(assert(ns:socket("udp"))))
assert(server:bind("127.0.0.1", 5353))
assert(client:open(assert(ns:socket("udp"))))
server:recv_start(function(_, text)
  if text then print("arrived: " .. text) end
  if text == "the end, please" then loop.stop() end
end)
for _, text in ipairs { "one, please", "two", "the end, please" } do
  assert(client:send(text, "127.0.0.1", 5353))
end

local limit = loop.timer(5000, function() error("nothing came within 5 s") end)
loop.run()
limit:close()
server:close()
client:close()
print(("%d packets were held"):format(q:packets()))
