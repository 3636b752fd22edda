-- Whatever becomes of a run, nothing of it is left: no process, group, program, map or namespace; and until it has ended
-- nothing was opened. In every mode with a wall; LATTICE_LIFE multiplies the numbers (20 for a long night),
-- but never the hundred at once.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")
local remains = require("remains")
local uv = require("luv")

local life = tonumber(os.getenv("LATTICE_LIFE")) or 1
local seed = math.tointeger(tonumber(os.getenv("LATTICE_SEED") or os.time()))
local CROWD, IN_A_ROW, KILLED = math.floor(100 * math.min(1, life)), math.floor(50 * life), math.floor(20 * life)

local missing = World.missing()
if not missing and not World.has("python3") then missing = "python3 is not installed" end

local POLICY = [[
policy "life"
limits { pids = 200 }
]]

-- Accepts on the port, prints each peer.
local server = [[
import socket
s = socket.create_server(("", 7100))
print("ready", flush=True)
while True:
    s.accept()[0].close()
    print("reached", flush=True)
]]

-- Says that it is up, leaves a daemon, and goes on trying to reach what is forbidden.
local trier = [[
import os, socket, sys
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
print("it runs", flush=True)
while True:
    for address in ("203.0.113.9", "203.0.113.1"):
        s = socket.socket()
        s.settimeout(0.5)
        try:
            s.connect((address, 7100))
            s.send(b"out")
        except OSError:
            pass
        s.close()
]]

for _, mode in ipairs({ "user", "kernel" }) do
  describe("mode " .. mode, function()
    local none = missing or World.no_mode(mode)
    if none then
      pending("leaves nothing", none)
      return
    end
    local world, count, word

    setup(function() world = World.new() end)
    teardown(function()
      if world then world:close() end
    end)
    before_each(function()
      count = (count or 0) + 1
      word = ("LIFE=%d-%s-%d"):format(uv.os_getpid(), mode, count)
    end)
    after_each(function() world:stop() end)

    local function start(command)
      local key, value = word:match("(.-)=(.*)")
      return world:under(POLICY, command, { mode = mode, background = true, stdin = "open", options = { "-q" },
        env = { [key] = value } })
    end

    -- Everything of these runs at this moment.
    local function all_of_it(runs)
      local processes, outside = remains.processes(word), {}
      local groups = remains.groups_of(processes)
      for i, run in ipairs(runs) do outside[i] = run.pid end
      return { groups = groups, inhabitants = remains.inhabitants(processes, outside),
        bpf = remains.bpf_of(processes, groups) }
    end

    local function nothing_left(what)
      remains.gone("processes", function() return remains.keys(remains.processes(word)) end)
      remains.gone("groups", function()
        local now, left = remains.groups(), {}
        for group in pairs(what.groups) do
          if now[group] then left[#left + 1] = group end
        end
        return left
      end)
      remains.gone("namespaces", function() return remains.alive(what.inhabitants) end)
      remains.gone("BPF", function() return remains.bpf_left(what.bpf) end)
    end

    local function check(what, runs)
      assert.is_true(#remains.keys(what.inhabitants) >= 2 * runs) -- init and the command
      if mode ~= "kernel" then return end
      local groups = 0
      for group in pairs(what.groups) do
        if uv.fs_stat(group .. "/cgroup.controllers") then groups = groups + 1 end -- of the v2 tree
      end
      assert.equal(runs, groups)
      assert.is_truthy(next(what.bpf.prog))
      assert.is_truthy(next(what.bpf.map))
    end

    it(("runs %d sandboxes at once, each ends by itself, and nothing is left"):format(CROWD), function()
      local runs = {}
      for i = 1, CROWD do runs[i] = start({ "/bin/sh", "-c", "echo it runs; exec cat" }) end
      for _, run in ipairs(runs) do run:expect("it runs", 60000) end
      local what = all_of_it(runs)
      check(what, CROWD)
      for _, run in ipairs(runs) do run.stdin:shutdown() end
      for _, run in ipairs(runs) do assert.equal(0, run:wait(60000).status, run.err) end
      nothing_left(what)
    end)

    it(("runs %d in a row, and nothing is left"):format(IN_A_ROW), function()
      local before = remains.bpf()
      for _ = 1, IN_A_ROW do
        local run = start({ "true" })
        assert.equal(0, run:wait().status, run.err)
      end
      nothing_left({ groups = {}, inhabitants = {}, bpf = {} })
      -- What came meanwhile: another test's, which ends, or ours.
      local new = { prog = {}, map = {}, link = {} }
      for kind, ids in pairs(remains.bpf()) do
        for id, name in pairs(ids) do new[kind][id] = not before[kind][id] and not name:find("^lat_tc") or nil end
      end
      remains.gone("BPF", function() return remains.bpf_left(new) end, 60000)
    end)

    it("ends with a supervisor that is killed, and its daemons with it", function()
      local out = world:serve({ "python3", world:file("server.py", server) }, { tcp = 7100 })
      local host = world:serve({ "python3", world:file("server.py", server) }, { ns = "host", tcp = 7100 })
      local runs = {}
      for i = 1, 5 do runs[i] = start({ "python3", world:file("trier.py", trier) }) end
      for _, run in ipairs(runs) do run:expect("it runs") end
      local what = all_of_it(runs)
      check(what, #runs)
      for _, run in ipairs(runs) do run:kill("sigkill") end
      for _, run in ipairs(runs) do run:wait() end
      nothing_left(what)
      assert.not_matches("reached", out.out .. host.out)
    end)

    it(("opens and leaves nothing when the supervisor is killed at any moment, %d times"):format(KILLED), function()
      math.randomseed(seed)
      local script = world:file("trier.py", trier)
      local out = world:serve({ "python3", world:file("server.py", server) }, { tcp = 7100 })
      local host = world:serve({ "python3", world:file("server.py", server) }, { ns = "host", tcp = 7100 })
      local groups = remains.groups()
      for i = 1, KILLED do
        local ms = math.random(0, mode == "kernel" and 250 or 60)
        local run = start({ "python3", script })
        local timer, rung = uv.new_timer(), false
        timer:start(ms, 0, function() rung = true end)
        while not rung do uv.run("once") end
        timer:close()
        run:kill("sigkill")
        run:wait()
        local ok, why = pcall(nothing_left, { groups = {}, inhabitants = {}, bpf = {} })
        if not ok then error(("seed %d, run %d, killed after %d ms: %s"):format(seed, i, ms, why)) end
      end
      remains.gone("groups", function()
        local left = {}
        for group in pairs(remains.groups()) do
          if not groups[group] then left[#left + 1] = group end
        end
        return left
      end, 60000)
      assert.not_matches("reached", out.out .. host.out)
    end)
  end)
end
