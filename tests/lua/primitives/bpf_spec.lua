local api = require("lattice.api")
local bpf = require("lattice.bpf")
local events = require("lattice.events")
local loop = require("lattice.loop")
local map = require("lattice.map")
local pack = dofile("tests/support/events.lua").pack

local ROUNDS = tonumber(os.getenv("LATTICE_ROUNDS") or "") or 500
local OBJECT = (os.getenv("LATTICE_BUILD") or "build") .. "/helpers/emit.bpf.o"
local PACKET = ("\0"):rep(12) .. "\8\0" .. ("\0"):rep(46)
local STATE = { key = "I4", value = "I8I8I8I8I8" }

local first, why, code = bpf.open(OBJECT)
if first then first:close() end

local function test(name, fn)
  if first then it(name, fn) else pending(name, why) end
end

-- What a script returns, as JSON, that runs in a network namespace of its own with a veth pair "va", "vb". (One made with a
-- user namespace, as lattice.netns has it, would not do: there nobody may load programs.)
local function inside(text)
  local path = os.tmpname()
  local f = assert(io.open(path, "w"))
  f:write([[
    local bpf, json = require("lattice.bpf"), require("lattice.json")
    local function sh(text)
      local pipe = assert(io.popen(text))
      local out = pipe:read("a")
      pipe:close()
      return out
    end
    sh("ip link add va type veth peer name vb && ip link set va up && ip link set vb up")
    local object <close> = assert(bpf.open("empty"))
    local program <close> = assert(object:program("lat_empty"))
    io.write(json.encode((function() ]] .. text .. [[ end)()))]])
  f:close()
  local pipe = assert(io.popen(("timeout 20 unshare -n %s/lattice lua %s"):format(os.getenv("LATTICE_BUILD") or "build",
    path)))
  local out = pipe:read("a")
  pipe:close()
  os.remove(path)
  return assert(require("lattice.json").decode(out), out)
end

local function with_bpffs(fn)
  local dir = os.tmpname()
  os.remove(dir)
  assert(os.execute("mkdir " .. dir))
  local mounted = os.execute("mount -t bpf bpf " .. dir .. " 2>/dev/null")
  local ok, err = true, nil
  if mounted then ok, err = pcall(fn, dir) end
  if mounted then os.execute("umount " .. dir) end
  os.execute("rmdir " .. dir)
  if not mounted then pending("a bpffs cannot be mounted here") end
  assert(ok, err)
end

