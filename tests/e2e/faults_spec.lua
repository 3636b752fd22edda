-- Faults put into lattice run: storms of reloads, kills, full disks, stopped readers, no memory, no descriptors, no
-- processes. What counts is what the forbidden server saw (nothing), and that what is allowed goes on where it can.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")
local uv = require("luv")

-- Echoes on 203.0.113.9 (allowed), prints a line for whoever reaches 203.0.113.10 (forbidden), TCP and UDP.
local server = [[
local uv = require("luv")
uv.new_signal():start("sigpipe", function() end) -- a client that is killed must not end the server
io.stdout:setvbuf("line")
for _, ip in ipairs({ "203.0.113.9", "203.0.113.10" }) do
  local listener, datagrams = uv.new_tcp(), uv.new_udp()
  assert(listener:bind(ip, 80))
  listener:listen(512, function()
    local peer = uv.new_tcp()
    listener:accept(peer)
    if ip == "203.0.113.10" then print("reached") end
    peer:read_start(function(_, data) if data then peer:write(data) else peer:close() end end)
  end)
  assert(datagrams:bind(ip, 80))
  datagrams:recv_start(function(_, data) if data and ip == "203.0.113.10" then print("datagram") end end)
end
uv.run()
]]

-- Inside: knocks at the forbidden server every 2 ms by TCP and UDP, has one connection to the allowed one and opens more,
-- until its standard input ends or its seconds are over. Prints what got through and what was lost.
local prober = [[
import select, socket, sys, threading, time
stop = threading.Event()
until = time.monotonic() + float(sys.argv[1])
count = dict(knocks=0, open=0, asked=0, lost=0, kept=0, broken=0)
def running(): return not stop.is_set() and time.monotonic() < until
def knock():
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    while running():
        count["knocks"] += 1
        try:
            socket.create_connection(("203.0.113.10", 80), 2).close()
            count["open"] += 1
        except OSError: pass
        try: u.sendto(b"x", ("203.0.113.10", 80))
        except OSError: pass
        time.sleep(0.002)
def ask():
    while running():
        count["asked"] += 1
        try:
            with socket.create_connection(("203.0.113.9", 80), 5) as s:
                s.sendall(b"ping")
                if s.recv(4) != b"ping": raise OSError("short")
        except OSError as e:
            count["lost"] += 1
            print("lost:", e, file=sys.stderr)
        time.sleep(0.005)
def keep():
    s = socket.create_connection(("203.0.113.9", 80), 5)
    s.settimeout(5)
    while running():
        try:
            s.sendall(b"keep")
            if s.recv(4) != b"keep": raise OSError("short")
            count["kept"] += 1
        except OSError as e:
            count["broken"] += 1
            print("broken:", e, file=sys.stderr)
            return
        time.sleep(0.002)
threads = [threading.Thread(target=t) for t in (knock, ask, keep)]
for t in threads: t.start()
print("ready", flush=True)
while running():
    if select.select([sys.stdin], [], [], 0.1)[0] and not sys.stdin.readline(): stop.set()
for t in threads: t.join()
print(*[f"{k}={v}" for k, v in count.items()], flush=True)
]]

local get = [[
get() {
  if exec 3<>/dev/tcp/$1/80; then echo ping >&3; read -r -t 5 line <&3; echo "$1 $line"; exec 3>&-
  else echo "$1 refused"; fi
}
]]
local both = get .. "get 203.0.113.9; get 203.0.113.10"
local allow9 = [[policy "t" allow "tcp to 203.0.113.9 port 80"]]
local missing = World.missing()

