-- What the tier "vm" runs in each virtual machine, as root; TAP on stdout. Argument "all": doctor, the unit tests that
-- lean on the kernel, real programs, a few tries of every way round. "run": doctor and real programs. "node": the
-- primitives of the node agent, its enforcers against the oracle. "agent": the agent on real devices. "bare": the agent
-- where the kernel has neither clsact nor WireGuard. "limits": groups of processes alone (of "all" and "run", too).
-- "modes": the modes of a run alone (of "all", too). "refused": user namespaces are off, and `lattice run` says so and
-- runs nothing.
package.path = "tests/support/?.lua;" .. package.path
local steps = require("steps")
local quote = steps.quote

local lattice = assert(os.getenv("LATTICE"), "LATTICE")
local build = assert(os.getenv("LATTICE_BUILD"), "LATTICE_BUILD")
local patience = tonumber(os.getenv("LATTICE_PATIENCE")) or 1
local user = "setpriv --reuid 65534 --regid 65534 --clear-groups "
local log = os.tmpname()
local count = 0

local function result(good, name, skip)
  count = count + 1
  io.write(good and "ok " or "not ok ", count, " - ", name, skip and " # SKIP " .. skip or "", "\n")
  io.flush()
end

local function show(text)
  io.write("# ", (text:gsub("\n", "\n# ")), "\n")
end

-- One command that must end well; its output is shown if it does not.
local function command(name, words)
  local good, how = steps.run(words, log, 60 * patience)
  if not good then show(how .. "\n" .. steps.text(log)) end
  result(good, name)
end

-- A cmocka program: a result for each of its tests.
local function unit(path)
  local name = path:match("[^/]+$")
  local good, how = steps.run(quote(path), log, 120 * patience)
  local test, reason, failed = nil, nil, 0
  for line in steps.text(log):gmatch("[^\n]+") do
    local kind, what = line:match("^%[%s+([%u ]-)%s+%] ([%w_]+)$")
    if kind == "RUN" then
      test, reason = what, nil
    elseif test and what == test and (kind == "OK" or kind == "FAILED" or kind == "SKIPPED") then
      if kind == "FAILED" then failed = failed + 1 end
      result(kind ~= "FAILED", name .. ": " .. test, kind == "SKIPPED" and (reason or "no reason given") or nil)
      test = nil
    elseif not line:match("^%[") then
      reason = test and line or nil
    end
  end
  if not good then
    show(steps.text(log))
    if failed == 0 then result(false, name .. ": " .. how) end
  end
end

-- A spec, with the results that it writes itself. `who` is put before every name.
local function spec(file, who, become)
  local report = os.tmpname()
  os.remove(report)
  local host = file:match("/primitives/") and "scripts/busted" or "lua5.4 tests/support/busted.lua"
  local words = ("%senv LATTICE_REPORT=%s LATTICE_BUILD=%s %s -o tests/support/report.lua %s")
    :format(become, report, quote(build), host, file)
  local good, how = steps.run(words, log, 300 * patience)
  local results, failed = 0, 0
  local plan
  for line in steps.text(report):gmatch("[^\n]+") do
    local bad, rest = line:match("^(n?o?t? ?)ok %d+ %- (.*)$")
    if rest then
      results = results + 1
      if bad ~= "" then failed = failed + 1 end
      local name, skip = rest:match("^(.-) # SKIP (.*)$")
      result(bad == "", who .. ": " .. (name or rest), skip)
    end
    plan = tonumber(line:match("^1%.%.(%d+)$")) or plan
  end
  if not good then show(steps.text(log)) end
  if plan ~= results then
    result(false, ("%s: %s ended before its last test"):format(who, file))
  elseif not good and failed == 0 then
    result(false, ("%s: %s: %s"):format(who, file, how))
  end
  os.remove(report)
end

local function doctor()
  command("doctor: lattice run works, as root", quote(lattice) .. " doctor")
  command("doctor: lattice run works, as a user", user .. quote(lattice) .. " doctor")
end

local function refused(name, become)
  local good, how = steps.run(("%s%s run --policy lan-only -- echo it ran"):format(become, quote(lattice)), log,
    60 * patience)
  local text = steps.text(log)
  local right = not good and how == "exit 125" and text:find("kernel.unprivileged_userns_clone", 1, true)
    and not text:find("it ran", 1, true)
  if not right then show(how .. "\n" .. text) end
  result(right, name)
end

local function programs()
  for _, name in ipairs({ "run", "live" }) do
    spec("tests/e2e/" .. name .. "_spec.lua", "root", "")
    spec("tests/e2e/" .. name .. "_spec.lua", "uid 65534", user .. "scripts/in-userns ")
  end
end

-- Groups of processes and their limits: v2 with controllers, or v1.
local function limits()
  unit(build .. "/test_cgroup")
  spec("tests/lua/primitives/cgroup_spec.lua", "root", "")
  spec("tests/e2e/cgroup_spec.lua", "root", "")
end

-- The modes: which is taken, that they agree, and that nothing is left of a run.
local function modes()
  spec("tests/e2e/mode_spec.lua", "root", "")
  spec("tests/agree/modes_spec.lua", "root", "LATTICE_AGREE_SETS=8 ")
  spec("tests/e2e/lifecycle_spec.lua", "root", "LATTICE_LIFE=0.2 ")
end

-- The kernel's parts of a node.
local function node()
  for _, name in ipairs({ "bpf_load", "bpf", "map", "tc", "tun", "link", "wireguard", "iptables", "nflog", "netns",
    "queue" }) do
    spec("tests/lua/primitives/" .. name .. "_spec.lua", "root", "")
  end
  spec("tests/agree/tc_spec.lua", "root", "LATTICE_AGREE_SETS=20 ")
  spec("tests/agree/iptables_spec.lua", "root", "LATTICE_AGREE_SETS=4 ")
end

local function agent()
  for _, name in ipairs({ "agent_guard", "agent_ends", "device", "iptables", "nat", "wireguard", "wireguard_agent",
    "control", "events", "repl" }) do
    spec("tests/e2e/" .. name .. "_spec.lua", "root", "")
  end
end

local function bare()
  spec("tests/vm/bare_spec.lua", "root", "")
  local why = "the kernel has neither TCX nor clsact"
  for _, name in ipairs({ "iptables", "nat", "wireguard", "wireguard_agent", "control", "events" }) do
    spec("tests/e2e/" .. name .. "_spec.lua", "root", ("LATTICE_NO_EBPF=%s "):format(quote(why)))
  end
end

local what = {
  node = node,
  agent = agent,
  bare = bare,
  all = function()
    doctor()
    for _, pattern in ipairs({ "test_launcher*", "test_connects*", "test_flows*", "test_dns*" }) do
      for _, path in ipairs(steps.lines(("ls %s/%s 2>/dev/null"):format(quote(build), pattern))) do unit(path) end
    end
    programs()
    limits()
    modes()
    spec("tests/escape/attacks_spec.lua", "root", "")
  end,
  run = function()
    doctor()
    programs()
    limits()
  end,
  limits = limits,
  modes = modes,
  refused = function()
    refused("without user namespaces root is refused, and told the sysctl", "")
    refused("without user namespaces a user is refused, and told the sysctl", user)
  end,
}

show(steps.lines("uname -r")[1])
what[arg[1]]()
os.remove(log)
print("1.." .. count)