describe("lattice.bpf", function()
  it("is a pro feature, and says so in the community edition", function()
    if first then return end
    assert.is_string(why)
    if code == 402 then
      assert.matches("Pro feature", why)
      assert.same({}, bpf.embedded())
      assert.equal(402, select(3, bpf.attached("lo", "in")))
      assert.equal(402, select(3, map.pinned("/sys/fs/bpf/x")))
      local source <close> = assert(events.open())
      assert.equal(402, select(3, source:ring(0)))
    end
  end)

  test("loads an object of the binary or a file, and runs a packet through it", function()
    assert.is_true(#bpf.embedded() > 0)
    local object <close> = assert(bpf.open("empty"))
    local program <close> = assert(object:program("lat_empty"))
    local verdict, out, ns = program:test_run(PACKET)
    assert.equal(-1, verdict)
    assert.equal(PACKET, out)
    assert.equal("integer", math.type(ns))
    assert.equal("lat_empty", program:info().name)
    local file <close> = assert(bpf.open(OBJECT, { events = 1 << 16 }))
    local ring <close> = assert(file:map("events"))
    assert.same({ "ring", 1 << 16 }, { ring:info().type, ring:info().entries })
    local emit <close> = assert(file:program("lat_emit"))
    file:close()
    assert.equal(7, (emit:test_run(PACKET, 10)))
  end)

  test("says what is wrong with an object", function()
    assert.equal("ENOENT", select(3, bpf.open("nothing")))
    assert.equal("ENOENT", select(3, bpf.open("/nowhere/x.o")))
    local path = os.tmpname()
    local f = assert(io.open(path, "w"))
    f:write("no object")
    f:close()
    local object, text = bpf.open(path)
    os.remove(path)
    assert.is_nil(object)
    assert.matches(path, text, 1, true)
    local good <close> = assert(bpf.open("empty"))
    assert.equal("ENOENT", select(3, good:program("nothing")))
    assert.equal("ENOENT", select(3, good:map("nothing")))
    assert.equal("ENOENT", select(3, bpf.open("empty", { nothing = 1 })))
  end)

  test("puts a program on a device by either hook, and takes it off", function()
    local got = inside([[
      local list = {}
      for _, how in ipairs({ "tcx", "clsact", "auto" }) do
        local hook, text = program:attach("va", "out", how)
        list[#list + 1] = hook and hook:how() or text
        local tcx = bpf.attached("va", "out")
        list[#list + 1] = tcx and #tcx or "no tcx"
        list[#list + 1] = sh("tc filter show dev va egress"):match("lat_empty") and "filter" or "no filter"
        if hook then hook:close() end
      end
      list[#list + 1] = sh("tc qdisc show dev va"):match("clsact") or "no clsact"
      list[#list + 1] = #(bpf.attached("va", "out") or {})
      list[#list + 1] = pcall(program.attach, program, "nosuch", "in") and "attached" or "refused"
      return list
    ]])
    if got[1] == "tcx" then
      assert.same({ "tcx", 1, "no filter", "clsact", 0, "filter", "tcx", 1, "no filter", "no clsact", 0, "refused" }, got)
    else
      assert.same({ "clsact", "no tcx", "filter", "clsact", "no tcx", "filter", "no clsact", 0, "refused" },
        { table.unpack(got, 4) })
    end
  end)

  test("leaves a clsact qdisc that somebody else uses", function()
    local got = inside([[
      local mine, theirs = assert(program:attach("va", "out", "clsact")), assert(program:attach("va", "in", "clsact"))
      assert(theirs:keep())
      theirs:close()
      mine:close()
      return { sh("tc filter show dev va ingress"):match("lat_empty") }
    ]])
    assert.same({ "lat_empty" }, got)
  end)

  test("pins programs, maps and links, which outlive their users", function()
    with_bpffs(function(dir)
      local object = assert(bpf.open(OBJECT))
      local program <close> = assert(object:program("lat_emit"))
      local state <close> = assert(object:map("state", STATE))
      assert(state:set(0, { 3, 0, 0, 0, 0 }))
      assert(program:pin(dir .. "/program"))
      assert(state:pin(dir .. "/state"))
      assert.equal("EEXIST", select(3, state:pin(dir .. "/state")))
      object:close()
      program:close()
      state:close()
      local p <close> = assert(bpf.pinned(dir .. "/program"))
      local m <close> = assert(map.pinned(dir .. "/state", STATE))
      assert.equal(3, m:get(0)[1])
      assert.equal("lat_emit", p:info().name)
      assert.equal("EINVAL", select(3, bpf.pinned(dir .. "/state")))
      assert.equal("EINVAL", select(3, map.pinned(dir .. "/program")))
      assert.equal("ENOENT", select(3, map.pinned(dir .. "/nothing")))
      assert(os.remove(dir .. "/program"))
      assert(os.remove(dir .. "/state"))
      assert.equal("ENOENT", select(3, bpf.pinned(dir .. "/program")))
    end)
  end)

  test("leaks nothing in many rounds", function()
    collectgarbage()
    local boxes = api.boxes()
    local function descriptors()
      local n = 0
      for _ in require("luv").fs_scandir_next, require("luv").fs_scandir("/proc/self/fd") do n = n + 1 end
      return n
    end
    local before = descriptors()
    for i = 1, ROUNDS do
      local object = assert(bpf.open("empty"))
      local program = assert(object:program("lat_empty"))
      if i % 2 == 0 then
        object:close()
        program:close()
      end
      if i % 50 == 0 then collectgarbage() end
    end
    collectgarbage()
    collectgarbage()
    assert.equal(before, descriptors())
    assert.equal(boxes, api.boxes())
  end)
end)

describe("a ring of events", function()
  -- Calls fn(source, emit) with a source that reads the ring of emit.bpf.o; emit(count, runs) makes events.
  local function with_ring(entries, fn)
    local object <close> = assert(bpf.open(OBJECT, { events = entries }))
    local program <close> = assert(object:program("lat_emit"))
    local state <close> = assert(object:map("state", STATE))
    local template <close> = assert(object:map("template"))
    local ring <close> = assert(object:map("events"))
    assert(template:set("\0\0\0\0", pack({ rule = 5, generation = 2, port = 443 })))
    local source <close> = assert(events.open())
    assert(source:ring(assert(ring:fd())))
    assert(source:ring(assert(ring:fd()))) -- once more is the same reader
    fn(source, function(count, runs)
      local s = state:get(0)
      s[1] = count
      assert(state:set(0, s))
      assert(program:test_run(PACKET, runs or 1))
      s = state:get(0)
      return s[2], s[3]
    end)
  end

  local function wait(condition)
    local bound = loop.timer(5000, loop.stop)
    local step
    step = loop.timer(1, function() if condition() then loop.stop() end end, 1)
    loop.run()
    step:close()
    bound:close()
    assert.is_true(condition())
  end

  test("reaches handlers and watchers, whether or not the program wakes the reader", function()
    with_ring(1 << 20, function(source, emit)
      local seen, watched = 0, nil
      assert(source:on({ name = "h", call = function(batch)
        for i = 1, batch.count do
          local dir, action, _, rule, generation, port = batch:fields(i)
          assert(dir == 0 and action == 0 and rule == 5 and generation == 2 and port == 443)
        end
        seen = seen + batch.count
      end }))
      source:watch({}, function(e) watched = e end)
      emit(1)
      wait(function() return seen == 1 end)
      for _ = 1, 20 do emit(1) end -- within a moment: only the first one wakes
      wait(function() return seen == 21 end)
      emit(256, 30)
      wait(function() return seen == 21 + 256 * 30 end)
      assert.equal("rule 5", watched.where)
      assert.same({ seen = seen, lost = 0, lost_in_kernel = 0, audit_lost = 0 }, source:counters())
    end)
  end)

  test("that overflows is a loss, counted to the event", function()
    with_ring(1 << 16, function(source, emit)
      local sent, lost = emit(200, 20)
      assert.is_true(lost > 0)
      wait(function() return source:counters().seen == sent end)
      sent, lost = emit(1)
      wait(function() return source:counters().seen == sent end)
      assert.equal(4001, sent + lost)
      assert.same({ seen = sent, lost = 0, lost_in_kernel = lost, audit_lost = 0 }, source:counters())
    end)
  end)

  test("is refused when it is no ring", function()
    local source <close> = assert(events.open())
    local m <close> = assert(map.create({ type = "array", value = "I4", entries = 1 }))
    local fd = assert(m:fd())
    assert.equal("EINVAL", select(3, source:ring(fd)))
    assert(require("luv").fs_close(fd))
  end)
end)
