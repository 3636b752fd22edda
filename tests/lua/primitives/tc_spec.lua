-- lattice.tc and the ebpf enforcer without packets: probes, and what they say where they cannot work.
local ebpf = require("lattice.enforcer.ebpf")
local loop = require("lattice.loop")
local tc = require("lattice.tc")

-- Calls fn(..., done) and gives what done gets.
local function wait(fn, ...)
  local result
  local args = table.pack(...)
  args[args.n + 1] = function(...)
    result = table.pack(...)
    loop.stop()
  end
  fn(table.unpack(args, 1, args.n + 1))
  local timer <close> = loop.timer(20000, function() error("no answer in 20 s") end)
  while not result do loop.run() end
  timer:close()
  return table.unpack(result, 1, result.n)
end

local ok, why, code = wait(tc.probe)

describe("lattice.tc", function()
  it("loads its programs, or says why not", function()
    if code == 402 then
      assert.is_nil(ok)
      assert.matches("Pro feature", why)
    elseif not ok then
      assert.matches("the kernel did not take the programs", why)
      pending("needs CAP_BPF and CAP_NET_ADMIN: " .. why)
    end
  end)

  it("is a Pro feature by every entry of the community edition", function()
    if code ~= 402 then return end
    local options = { devices = { "lo" }, pins = "/nonexistent/pins", log = function() end, events = {} }
    for _, answer in ipairs({
      table.pack(wait(ebpf.probe)), table.pack(wait(ebpf.open, options)), table.pack(wait(tc.clear, "/nonexistent/pins")),
    }) do
      assert.is_nil(answer[1])
      assert.matches("Pro feature", answer[2])
      assert.equal(402, answer[3])
    end
  end)

  it("refuses a device that is not there, and leaves nothing", function()
    if not ok then return end
    local dir = os.tmpname()
    os.remove(dir)
    local filter, err = wait(tc.open, { devices = { "nodevice0" }, pins = dir })
    assert.is_nil(filter)
    assert.matches("there is no device nodevice0", err)
    assert.is_nil(io.open(dir))
  end)

  it("throws for arguments that are none", function()
    assert.has_error(function() tc.open({ devices = {}, pins = "/x" }, print) end)
    assert.has_error(function() tc.open({ devices = { 1 }, pins = "/x" }, print) end)
    assert.has_error(function() tc.open({ devices = { "lo" } }, print) end)
    assert.has_error(function() tc.probe() end)
  end)
end)