describe("with a fault, lattice run", function()
  if missing then
    pending("all of it", missing)
    return
  end
  local world, forbidden, probe

  setup(function()
    world = World.new()
    forbidden = world:serve({ "lua5.4", world:file("server.lua", server) }, { tcp = 80, udp = 80 })
    probe = world:file("probe.py", prober)
  end)

  teardown(function() world:close() end)

  after_each(function()
    uv.run("nowait")
    assert.equal("", forbidden.out)
  end)

  local function sleep(ms)
    local done
    local timer = uv.new_timer()
    timer:start(ms, 0, function() done = true end)
    while not done do uv.run("once") end
    timer:close()
  end

  -- One write of always the same length: a reload sees the old text or the new one.
  local function put(path, text)
    local fd = assert(uv.fs_open(path, "r+", 0))
    assert(uv.fs_write(fd, text .. (" "):rep(400 - #text), 0))
    uv.fs_close(fd)
  end

  local function numbers(text)
    local found = {}
    for key, value in text:gmatch("(%a+)=(%d+)") do found[key] = tonumber(value) end
    return found
  end

  local policies = {
    allow9,
    allow9 .. ' deny "tcp to 203.0.113.10"',
    'policy "t" alow "tcp to any"',
    allow9 .. ' allow "udp to 203.0.113.9"',
    'policy "t" allow "tcp to any" error "broken"',
    allow9 .. ' audit { "all", to = file "/no/such/folder/log" } allow "tcp to any"',
    'policy "t" allow "tcp to 203.0.113.0/24" test { deny = "tcp to 203.0.113.10 port 80" }',
    'policy "t" allow "tcp to any" include "nothing.lua"',
  }

  it("keeps its verdicts in a storm of 500 reloads, good and bad", function()
    local p = world:under(allow9 .. (" "):rep(400 - #allow9), { "python3", probe, "30" },
      { background = true, stdin = "open" })
    p:expect("ready")
    for i = 1, 500 do
      put(p.policy_path, policies[i % #policies + 1])
      p:kill("sighup")
      sleep(20)
      assert.is_nil(p.status, p.err)
    end
    put(p.policy_path, allow9)
    p:kill("sighup")
    p.stdin:close()
    p:wait()
    assert.equal(0, p.status, p.err)
    local n = numbers(p.out)
    assert.same({ open = 0, lost = 0, broken = 0 }, { open = n.open, lost = n.lost, broken = n.broken }, p.err)
    assert.is_true(n.knocks > 500 and n.asked > 200 and n.kept > 500, p.out)
    local _, refused = p.err:gsub("reload refused", "")
    local _, loaded = p.err:gsub("lattice: generation %d+: policy", "")
    assert.is_true(refused >= 100 and loaded >= 100, ("%d refused, %d loaded"):format(refused, loaded))
    assert.equal(0, world:lattice({ "log", p.audit_path, "--check" }).status)
  end)

  it("opens nothing when it is killed in the middle of reloads", function()
    for i = 1, 12 do
      local p = world:under(allow9 .. (" "):rep(400 - #allow9), { "python3", probe, "30" },
        { background = true, stdin = "open" })
      p:expect("ready")
      for k = 1, 1 + i % 3 do
        put(p.policy_path, policies[(i + k) % #policies + 1])
        p:kill("sighup")
        sleep(i % 4)
      end
      p:kill("sigkill")
      p:wait(5000)
      assert.equal(137, p.status)
    end
  end)

  describe("whose audit", function()
    it("has a full disk goes on as it should, and is whole or tells the loss when there is room again", function()
      local small = world.dir .. "/small"
      assert(uv.fs_mkdir(small, tonumber("777", 8)))
      local script = ([[
        mount -t tmpfs -o size=128k,mode=1777 small %s; cd %s; head -c 110000 /dev/zero > filler
        %s run -q --policy %s --audit log -- bash -c '%s
          for i in $(seq 60); do get 203.0.113.10; done 2>/dev/null | uniq -c; get 203.0.113.9; wc -c < log
          : > filler; get 203.0.113.10 2>/dev/null; get 203.0.113.9'
        cat log; %s log log --check; echo checked $?]])
        :format(small, small, World.lattice_path, world:file("full.lua", allow9), get, World.lattice_path)
      local p = world:run("host", { "sh", "-ec", script })
      assert.matches("60 203.0.113.10 refused\n203.0.113.9 ping\n", p.out)
      assert.matches("203.0.113.10 refused\n203.0.113.9 ping\n{", p.out)
      assert.matches('"kind":"exit"', p.out, 1, true)
      assert.is_truthy(p.out:find("checked 0") or p.out:find('"kind":"loss"'), p.out)
    end)

    it("goes to a FIFO whose reader stopped delays and opens nothing", function()
      local fifo = world.home .. "/fifo"
      assert.equal(0, world:run("host", { "mkfifo", fifo }, { user = "65534" }).status)
      local reader = world:start("host", { "sleep", "60" }, { stdin = "open" })
      local held = assert(uv.fs_open(fifo, "r+", 0)) -- open, and nobody reads
      local p = world:lattice({ "run", "--policy", world:file("fifo.lua", allow9), "--audit", fifo, "--", "bash", "-c",
        get .. "for i in $(seq 400); do get 203.0.113.10; done 2>/dev/null | sort | uniq -c; get 203.0.113.9" },
        { timeout = 20000 })
      uv.fs_close(held)
      reader:kill("sigkill")
      assert.equal("400 203.0.113.10 refused\n203.0.113.9 ping\n", (p.out:gsub("^ +", "")))
    end)

    it("file is removed and put back by another goes on", function()
      local p = world:under(allow9, { "bash", "-c", get .. "echo ready; read -r go; get 203.0.113.9; get 203.0.113.10" },
        { background = true, stdin = "open" })
      p:expect("ready\n")
      assert(os.remove(p.audit_path))
      world:run("host", { "touch", p.audit_path }, { user = "65534" })
      p:write("go\n")
      assert.equal("ready\n203.0.113.9 ping\n203.0.113.10 refused\n", p:wait().out)
    end)
  end)

  it("goes on when nobody reads its standard error", function()
    local fifo, out = world.dir .. "/stderr", world.home .. "/stdout"
    assert.equal(0, world:run("host", { "mkfifo", "-m", "666", fifo }).status)
    local held = assert(uv.fs_open(fifo, "r+", 0)) -- open, and nobody reads
    local script = ([[exec "$0" run -v --policy %s --allow 'tcp to 203.0.113.9' -- bash -c '%s
      for i in $(seq 1000 2000); do { : >/dev/tcp/203.0.113.10/$i; } 2>/dev/null; done; get 203.0.113.9' 2> %s > %s]])
      :format(world:file("many.lua", 'policy "t" on("connect", function() error("broken") end)'), get, fifo, out)
    local p = world:start("host", { "sh", "-c", script, World.lattice_path }, { user = "65534", cwd = world.home })
    local beat = uv.new_timer()
    beat:start(20, 20, function() end) -- looks at the file again
    p:expect(function() return World.read(out) == "203.0.113.9 ping\n" end)
    beat:close()
    uv.fs_close(held) -- the summary at the end may wait, as any program's output
    assert.equal(0, p:wait().status)
  end)

  -- Starts lattice by a wrapper; it must do right or refuse.
  local function wrapped(wrapper, opts)
    local argv = table.move(wrapper, 1, #wrapper, 1, {})
    for _, word in ipairs({ World.lattice_path, "run", "-q", "--policy", world:file("wrapped.lua", allow9), "--", "bash",
      "-c", both }) do argv[#argv + 1] = word end
    opts = opts or {}
    opts.user, opts.cwd = "65534", world.home
    local p = world:start("host", argv, opts)
    return p
  end

  local function right_or_refused(p, what)
    p:wait(20000)
    if p.status == 125 then
      assert.is_true(#p.err > 0 and p.out == "", what .. ": " .. p.out .. p.err)
    else
      -- A crash is not an answer.
      assert.is_true(p.status < 128, ("%s: status %d %s"):format(what, p.status, p.err))
      assert.is_nil(p.out:find("203.0.113.10 ping", 1, true), what)
    end
    return p.status
  end

  it("with few descriptors works or is refused", function()
    local works = 0
    for n = 4, 64, 4 do
      local p = wrapped({ "prlimit", ("--nofile=%d:%d"):format(n, n), "--" })
      if right_or_refused(p, n .. " descriptors") == 0 then works = works + 1 end
    end
    assert.is_true(works > 0)
  end)

  it("with few processes works or is refused", function()
    for n = 0, 6 do
      right_or_refused(wrapped({ "prlimit", ("--nproc=%d:%d"):format(n, n), "--" }), n .. " processes")
    end
  end)

  it("without room for a file works or is refused", function()
    right_or_refused(wrapped({ "prlimit", "--fsize=0:0", "--" }), "no file size")
  end)

  it("does not crash into openness when an allocation fails", function()
    local seen, running = {}, {}
    local function finish(first)
      local entry = table.remove(running, first)
      local status = right_or_refused(entry.p, "allocation " .. entry.n)
      seen[status] = (seen[status] or 0) + 1
    end
    local n = 1
    while n < 8000 do
      for _, later in ipairs({ "", "-" }) do
        running[#running + 1] = { n = n .. later, p = wrapped({ World.helpers .. "oom", n .. later }) }
        if #running == 4 then finish(1) end
      end
      n = n < 400 and n + 7 or n + n // 16
    end
    while #running > 0 do finish(1) end
    assert.is_true((seen[125] or 0) >= 20, "the fault is put in")
    assert.is_true((seen[0] or 0) + (seen[1] or 0) >= 1, "and beyond the last allocation all is well")
  end)
end)
