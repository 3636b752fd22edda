-- Who the node bench compares, the two namespaces each is measured between, and how.
--
-- A system: name, id, apply(ns, n) -> milliseconds or nil and the reason, one(ns, n): the same for one rule more, needs:
-- the enforcer of guard.lua. place() gives it `client` and `server`, joined by vc and vs.
local rules = require("rules")
local uv = require("luv")

local M = {}
local dir, root, build, seconds, meter, flood, cpus

---@param options { dir: string, root: string, build: string, seconds: number, cpus: table }
function M.setup(options)
  dir, root, build, seconds, cpus = options.dir, options.root, options.build, options.seconds, options.cpus
  meter, flood = build .. "/helpers/meter", build .. "/helpers/flood"
  return M
end

local function quote(s) return "'" .. tostring(s):gsub("'", "'\\''") .. "'" end

function M.output(command)
  local pipe <close> = assert(io.popen(command))
  return pipe:read("a")
end
local output = M.output

function M.median(values)
  if not values or #values == 0 then return nil end
  table.sort(values)
  return values[(#values + 1) // 2]
end

function M.write(name, text)
  local f <close> = assert(io.open(dir .. "/" .. name, "w"))
  f:write(text)
  return dir .. "/" .. name
end

--- Runs a command; true, or false and what it said.
function M.try(command, limit)
  local text = output(("timeout %d %s 2>&1; echo status $?"):format(limit or 60, command))
  local said, status = text:match("^(.-)status (%d+)\n$")
  return status == "0", said
end

function M.must(command)
  local ok, said = M.try(command)
  if not ok then error(command .. ": " .. said, 0) end
end

function M.took(command, limit)
  local from = uv.hrtime()
  local ok, said = M.try(command, limit)
  if not ok then return nil, said end
  return (uv.hrtime() - from) / 1e6
end

function M.guard(enforcer, ns, steps, limit)
  local words = { "ip netns exec " .. ns, build .. "/lattice lua", root .. "/tests/bench/guard.lua", enforcer, "vs",
    dir .. "/bpf" }
  for _, step in ipairs(steps) do words[#words + 1] = quote(step) end
  local ok, said = M.try(table.concat(words, " "), limit or 120)
  local values = {}
  for name, value, worst in said:gmatch("(%l+) ([%d.]+) ?([%d.]*)\n") do
    values[name] = { tonumber(value), tonumber(worst) }
  end
  return ok and values or nil, said
end

-- ---- systems: apply(ns, n) -> milliseconds or nil; one(ns, n): one rule more ----

local function by_guard(enforcer)
  return function(ns, n)
    local values, why = M.guard(enforcer, ns, { "apply:" .. dir .. "/policy." .. n }, 100)
    return values and values.apply[1], why
  end
end

local function inside(ns, command) return ("ip netns exec %s sh -c %s"):format(ns, quote(command)) end

local function iptables(kind)
  return function(ns, n) return M.took(inside(ns, ("iptables-%s-restore <%s/iptables.%d"):format(kind, dir, n))) end,
    function(ns)
      return M.took(inside(ns, ("iptables-%s -I INPUT -s 203.0.113.77 -p tcp --dport 22 -j ACCEPT"):format(kind)))
    end
end

local legacy_apply, legacy_one = iptables("legacy")
local nft_apply, nft_one = iptables("nft")
M.systems = {
  { name = "no rules", id = "none", apply = function() return 0 end },
  { name = "lattice ebpf", id = "ebpf", apply = by_guard("ebpf"), needs = "ebpf" },
  { name = "lattice iptables (legacy)", id = "ll", apply = by_guard("iptables:legacy"), needs = "iptables:legacy" },
  { name = "lattice iptables (nft)", id = "ln", apply = by_guard("iptables:nft"), needs = "iptables:nft" },
  { name = "iptables-legacy", id = "il", apply = legacy_apply, one = legacy_one },
  { name = "iptables-nft", id = "in", apply = nft_apply, one = nft_one },
  { name = "nft set", id = "ns",
    apply = function(ns, n) return M.took(inside(ns, ("nft -f %s/nft.%d"):format(dir, n))) end,
    one = function(ns) return M.took(inside(ns, "nft add element ip bench allowed '{ 203.0.113.77 . tcp . 22 }'")) end },
  { name = "ipset", id = "is", apply = function(ns, n)
    return M.took(inside(ns, ("ipset restore <%s/ipset.%d && "
      .. "iptables-legacy -A INPUT -m set --match-set allowed src,dst -j ACCEPT && "
      .. "iptables-legacy -P INPUT DROP"):format(dir, n)))
  end, one = function(ns) return M.took(inside(ns, "ipset add allowed 203.0.113.77,tcp:22")) end },
}

-- ---- places ----

function M.place(system)
  local c, s = "c-" .. system.id, "s-" .. system.id
  M.must(("sh -c 'ip netns add %s && ip netns add %s && ip link add vc netns %s type veth peer name vs netns %s'")
    :format(c, s, c, s))
  for ns, at in pairs({ [c] = { "vc", rules.client }, [s] = { "vs", rules.server } }) do
    M.must(("sh -c 'ip -n %s addr add %s/24 dev %s && ip -n %s link set %s up && ip -n %s link set lo up'")
      :format(ns, at[2], at[1], ns, at[1], ns))
  end
  system.client, system.server = c, s
  system.pipe = assert(io.popen(("ip netns exec %s taskset -c %d %s server %d & echo $!; wait")
    :format(s, cpus.one, meter, rules.tcp)))
  system.pid = system.pipe:read("l")
  assert(system.pipe:read("l") == "ready")
end

function M.gone(system)
  if not system.pid then return end
  os.execute("kill " .. system.pid)
  system.pipe:close()
  if system.id == "ebpf" then M.guard("ebpf", system.server, { "clear" }) end
  M.try("ip netns del " .. system.client)
  M.try("ip netns del " .. system.server)
  system.pid = nil
end

function M.rate(system, mode)
  local ok, said = M.try(("ip netns exec %s taskset -c %d %s %s %s %d %g")
    :format(system.client, cpus.one, meter, mode, rules.server, rules.tcp, seconds), 10)
  return ok and tonumber(said:match("^%S+ (%S+)")) or nil
end

--- Starts counting datagrams in a namespace; the function it gives ends that: { [port] = count }.
function M.sink(ns, ports)
  local fifo, out = dir .. "/fifo", dir .. "/sink"
  M.must("sh -c 'rm -f " .. fifo .. " " .. out .. "; mkfifo " .. fifo .. "'")
  os.execute(("ip netns exec %s taskset -c %d %s sink %s <%s >%s &"):format(ns, cpus.sink, flood, ports, fifo, out))
  local input = assert(io.open(fifo, "w"))
  local function text()
    local f <close> = io.open(out)
    return f and f:read("a") or ""
  end
  while not text():find("ready\n", 1, true) do uv.sleep(2) end
  return function()
    input:close()
    local counts, lines = {}, 0
    while lines < select(2, ports:gsub("%d+", "")) do
      uv.sleep(5)
      lines = 0
      for port, count in text():gmatch("(%d+) (%d+)\n") do counts[tonumber(port)], lines = tonumber(count), lines + 1 end
    end
    return counts
  end
end

function M.pps(system)
  local finish = M.sink(system.server, tostring(rules.udp))
  local ok, said = M.try(("ip netns exec %s taskset -c %d %s send %s %g 0 %d")
    :format(system.client, cpus.source, flood, rules.server, seconds, rules.udp), 10)
  local count = finish()[rules.udp]
  return ok and count / tonumber(said:match("seconds (%S+)")) or nil
end

--- "rr" and "crr": per second, everything on one CPU; "pps": datagrams delivered per second.
function M.measure(system, mode)
  if mode == "pps" then return M.pps(system) end
  return M.rate(system, mode)
end

return M
