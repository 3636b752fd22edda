-- The limits of a run as a group of processes holds them: measured from outside, in every mode that this host has; and that
-- nothing is left of the group, however the run ends.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")
local uv = require("luv")

local missing = World.missing()
local hour = ("3600.%d"):format(uv.os_getpid()) -- of sleeps that are ours

local function shell(text)
  local pipe = assert(io.popen(text))
  local out = pipe:read("a")
  pipe:close()
  return out
end

-- The directories of a run's group, by its name; also on a v1 host.
local function groups(name)
  local found = {}
  for path in shell(("ls -d /sys/fs/cgroup/lattice/%s-* /sys/fs/cgroup/*/lattice/%s-* 2>/dev/null"):format(name, name))
    :gmatch("[^\n]+") do found[#found + 1] = path end
  return found
end

local function number(path, pattern)
  return tonumber((World.read(path) or ""):match(pattern))
end

-- Nanoseconds that the group has had of the CPUs.
local function cpu_used(paths)
  for _, path in ipairs(paths) do
    local v2, v1 = number(path .. "/cpu.stat", "usage_usec (%d+)"), number(path .. "/cpuacct.usage", "%d+")
    if v2 or v1 then return v1 or v2 * 1000 end
  end
end

-- Periods that the cpu controller has counted, and those of them in which it held the group back.
local function periods(name)
  for _, path in ipairs(groups(name)) do
    local all = number(path .. "/cpu.stat", "nr_periods (%d+)")
    if all and all > 0 then return all, number(path .. "/cpu.stat", "nr_throttled (%d+)") end
  end
  return 0, 0
end

local function group_missing()
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write([[
    local group, why = require("lattice.cgroup").make { name = "probe", unique = true,
      limits = { memory = 64 << 20, cpu = 1, pids = 10 } }
    print(group and "yes" or why)]])
  file:close()
  local out = shell(("'%s' lua %s 2>&1"):format(World.lattice_path, path)):gsub("%s+$", "")
  os.remove(path)
  return out ~= "yes" and out or nil
end

local leave = [[
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def places():
    for top, folders, files in os.walk("/sys/fs/cgroup", onerror=None):
        yield top
        if top.count("/") > 6: folders[:] = []
def attempt(what, fn):
    try:
        if fn(): print("could", what)
    except OSError: pass
def write(path, text):
    fd = os.open(path, os.O_WRONLY)
    try: return os.write(fd, text)
    finally: os.close(fd)
def clone_into(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    args = struct.pack("11Q", 0x200000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, fd) # SIGCHLD
    pid = libc.syscall(435, args, len(args))
    if pid == 0: os._exit(0)
    os.close(fd)
    return pid > 0
for place in places():
    for name in "cgroup.procs", "tasks", "cgroup.threads": attempt(place, lambda: write(place + "/" + name, b"0"))
    for name in "pids.max", "cgroup.kill", "cgroup.freeze", "memory.max", "memory.limit_in_bytes", "cpu.max":
        attempt(name, lambda: os.open(place + "/" + name, os.O_WRONLY)) # and no more: it may be the host's
    attempt("mkdir " + place, lambda: os.mkdir(place + "/mine") is None)
    attempt("clone into " + place, lambda: clone_into(place))
for flags in 0x10000000, 0x10020000, 0x02000000, 0x00020000:
    attempt("unshare %x" % flags, lambda: libc.unshare(flags) == 0)
attempt("mount", lambda: libc.mount(b"none", b"/tmp", b"cgroup2", 0, None) == 0)
attempt("remount", lambda: libc.mount(b"none", b"/sys/fs/cgroup", None, 0x1020, None) == 0)
attempt("fsopen", lambda: libc.syscall(430, b"cgroup2", 0) >= 0)
print("tried", flush=True)
sys.stdin.readline()
]]

describe("limits of a run by a group", function()
  local why = missing or group_missing()
  if why then return pending("all of it", why) end
  local world, count = nil, 0

  setup(function() world = World.new() end)
  teardown(function() if world then world:close() end end)

  -- Starts a command under limits; .name is its group's.
  local function start(mode, limits, command, opts)
    opts = opts or {}
    count = count + 1
    local name = ("e2e%d-%d"):format(uv.os_getpid(), count)
    local policy = world:file(name .. ".lua", ('policy "t" limits { %s }'):format(limits))
    local audit = world.home .. "/" .. name .. ".jsonl"
    local argv = { World.lattice_path, "run", "--mode", mode, "-n", name, "-p", policy, "--audit", audit }
    for _, word in ipairs(opts.options or {}) do argv[#argv + 1] = word end
    argv[#argv + 1] = "--"
    for _, word in ipairs(command) do argv[#argv + 1] = word end
    local p = world:start("host", argv, opts)
    p.name, p.audit_path = name, audit
    return p
  end

  local function run(...)
    local p = start(...):wait()
    p.audit = World.records(p.audit_path)
    return p
  end

  local function met(p, name)
    local found = World.find(p.audit, { kind = "limit", name = name })
    return found[#found] and found[#found].unmapped.lattice
  end

  local function nothing_left(name, sleeps)
    local until_ = uv.hrtime() + 15e9 * (tonumber(os.getenv("LATTICE_PATIENCE")) or 1)
    local left
    repeat
      left = table.concat(groups(name), " ")
      if sleeps then left = left .. shell("pgrep -af '[s]leep " .. sleeps .. "'") end
      if left == "" then return end
    until uv.hrtime() > until_
    error("left of " .. name .. ": " .. left, 2)
  end

  -- A folder on a disk whose rate can be limited: the world's own, else one on a loop device; and what takes it away.
  local function disk_folder()
    local home = world.home
    local source = shell(("df --output=source %s | tail -1"):format(home)):gsub("%s+$", "")
    local direct = shell("dd if=/dev/zero of=" .. home .. "/p bs=4k count=1 oflag=direct 2>&1")
    if source:find("^/dev/") and direct:find("copied") then return home, function() end end
    local image, folder = world.dir .. "/disk", world.dir .. "/mnt"
    local said = shell(("mkdir -p %s && truncate -s 64M %s && mkfs.ext4 -q %s 2>&1 && { modprobe loop 2>/dev/null; "
      .. "mount -o loop %s %s 2>&1; } && echo made"):format(folder, image, image, image, folder))
    if not said:find("made") then return nil, "no disk to be limited here: " .. (said:match("[^\n]+") or "") end
    return folder, function() World.sh("umount " .. folder) end
  end

  local modes = { "user", "kernel" }
  for _, mode in ipairs(modes) do
    describe("in mode " .. mode, function()
      local none = World.no_mode(mode)
      local function test(name, body)
        if none then pending(name, none) else it(name, body) end
      end

      test("memory: who takes more is killed, the audit and the summary name the limit, nothing else ends", function()
        local p = run(mode, 'memory = "64M"', { "sh", "-c",
          "python3 -c 'x = bytearray(200 << 20)'; echo status $?; cat /proc/1/oom_score_adj" })
        assert.equal("status 137\n0\n", p.out, p.err)
        assert.equal(0, p.status)
        local record = met(p, "memory")
        assert.equal(1, record.count)
        assert.equal("1 process was killed for more than 64M of memory", record.text)
        assert.matches("limit   memory: 1 process was killed for more than 64M of memory", p.err, 1, true)
        nothing_left(p.name)
      end)

      test("memory: many small ones lose members, not init and with it everything", function()
        local p = run(mode, 'memory = "32M", pids = 2000', { "sh", "-c",
          "for i in $(seq 100); do sh -c 'x=$(head -c 300000 /dev/urandom | base64 -w0); read y' & done 2>/dev/null; wait; "
            .. "echo end" }, { stdin = "" })
        -- the command itself may be the largest: that is its end, too
        assert.not_matches("init ended", p.err)
        assert.is_true(met(p, "memory").count >= 1)
      end)

      -- What the group had of the CPUs between two looks, for 1.2 s of it and more.
      test("cpu: a spin loop of three processes has the share and no more", function()
        local spin = "while :; do :; done"
        local p = start(mode, "cpu = 0.4", { "sh", "-c", ("for i in 1 2; do %s & done; %s"):format(spin, spin) })
        local paths, first, began
        p:expect(function()
          paths = groups(p.name)
          first = cpu_used(paths)
          return first and first > 1e8
        end)
        local all, held = periods(p.name)
        first, began = cpu_used(paths), uv.hrtime()
        local last, now
        p:expect(function()
          last, now = cpu_used(paths), uv.hrtime()
          return last and last - first > 1.2e9
        end)
        local all_then, held_then = periods(p.name)
        p:kill("sigkill")
        local share = (last - first) / (now - began)
        -- On a host that is too busy to give it its share there are periods in which nothing has to be held back.
        local starved = held_then - held < 0.9 * (all_then - all)
        assert.is_true((share > 0.36 or starved) and share < 0.44, ("%.3f instead of 0.4"):format(share))
        nothing_left(p.name)
      end)

      test("cpu: what was held back is in the audit", function()
        local p = run(mode, "cpu = 0.2", { "python3", "-c", "import time\nwhile time.process_time() < 0.2: pass" })
        assert.equal(0, p.status, p.err)
        assert.is_true(met(p, "cpu").count >= 3)
        assert.matches("to keep to 0.2 of a CPU", met(p, "cpu").text, 1, true)
      end)

      test("pids: a fork storm stops there, and a bounded number of records says so", function()
        local p = run(mode, "pids = 25", { "python3", "-c", [[
import os, signal
refused, all = 0, []
while refused < 2000:
    try:
        pid = os.fork()
        if pid == 0: signal.pause()
        all.append(pid)
    except OSError: refused += 1
print(len(all))
for pid in all: os.kill(pid, 9)]] })
        assert.is_true(tonumber(p.out) <= 24, p.out)
        assert.is_true(tonumber(p.out) >= 20, p.out)
        assert.is_true(met(p, "pids").count >= 2000)
        assert.is_true(#World.find(p.audit, { kind = "limit" }) < 20)
        nothing_left(p.name)
      end)

      test("io: direct reads and writes have the rate", function()
        local folder, take_away = disk_folder()
        if not folder then return pending(take_away) end
        local file = folder .. "/io.bin"
        World.sh(("dd if=/dev/zero of=%s bs=1M count=6 oflag=direct 2>/dev/null; chmod 666 %s"):format(file, file))
        local done = {}
        for i, way in ipairs({ "if=%s of=/dev/null iflag=direct", "if=/dev/zero of=%s oflag=direct conv=notrunc" }) do
          done[i] = start(mode, 'io = "2M"', { "sh", "-c", "LC_ALL=C dd bs=128k count=48 " .. way:format(file) .. " 2>&1" })
          pcall(done[i].wait, done[i])
        end
        os.remove(file)
        take_away()
        for _, p in ipairs(done) do
          local rate = 6 / (tonumber(p.out:match("copied, ([%d.]+) s")) or error(p.out .. p.err))
          -- below: the host was too busy to be faster
          assert.is_true(rate > 1.6 and rate < 2.2, ("%.2f M a second instead of 2"):format(rate))
          nothing_left(p.name)
        end
      end)

      test("a daemon ends with the command, and the group is gone", function()
        local p = run(mode, "pids = 50", { "sh", "-c",
          ("(setsid sh -c 'setsid sleep %s & sleep %s' &) ; echo done"):format(hour, hour) })
        assert.equal("done\n", p.out)
        nothing_left(p.name, hour)
      end)

      test("kill -9 of the supervisor leaves neither processes nor groups", function()
        local p = start(mode, 'pids = 50, memory = "100M"', { "sh", "-c",
          ("(setsid sh -c 'setsid sleep %s & sleep %s' &) ; echo ready; sleep %s"):format(hour, hour, hour) })
        p:expect("ready")
        assert.is_true(#groups(p.name) > 0, p.err)
        p:kill("sigkill")
        p:wait()
        nothing_left(p.name, hour)
      end)

      test("twenty at once have a group each and leave none", function()
        local all = {}
        for i = 1, 20 do all[i] = start(mode, "pids = 50", { "sh", "-c", "echo in; read x" }, { stdin = "open" }) end
        local paths, different = {}, 0
        for _, p in ipairs(all) do
          p:expect("in\n", 60000)
          local path = groups(p.name)[1]
          if path and not paths[path] then different = different + 1 end
          paths[path or ""] = true
        end
        assert.equal(20, different)
        for _, p in ipairs(all) do p:write("x\n") end
        for _, p in ipairs(all) do
          p:wait(60000)
          assert.equal(0, p.status, p.err)
          nothing_left(p.name)
        end
      end)

      test("a reload with other limits warns, and leaves them as they were", function()
        local p = start(mode, "pids = 50", { "sh", "-c", "echo in; read x" }, { stdin = "open" })
        p:expect("in\n")
        world:file(p.name .. ".lua", 'policy "t" limits { pids = 40 }')
        p:kill("sighup")
        p:expect("the policy has other limits now; a run keeps those that it began with")
        local pids
        for _, path in ipairs(groups(p.name)) do pids = pids or number(path .. "/pids.max", "%d+") end
        assert.equal(50, pids)
        p:write("x\n")
        assert.equal(0, p:wait().status, p.err)
      end)

      -- By every group in sight: writing, making, spawning into it (CLONE_INTO_CGROUP asks for no writable mount), and
      -- mounting anew.
      test("the command cannot leave its group, make one, or change a limit", function()
        local p = start(mode, 'pids = 30, memory = "100M", cpu = 2', { "python3", "-c", leave }, { stdin = "open" })
        p:expect("tried")
        for _, path in ipairs(groups(p.name)) do
          local members = select(2, (World.read(path .. "/cgroup.procs") or ""):gsub("\n", ""))
          assert.equal(2, members, path) -- init and the command
        end
        p:write("x\n")
        p:wait()
        assert.equal("tried\n", p.out, p.err)
        assert.equal(0, p.status, p.err)
        nothing_left(p.name)
      end)
    end)
  end

  describe("that cannot be had", function()
    local function as_nobody(options)
      local policy = world:file("nobody.lua", 'policy "t" limits { memory = "64M", pids = 20 }')
      -- outside of `ip netns exec`, which hides the hierarchies
      local out = shell(("cd %s && setpriv --reuid 65534 --regid 65534 --clear-groups %s run --mode user -q -p %s "
        .. "--audit nobody.jsonl %s -- echo ran 2>&1; echo status $?")
        :format(world.home, World.lattice_path, policy, options))
      return out
    end

    it("is said with the file and the way out before the command starts, and refused", function()
      local out = as_nobody("")
      assert.not_matches("ran", out)
      assert.matches("status 125", out, 1, true)
      assert.matches("cannot enforce these limits of the policy: memory\n", out, 1, true)
      assert.matches("  memory: making /sys/fs/cgroup/[^\n]*lattice: Permission denied; run as root, or in a group", out)
      assert.matches("systemd-run --user --scope -p Delegate=yes", out, 1, true)
    end)

    it("is let pass by --allow-missing-limits, with a warning", function()
      local out = as_nobody("--allow-missing-limits")
      assert.matches("warning: not enforced here: memory\n.*ran\nstatus 0", out)
      local records = World.find(World.records(world.home .. "/nobody.jsonl"), { kind = "limit" })
      local record = records[1].unmapped.lattice
      assert.equal("memory", record.name)
      assert.equal("not enforced on this host, and accepted so", record.text)
    end)
  end)

  it("examples/agent-with-limits does what it says", function()
    local text = shell(("LATTICE='%s' MODE=user TMPDIR=/tmp timeout 90 examples/agent-with-limits/run 2>&1"):format(
      World.lattice_path))
    assert.equal(World.read("examples/agent-with-limits/README.md"):match("```text\n(.-)```"), text)
  end)

  -- A group that was given to an ordinary user: in each hierarchy that has a controller of the limits.
  describe("of an ordinary user in a group of his own", function()
    local own = "lte2e-deleg-" .. uv.os_getpid()
    local tops = {}

    setup(function()
      for top in shell("ls -d /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/memory /sys/fs/cgroup/pids "
        .. "/sys/fs/cgroup/freezer 2>/dev/null"):gmatch("[^\n]+") do
        if uv.fs_stat(top .. "/cgroup.procs") then
          tops[#tops + 1] = top .. "/" .. own
          World.sh(("mkdir %s/%s; cd %s/%s; for f in . cgroup.procs tasks cgroup.subtree_control cgroup.threads; do "
            .. "[ ! -e $f ] || chown 65534:65534 $f; done"):format(top, own, top, own))
        end
      end
    end)

    teardown(function()
      for _, top in ipairs(tops) do
        World.sh(("for d in $(find %s -depth -type d); do rmdir $d; done"):format(top))
      end
    end)

    local function delegated(before)
      local policy = world:file("own.lua", 'policy "t" limits { memory = "64M", pids = 20 }')
      local enter = ""
      for _, top in ipairs(tops) do enter = enter .. ("echo $$ > %s/cgroup.procs; "):format(top) end
      local inner = ("%s%s run --mode user -p %s -- sh -c \"python3 -c 'x = bytearray(200 << 20)'; echo status \\$?\"")
        :format(before or "exec ", World.lattice_path, policy)
      world:file("own.sh", enter .. ("exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -c '%s'\n")
        :format(inner:gsub("'", "'\\''")))
      return shell(("cd %s && sh %s/own.sh 2>&1"):format(world.home, world.dir))
    end

    it("are held there, and the group is left as it was", function()
      local out = delegated()
      assert.matches("status 137\n", out, 1, true)
      assert.matches("limit   memory: 1 process was killed", out, 1, true)
      for _, top in ipairs(tops) do assert.equal("", shell("find " .. top .. " -mindepth 1 -type d")) end
    end)

    it("are refused where a v2 group has other members, by name", function()
      if not number("/sys/fs/cgroup/cgroup.controllers", ".*memory.*()") then
        return pending("the memory controller is not on v2 here")
      end
      local out = delegated("sleep 0 | : ; ") -- the shell stays beside lattice
      assert.matches("other processes are in the group /sys/fs/cgroup/" .. own, out, 1, true)
      for _, top in ipairs(tops) do assert.equal("", shell("find " .. top .. " -mindepth 1 -type d")) end
    end)
  end)
end)
