-- lattice.agent.names with a queue, a clock and an enforcer of the test's own: when pins end, and in which order answers
-- go on.
local dns = require("lattice.dns")
local loop = require("lattice.loop")

local packets, released, verdicts, held
local fakes = {
  ["lattice.queue"] = { open = function(_, _, fn)
    packets = fn
    return { verdict = function(_, id, what) verdicts[id] = what end, packets = function() return 0, 0 end,
      close = function() end }
  end },
  ["lattice.dns"] = setmetatable({ hold = function(devices) held = devices return true end,
    release = function() released = true return true end }, { __index = dns }),
}

-- names.lua with the fakes in place of the primitives.
local function fresh()
  local saved = {}
  for name, fake in pairs(fakes) do saved[name], package.loaded[name] = package.loaded[name], fake end
  package.loaded["lattice.agent.names"] = nil
  local module = require("lattice.agent.names")
  for name in pairs(fakes) do package.loaded[name] = saved[name] end
  package.loaded["lattice.agent.names"] = nil
  return module
end

local function udp(from, sport, to, dport, payload)
  local addr = require("lattice.addr")
  return string.pack(">BBI2I2I2BBI2", 0x45, 0, 28 + #payload, 0, 0, 64, 17, 0) .. addr.bytes(from):sub(13)
    .. addr.bytes(to):sub(13) .. string.pack(">I2I2I2I2", sport, dport, 8 + #payload, 0) .. payload
end

local function wire(name)
  return (name:gsub("([^.]+)%.?", function(label) return string.char(#label) .. label end)) .. "\0"
end

local function question(id, name)
  local text = string.pack(">I2I2I2I2I2I2", id, 0x100, 1, 0, 0, 0) .. wire(name) .. string.pack(">I2I2", 1, 1)
  return udp("10.42.0.1", 5000, "10.42.0.2", 53, text)
end

local function answer(id, name, four, ttl)
  local text = string.pack(">I2I2I2I2I2I2", id, 0x8180, 1, 1, 0, 0) .. wire(name) .. string.pack(">I2I2", 1, 1)
    .. string.pack(">I2I2I2I4I2", 0xc00c, 1, 1, ttl, 4) .. four
  return udp("10.42.0.2", 53, "10.42.0.1", 5000, text)
end

local generation = {
  names = function() return { { pattern = "*.denied.example" } } end,
  resolvable = function(_, name) return name == "a.example" or name == "b.example" end,
}

describe("lattice.agent.names", function()
  local names, clock, pins

  before_each(function()
    verdicts, pins, clock, released = {}, {}, 1000, false
    fresh().open({ config = { names = { observe = true } }, devices = { "wf0" }, log = function() end,
      clock = function() return clock * 1000000000 end,
      pin = function(list, done) pins[#pins + 1] = { list = list, done = done } end,
    }, function(made) names = assert(made) end)
    names:generation(generation)
  end)
  after_each(function() names:close(function(ok) assert.is_true(ok) end) end)

  it("holds an answer until the enforcer has the address", function()
    assert.same({ "wf0" }, held)
    assert.equal("accept", packets(question(1, "a.example"), 1))
    assert.equal("later", packets(answer(1, "a.example", "\192\0\2\1", 60), 2))
    assert.same({ { addr = "192.0.2.1", names = { "a.example" } } }, pins[1].list)
    assert.is_nil(verdicts[2])
    pins[1].done(true)
    assert.equal("accept", verdicts[2])
  end)

  it("never lets an answer go by an enforcement that began before it", function()
    packets(question(1, "a.example"), 1)
    packets(question(2, "b.example"), 2)
    packets(answer(1, "a.example", "\192\0\2\1", 60), 3)
    packets(answer(2, "b.example", "\192\0\2\2", 60), 4)
    assert.equal(1, #pins)
    pins[1].done(true)
    assert.equal("accept", verdicts[3])
    assert.is_nil(verdicts[4])
    assert.equal(2, #pins[2].list)
    pins[2].done(true)
    assert.equal("accept", verdicts[4])
  end)

  it("drops an answer whose address the enforcer did not take, and garbage", function()
    packets(question(1, "a.example"), 1)
    packets(answer(1, "a.example", "\192\0\2\1", 60), 2)
    pins[1].done(nil, "full")
    assert.equal("drop", verdicts[2])
    packets(question(2, "a.example"), 3)
    assert.equal("drop", packets(answer(2, "b.example", "\192\0\2\1", 60), 4))
  end)

  it("pins nothing for what was not asked, was asked of another, or is in no rule", function()
    packets(question(1, "a.example"), 1)
    assert.equal("accept", packets(answer(2, "a.example", "\192\0\2\1", 60), 2))
    packets(question(3, "no.example"), 3)
    assert.equal("accept", packets(answer(3, "no.example", "\192\0\2\1", 60), 4))
    assert.equal("accept", packets("no packet", 5))
    assert.equal("accept", packets(answer(1, "a.example", "\192\0\2\1", 60):sub(1, 40), 6))
    assert.equal(0, #pins)
  end)

  it("pins nothing that a server answers which may not be asked", function()
    local asked, may = nil, false
    local one
    fresh().open({ config = { names = { observe = true } }, devices = { "wf0" }, log = function() end,
      clock = function() return 0 end, pin = function(list, done) pins[#pins + 1] = list done(true) end,
      allowed = function(server, done)
        asked = server
        done(may)
      end,
    }, function(made) one = assert(made) end)
    one:generation(generation)
    packets(question(1, "a.example"), 1)
    assert.equal("accept", packets(answer(1, "a.example", "\192\0\2\1", 60), 2))
    assert.same({ "10.42.0.2", 0 }, { asked, #pins })
    may = true
    packets(question(2, "a.example"), 3)
    packets(answer(2, "a.example", "\192\0\2\1", 60), 4)
    assert.equal(1, #pins)
    one:close(function() end)
  end)

  it("pins names that a rule denies, so that the rule can", function()
    packets(question(1, "x.denied.example"), 1)
    assert.equal("later", packets(answer(1, "x.denied.example", "\192\0\2\1", 60), 2))
  end)

  it("ends a pin after its time to live and a grace, not before; an answer again makes it last", function()
    packets(question(1, "a.example"), 1)
    packets(answer(1, "a.example", "\192\0\2\1", 10), 2)
    pins[1].done(true)
    clock = 1030
    packets(question(2, "a.example"), 3)
    assert.equal("accept", packets(answer(2, "a.example", "\192\0\2\1", 10), 4)) -- known: nothing to wait for
    clock = 1069
    names:generation(generation) -- sweeps
    assert.equal(1, #pins)
    clock = 1070
    names:generation(generation)
    assert.same({}, pins[2].list)
    assert.equal(0, names:status().pins)
  end)

  it("takes pins away that a new generation does not speak of", function()
    packets(question(1, "a.example"), 1)
    packets(answer(1, "a.example", "\192\0\2\1", 10), 2)
    pins[1].done(true)
    names:generation({ names = function() return {} end, resolvable = function() return false end })
    assert.same({}, pins[2].list)
  end)

  it("keeps to its bounds", function()
    for i = 1, 5000 do packets(question(i, "a.example"), i) end
    assert.equal(4096, names.asked)
    clock = 1011
    names:generation(generation)
    assert.equal(0, names.asked)
    for i = 1, 4200 do
      packets(question(i, "a.example"), i)
      packets(answer(i, "a.example", string.pack(">I4", 0xc6336400 + i), i), i)
    end
    assert.equal(4096, names:status().pins)
    names:close(function() end)
    assert.is_true(released)
    loop.run("nowait")
  end)
end)
