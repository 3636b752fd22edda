local caps = require("lattice.caps")
local loop = require("lattice.loop")
local netns = require("lattice.netns")
local queue = require("lattice.queue")
local possible = caps.probe("nfqueue").ok or caps.probe("nfqueue_compat").ok

local function test(name, fn)
  if possible then it(name, fn) else pending(name, "NFQUEUE is not possible here") end
end

-- Sends datagrams to a UDP socket of the namespace and gives those that arrived before `last` did.
local function exchange(ns, port, texts, last)
  local uv = require("luv")
  local server, client = uv.new_udp(), uv.new_udp()
  assert(server:open(assert(ns:socket("udp"))))
  assert(server:bind("127.0.0.1", port))
  assert(client:open(assert(ns:socket("udp"))))
  local got = {}
  local bound = loop.timer(5000, function() loop.stop() end)
  server:recv_start(function(_, data)
    if data then got[#got + 1] = data end
    if data == last then loop.stop() end
  end)
  for _, text in ipairs(texts) do assert(client:send(text, "127.0.0.1", port)) end
  loop.run()
  bound:close()
  server:close()
  client:close()
  loop.run("nowait")
  return got
end

describe("lattice.queue", function()
  test("holds packets until the script's verdict", function()
    local ns <close> = assert(netns.open())
    local seen = {}
    local q <close> = assert(queue.open(ns, 0, function(data, id)
      assert(math.type(id) == "integer")
      local text = data:sub(29) -- behind the IPv4 and UDP headers
      seen[#seen + 1] = text
      return text:match("^good") and "accept" or "drop"
    end))
    assert(queue.hold(ns, 0, "udp", 5353))
    assert.same({ "good one", "good end" },
      exchange(ns, 5353, { "good one", "bad one", "good end" }, "good end"))
    assert.same({ "good one", "bad one", "good end" }, seen)
    assert.equal(3, (q:packets()))
  end)

  test("lets a verdict come later", function()
    local ns <close> = assert(netns.open())
    local q
    q = assert(queue.open(ns, 7, function(_, id)
      loop.timer(5, function() assert(q:verdict(id, "accept")) end)
      return "later"
    end))
    assert(queue.hold(ns, 7, "udp", 5353))
    assert.same({ "held" }, exchange(ns, 5353, { "held" }, "held"))
    q:close()
  end)

  test("drops when the script fails, gives nonsense or nothing", function()
    for _, answer in ipairs { function() error("broken") end, function() return "perhaps" end } do
      local ns <close> = assert(netns.open())
      local _ <close> = assert(queue.open(ns, 0, answer))
      assert(queue.hold(ns, 0, "udp", 5353))
      assert.is_false((pcall(exchange, ns, 5353, { "x" }, "x")))
      loop.run("nowait")
    end
    local ns <close> = assert(netns.open())
    local _ <close> = assert(queue.open(ns, 0, function(data)
      if data:sub(29) == "end" then return "accept" end
    end))
    assert(queue.hold(ns, 0, "udp", 5353))
    assert.same({ "end" }, exchange(ns, 5353, { "x", "end" }, "end"))
  end)

  test("has one reader a queue", function()
    local ns <close> = assert(netns.open())
    local _ <close> = assert(queue.open(ns, 0, print))
    local second, why, code = queue.open(ns, 0, print)
    assert.is_nil(second)
    assert.is_string(why)
    assert.equal("EPERM", code)
  end)

  it("refuses bad arguments", function()
    assert.has_error(function() queue.open({}, 0, print) end)
    assert.has_error(function() queue.open(nil, 70000, print) end)
    assert.has_error(function() queue.open(nil, 0) end)
  end)
end)
