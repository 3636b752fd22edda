-- A small world for e2e and escape tests: a host and a server in network namespaces of their own, and programs in them.
--
--   host (runs lattice)  203.0.113.1, 2001:db8::1  ---- veth ----  203.0.113.9 to .12, 2001:db8::9, ::a, ::c  (server)
--   198.51.100.0/24 is routed to the server, which has 198.51.100.9; 192.0.2.0/24 is routed there and unreachable.
--
-- Everything is torn down by close(), also what a failed test left. As a normal user the whole suite runs in a user
-- namespace of its own (./runtests does that), where it may make network namespaces too.
local uv = require("luv")

local World = {}
World.__index = World

local count = 0
local root = os.getenv("LATTICE_ROOT") or "."
-- Every time limit is this much longer where machines are slow: the tier vm.
local patience = tonumber(os.getenv("LATTICE_PATIENCE")) or 1

local function drive(done, ms)
  local late = false
  local timer = uv.new_timer()
  timer:start(math.ceil(ms * patience), 0, function() late = true end)
  while not done() and not late do uv.run("once") end
  timer:stop()
  timer:close()
  uv.run("nowait")
  return not late
end

---@class World.Process
local Process = {}
Process.__index = Process

--- Starts argv. opts: ns, user (uid), env, cwd, stdin (text, or "open"), merge.
local function spawn(argv, opts)
  local self = setmetatable({ out = "", err = "", open = 3 }, Process)
  local stdin, stdout, stderr = uv.new_pipe(false), uv.new_pipe(false), uv.new_pipe(false)
  local env
  if opts.env then
    env = {}
    for k, v in pairs(uv.os_environ()) do if opts.env[k] == nil then env[#env + 1] = k .. "=" .. v end end
    for k, v in pairs(opts.env) do if v then env[#env + 1] = k .. "=" .. v end end
  end
  local handle, pid = uv.spawn(argv[1], {
    args = table.move(argv, 2, #argv, 1, {}), stdio = { stdin, stdout, stderr }, env = env, cwd = opts.cwd,
  }, function(code, signal)
    self.status = signal ~= 0 and 128 + signal or code
    self.open = self.open - 1
    self.handle:close()
  end)
  if not handle then error("cannot start " .. argv[1] .. ": " .. tostring(pid)) end
  self.handle, self.pid, self.stdin = handle, pid, stdin
  for name, pipe in pairs({ out = stdout, err = stderr }) do
    pipe:read_start(function(_, data)
      if data then
        self[name] = self[name] .. data
      else
        self.open = self.open - 1
        pipe:close()
      end
    end)
  end
  if opts.stdin ~= "open" then
    if opts.stdin then stdin:write(opts.stdin) end
    stdin:shutdown(function() if not stdin:is_closing() then stdin:close() end end)
  end
  return self
end

--- Waits until it has ended and its output is read; an overdue one is killed and the test fails.
---@param ms? integer  default 30000
---@return World.Process self  status, out, err
function Process:wait(ms)
  if not drive(function() return self.open == 0 end, ms or 30000) then
    self:kill("sigkill")
    drive(function() return self.status end, 5000)
    error(("still running after %d ms; stdout: %s; stderr: %s"):format(ms or 30000, self.out, self.err), 2)
  end
  if not self.stdin:is_closing() then self.stdin:close() end
  return self
end

--- Waits until `pattern` (a Lua pattern, or a function) shows in stdout or stderr.
function Process:expect(pattern, ms)
  local found
  local function look()
    if type(pattern) == "function" then found = pattern() else
      found = self.out:match(pattern) or self.err:match(pattern)
    end
    return found or self.status
  end
  drive(look, ms or 15000)
  if not found then
    error(("no sign of %s; status %s; stdout: %s; stderr: %s"):format(tostring(pattern), tostring(self.status),
      self.out, self.err), 2)
  end
  return found
end

--- Writes to its stdin (opts.stdin = "open").
function Process:write(text)
  self.stdin:write(text)
end

function Process:kill(signal)
  if not self.status then uv.kill(self.pid, signal or "sigterm") end
end

local function must(argv)
  local p = spawn(argv, {}):wait(10000)
  if p.status ~= 0 then error(table.concat(argv, " ") .. ": " .. p.err, 2) end
  return p
end

local function sh(text)
  return must({ "/bin/sh", "-ec", text })
end

--- Why a world cannot be made here, or nil.
function World.missing()
  local p = spawn({ "/bin/sh", "-c", "ip netns add ltprobe$$ && ip netns del ltprobe$$" }, {}):wait(10000)
  if p.status ~= 0 then return "network namespaces cannot be made: " .. p.err:gsub("%s+$", "") end
  if not uv.fs_access(World.lattice_path, "X") then return "no " .. World.lattice_path end
  return nil
end

World.root = uv.fs_realpath(root)
World.lattice_path = os.getenv("LATTICE") or uv.fs_realpath(root .. "/build/lattice")
World.in_userns = os.getenv("LATTICE_IN_USERNS") ~= nil -- a normal user's world: uid 0 is that user
World.helpers = World.lattice_path and World.lattice_path:gsub("[^/]*$", "helpers/")

--- Makes a world.
---@return table world
function World.new()
  count = count + 1
  local id = ("lt%d-%d"):format(uv.os_getpid(), count)
  local self = setmetatable({ host = id .. "h", server = id .. "s", processes = {} }, World)
  self.dir = assert(uv.fs_mkdtemp("/tmp/lattice-world-XXXXXX"))
  assert(uv.fs_chmod(self.dir, tonumber("755", 8)))
  self.home = self.dir .. "/home"
  assert(uv.fs_mkdir(self.home, tonumber("777", 8)))
  assert(uv.fs_chmod(self.home, tonumber("1777", 8)))
  local ok, why = pcall(sh, ([[
    ip netns add HOST; ip netns add SERVER
    ip link add v0 netns HOST type veth peer name v0 netns SERVER
    for n in HOST SERVER; do ip -n $n link set lo up; ip -n $n link set v0 up; done
    ip -n HOST addr add 203.0.113.1/24 dev v0
    ip -n HOST addr add 2001:db8::1/64 dev v0 nodad
    for a in 9 10 11 12; do ip -n SERVER addr add 203.0.113.$a/24 dev v0; done
    for a in 9 a c; do ip -n SERVER addr add 2001:db8::$a/64 dev v0 nodad; done
    ip -n SERVER addr add 198.51.100.9/32 dev lo
    ip -n HOST route add 198.51.100.0/24 via 203.0.113.9
    ip -n HOST route add unreachable 192.0.2.0/25
    ip -n HOST route add blackhole 192.0.2.128/25
    ip netns exec HOST sysctl -qw net.ipv4.ping_group_range='0 2147483647' 2>/dev/null ||
      ip netns exec HOST sysctl -qw net.ipv4.ping_group_range='0 0' || true
    mkdir -p /etc/netns/HOST
    echo 'nameserver 203.0.113.9' > /etc/netns/HOST/resolv.conf
    printf '127.0.0.1 localhost\n::1 localhost\n203.0.113.10 hosts-file.example\n' > /etc/netns/HOST/hosts
  ]]):gsub("HOST", self.host):gsub("SERVER", self.server))
  if not ok then
    self:close()
    error(why, 2)
  end
  return self
end

World.sh = sh

--- Ends what was started, newest first.
function World:stop()
  for i = #self.processes, 1, -1 do
    local p = self.processes[i]
    p:kill("sigkill")
    drive(function() return p.status end, 5000)
    for _, name in ipairs({ "stdin" }) do
      if not p[name]:is_closing() then p[name]:close() end
    end
  end
end

--- Ends what was started and removes everything.
function World:close()
  self:stop()
  sh(("ip netns del %s 2>/dev/null || true; ip netns del %s 2>/dev/null || true; rm -rf /etc/netns/%s %s")
    :format(self.host, self.server, self.host, self.dir))
end

--- Writes a file into the world's folder; returns its path.
function World:file(name, text, mode)
  local path = self.dir .. "/" .. name
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
  assert(uv.fs_chmod(path, mode or tonumber("644", 8)))
  return path
end

function World.read(path)
  local f = io.open(path, "rb")
  if not f then return nil end
  local text = f:read("a")
  f:close()
  return text
end

--- Permissions as ls writes them: "rw-------".
function World.mode(path)
  local mode, letters = assert(uv.fs_stat(path)).mode, {}
  for i, letter in ipairs({ "r", "w", "x", "r", "w", "x", "r", "w", "x" }) do
    letters[i] = mode & 1 << (9 - i) ~= 0 and letter or "-"
  end
  return table.concat(letters)
end

-- Kernel mode needs the control groups, which `ip netns exec` covers with a /sys of its own.
local with_cgroups = [[
  for f in /etc/netns/NS/*; do [ ! -e $f ] || mount --bind $f /etc/${f##*/}; done
  exec "$@"]]

local function prefix(ns, opts)
  local argv = { "/usr/bin/env", "ip", "netns", "exec", ns }
  if opts.mode == "kernel" then
    return { "/usr/bin/env", "nsenter", "--net=/run/netns/" .. ns, "unshare", "--mount", "--propagation", "private",
      "/bin/sh", "-ec", (with_cgroups:gsub("NS", ns)), "sh" }
  end
  if opts.user and uv.getuid() == 0 then
    local become = { "setpriv", "--reuid", opts.user, "--regid", opts.user, "--clear-groups" }
    if World.in_userns then
      -- one more, in which we are that user and own nothing of the world
      become = { "unshare", "--user", "--map-user=" .. opts.user, "--map-group=" .. opts.user }
    end
    table.move(become, 1, #become, #argv + 1, argv)
  end
  return argv
end

--- Starts argv in the "host" or "server" namespace.
function World:start(ns, argv, opts)
  opts = opts or {}
  opts.env = opts.env or {}
  opts.env.HOME = opts.env.HOME or self.home
  -- What an ordinary user has: not the folders of whoever runs the tests, but for the private toolchain's.
  local private = os.getenv("LATTICE_TOOLCHAIN") == "private" and os.getenv("PATH")
  opts.env.PATH = opts.env.PATH or private or "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
  local full = prefix(self[ns], opts)
  for _, word in ipairs(argv) do full[#full + 1] = tostring(word) end
  local p = spawn(full, opts)
  self.processes[#self.processes + 1] = p
  return p
end

--- Runs argv to its end; returns { status, out, err }.
function World:run(ns, argv, opts)
  return self:start(ns, argv, opts):wait(opts and opts.timeout)
end

--- Starts a server in the server namespace and waits until it listens on tcp/udp port(s).
--- opts: tcp = port or list, udp = port or list
function World:serve(argv, opts)
  local p = self:start(opts.ns or "server", argv, opts)
  local function listed(kind, port)
    local ss = must({ "/usr/bin/env", "ip", "netns", "exec", self[opts.ns or "server"], "ss", "-Hln" .. kind,
      "sport = :" .. port })
    return ss.out ~= ""
  end
  for kind, ports in pairs({ t = opts.tcp, u = opts.udp }) do
    for _, port in ipairs(type(ports) == "table" and ports or { ports }) do
      local until_ = uv.hrtime() + 15e9 * patience
      while not listed(kind, port) do
        if p.status or uv.hrtime() > until_ then
          error(("server %s does not listen on %s: %s %s"):format(argv[1], port, p.out, p.err), 2)
        end
        uv.run("nowait")
      end
    end
  end
  return p
end

--- Why this mode of `lattice run` cannot be tested here, or nil.
---@param mode string
function World.no_mode(mode)
  if mode == "kernel" and (World.in_userns or uv.getuid() ~= 0) then return "kernel mode needs the host's root" end
  local said = spawn({ World.lattice_path, "run", "-q", "--mode", mode, "--", "true" }, {}):wait().err
  local why = said:match("cannot be had: (it is not in this build)") or said:match("cannot be had: (Pro feature)")
    or said:match("cannot be had: .-(no cgroup v2 is mounted)")
  return why and ("mode %s: %s"):format(mode, why)
end

--- Starts `lattice` with these arguments in the host namespace, as an ordinary user. opts.mode: of `run`; kernel: as root.
--- World.mode_of_all: of every run that does not say.
function World:start_lattice(args, opts)
  opts = opts or {}
  if args[1] == "run" then opts.mode = opts.mode or World.mode_of_all end
  opts.user = opts.user or "65534"
  opts.cwd = opts.cwd or self.home
  local argv = { World.lattice_path }
  for i, word in ipairs(args) do
    argv[#argv + 1] = word
    if i == 1 and opts.mode then table.move({ "--mode", opts.mode }, 1, 2, #argv + 1, argv) end
  end
  return self:start("host", argv, opts)
end

function World:lattice(args, opts)
  return self:start_lattice(args, opts):wait(opts and opts.timeout)
end

--- Runs a command under policy text; returns the process with .audit (list of decoded records).
--- opts.options: further options of `lattice run`.
function World:under(policy, command, opts)
  opts = opts or {}
  self.audits = (self.audits or 0) + 1
  local path = self:file(("policy%d.lua"):format(self.audits), policy)
  local audit = ("%s/audit%d.jsonl"):format(self.home, self.audits)
  local args = { "run", "--policy", path, "--audit", audit, "-v" }
  for _, word in ipairs(opts.options or {}) do args[#args + 1] = word end
  args[#args + 1] = "--"
  for _, word in ipairs(command) do args[#args + 1] = tostring(word) end
  local p = self:start_lattice(args, opts)
  p.audit_path, p.policy_path = audit, path
  if opts.background then return p end
  p:wait(opts.timeout)
  p.audit = World.records(audit)
  return p
end

--- The records of an audit file; a line that is being written at this moment is none yet.
function World.records(path)
  local json = require("dkjson")
  local list = {}
  for line in (World.read(path) or ""):gmatch("([^\n]+)\n") do
    list[#list + 1] = assert(json.decode(line), "not JSON: " .. line)
  end
  return list
end

--- Records whose unmapped.lattice matches all given fields.
function World.find(records, fields)
  local found = {}
  for _, record in ipairs(records) do
    local all = true
    for key, value in pairs(fields) do
      all = all and record.unmapped and record.unmapped.lattice and record.unmapped.lattice[key] == value
    end
    if all then found[#found + 1] = record end
  end
  return found
end

--- Is the program there? For pending().
function World.has(program)
  return spawn({ "/bin/sh", "-c", "command -v " .. program }, {}):wait().status == 0
end

return World
