-- The tiers: what each runs and whether it is part of a plain `./runtests`. A tier's `run(ctx)` fills ctx.tally.
local steps = require("steps")
local quote = steps.quote

---@class lattice.test.Tier
---@field name string
---@field about string
---@field named? boolean    runs only when it is asked for by name
---@field again? boolean    runs for every edition given, not for the first alone
---@field run fun(ctx: table)

-- Counts what a command that has ended told: TAP in its output (or in `report`), or, without any, its exit status.
local function take(ctx, name, log, report, good, how, seconds)
  local before = ctx.tally:line()
  local results, failed, complete = steps.tap(steps.text(report or log), ctx.tally, name)
  if results == 0 and not report then
    if good then ctx.tally:pass() end
    if how == "exit 77" then
      local reason = steps.text(log):match("([^\n]+)\n*$") or "no reason given"
      ctx.tally:skip(name, "all of it", reason)
      good = true
    end
  end
  if (not good and failed == 0) or (report and not complete) then
    ctx.tally:fail(name, good and "ended before its last test" or how)
  end
  if not good then io.write(steps.text(log), "\n") end
  if before ~= ctx.tally:line() or not good then
    ctx:progress(name, seconds)
  end
end

local function program(ctx, name, words, limit, report)
  local log = ctx:log(name)
  local started = os.time()
  local good, how = steps.run(words, log, limit)
  take(ctx, name, log, report, good, how, os.time() - started)
end

-- What a spec says of itself in its first lines: "Runs alone", when it looks at what the whole machine has (processes,
-- programs of the kernel), so that no other may make any beside it; "Takes long", so that it is not the last to begin.
local function says(file, words)
  return steps.text(file):sub(1, 800):find(words, 1, true) ~= nil
end

-- Every *_spec.lua below a folder, each in a process of its own, some at a time: specs of the C primitives inside the
-- binary. `extra` names how: "hard" drives the collector hard; "world" gives a normal user namespaces in which to make a
-- host and a server (root makes them as it is).
local function specs(ctx, folder, limit, extra)
  local become = ""
  if extra == "world" then
    local able = steps.lines("id -u")[1] ~= "0" and os.execute("scripts/in-userns true >/dev/null 2>&1")
    become, extra = able and "scripts/in-userns " or "", nil
  end
  local together, alone = {}, {}
  local find = "find %s -name '*_spec.lua' -printf '%%s %%p\\n' 2>/dev/null | sort -rn | cut -d' ' -f2-"
  for _, file in ipairs(steps.lines(find:format(quote(folder)))) do
    local name = file .. (extra and " (" .. extra .. ")" or "")
    local report = ctx:log(name .. ".tap")
    local host = file:match("/primitives/") and "LATTICE_BUILD=" .. quote(ctx.build) .. " scripts/busted"
      or "lua5.4 tests/support/busted.lua"
    local words = ("%senv LATTICE_REPORT=%s %s %s -o tests/support/report.lua %s"):format(become, quote(report),
      extra == "hard" and "LATTICE_COLLECT=hard" or "", host, quote(file))
    os.remove(report)
    local list = says(file, "Runs alone") and alone or together
    table.insert(list, says(file, "Takes long") and 1 or #list + 1,
      { name = name, words = words, log = ctx:log(name), limit = limit, report = report })
  end
  local function done(job, good, how, seconds)
    take(ctx, job.name, job.log, job.report, good, how, seconds)
  end
  steps.pool(together, ctx.cores, done)
  steps.pool(alone, 1, done)
end

local function ctest(ctx, label, dir)
  local xml = ctx:log(label .. ".xml")
  os.remove(xml)
  local words = ("ctest --test-dir %s -L '^%s$' -j %d --timeout 120 --output-junit %s "
    .. "--test-output-size-passed 200000 --test-output-size-failed 200000")
    :format(quote(dir), label, ctx.cores, quote(xml))
  local started = os.time()
  local log = ctx:log(label)
  local good, how = steps.run(words, log, 900)
  local failed = ctx.tally.failed
  steps.junit(steps.text(xml), ctx.tally)
  if not good and ctx.tally.failed == failed then
    io.write(steps.text(log), "\n")
    ctx.tally:fail("ctest -L " .. label, how)
  end
  ctx:progress(dir .. ": " .. label, os.time() - started)
end

-- Builds a preset; without it the tier cannot run. Returns whether it could.
local function built(ctx, preset, extra)
  local started = os.time()
  local log = ctx:log("build " .. preset)
  local good = steps.run("scripts/build " .. preset .. (extra or ""), log, 1500)
  if not good then
    io.write(steps.text(log), "\n")
    ctx.tally:fail("build", preset)
  end
  ctx:progress("build of preset " .. preset, os.time() - started)
  return good
end

local function has(command)
  return os.execute("command -v " .. command .. " >/dev/null 2>&1") == true
end

local function needs(ctx, command, package)
  if has(command) then return true end
  ctx.tally:skip(ctx.tier, "all of it",
    ("%s is not installed (apt-get install %s)"):format(command, package))
  return false
end

local function lint(ctx)
  if needs(ctx, "luacheck", "lua-check") then
    program(ctx, "luacheck",
      "luacheck -q --no-color $(ls -d lua policies tests examples scripts/layers scripts/docs-check 2>/dev/null)", 300)
  end
  local files = steps.lines("grep -rlI --exclude-dir=.git --exclude-dir=.deps "
    .. "--exclude-dir='build*' '^#!/bin/sh' . | sort")
  files[#files + 1] = "scripts/lib.sh"
  local list = table.concat(files, " ")
  program(ctx, "sh -n", "for f in " .. list .. "; do sh -n $f || exit 1; done", 60)
  if needs(ctx, "shellcheck", "shellcheck") then
    program(ctx, "shellcheck", "shellcheck -x " .. list, 120)
  end
end

-- Compiler warnings are errors here, with both compilers.
local function compilers(ctx)
  if built(ctx, "gcc-werror") then ctx.tally:pass() end
  if needs(ctx, "clang", "clang") and built(ctx, "clang") then ctx.tally:pass() end
end

local function sanitized(ctx)
  if built(ctx, "asan") then
    ctest(ctx, "unit", "build-asan")
    ctest(ctx, "fuzz", "build-asan")
  end
end

local function fuzz_long(ctx)
  if not needs(ctx, "clang", "clang libclang-rt-14-dev") or not built(ctx, "fuzz") then return end
  local seconds = tonumber(os.getenv("LATTICE_FUZZ_SECONDS")) or 300
  for _, target in ipairs(steps.lines("ls -d build-fuzz/fuzz_* 2>/dev/null")) do
    local subject = target:match("fuzz_(.*)$")
    local found = ctx:log("corpus-" .. subject)
    program(ctx, "fuzz " .. subject, ("mkdir -p %s && %s -max_total_time=%d -artifact_prefix=%s/ %s %s")
      :format(quote(found), target, seconds, quote(found), quote(found),
        "$(ls -d tests/fuzz/corpus/" .. subject .. ")"), seconds + 120)
  end
end

-- Other programs below a folder: the executable files that are no specs.
local function programs(ctx, folder, limit)
  local find = ("find %s -maxdepth 1 -type f -perm -u+x 2>/dev/null | sort"):format(folder)
  for _, file in ipairs(steps.lines(find)) do
    program(ctx, file, quote(file), limit)
  end
end

-- Kernels in virtual machines; what runs in one is tests/vm/inside.lua. The emulation is slow, so limits are longer
-- there: 50 minutes for a machine, then it is stopped and that is a failure. LATTICE_KERNELS="6.1 7" leaves the other
-- kernels out, LATTICE_VM="node agent" other parts.
local bare = "VM_CGROUP=v1 VM_APPEND=module_blacklist=wireguard,sch_ingress"
local kernels = {
  { "6.1", "all" },
  { "6.1", "run", "VM_CGROUP=v1", "cgroup v1" },
  { "6.1", "refused", "VM_SYSCTL=kernel.unprivileged_userns_clone=0", "user namespaces off" },
  { "6.1", "node", nil, "node" }, { "6.1", "agent", nil, "agent" },
  { "6.1", "bare", bare, "node, no WireGuard, no clsact, cgroup v1" },
  { "6.12", "all" }, { "6.12", "node", nil, "node" }, { "6.12", "agent", nil, "agent" },
  { "6.18", "all" }, { "6.18", "node", nil, "node" }, { "6.18", "agent", nil, "agent" },
  { "7", "all" }, { "7", "node", nil, "node" }, { "7", "agent", nil, "agent" },
}

local function vm(ctx)
  if steps.lines("id -u")[1] ~= "0" then
    ctx.tally:skip(ctx.tier, "all of it", "only root can share its files with a virtual machine")
    return
  end
  for command, package in pairs({ ["qemu-system-x86_64"] = "qemu-system-x86", busybox = "busybox-static",
    cpio = "cpio", depmod = "kmod", unxz = "xz-utils" }) do
    if not needs(ctx, command, package) then return end
  end
  local fetched, chosen = ctx:log("fetch"), os.getenv("LATTICE_KERNELS") or "6.1 6.12 6.18 7"
  steps.run("scripts/vm-fetch .deps/kernels " .. chosen, fetched, 900)
  io.write(steps.text(fetched))
  local parts = os.getenv("LATTICE_VM")
  for _, machine in ipairs(kernels) do
    local kernel, what, setting, about = table.unpack(machine)
    local name = "kernel " .. kernel .. (about and ", " .. about or "")
    local folder = ".deps/kernels/" .. kernel
    if not (" " .. chosen .. " "):find(" " .. kernel .. " ", 1, true) then
      ctx.tally:skip(name, "all of it", "not in LATTICE_KERNELS")
    elseif parts and not (" " .. parts .. " "):find(" " .. what .. " ", 1, true) then
      ctx.tally:skip(name, "all of it", "not in LATTICE_VM")
    elseif steps.text(folder .. "/package") == "" then
      ctx.tally:skip(name, "all of it", ("kernel %s could not be fetched"):format(kernel))
    else
      local carried = "LATTICE LATTICE_BUILD LATTICE_HELPERS LATTICE_SOURCE LATTICE_EDITION LUA_PATH_5_4 "
        .. "LATTICE_PATIENCE LATTICE_ESCAPE_TRIES"
      local words = ("env LATTICE_PATIENCE=5 LATTICE_ESCAPE_TRIES=200 VM_TIMEOUT=3000 VM_ENV=%s %s "
        .. "scripts/vm-run %s -- lua5.4 tests/vm/inside.lua %s"):format(quote(carried),
        setting or "VM_CGROUP=v2", folder, what)
      program(ctx, name, words, 3100, ctx:log(name))
    end
  end
end

---@type lattice.test.Tier[]
return {
  { name = "layers", about = "no include or require goes up", run = function(ctx)
    program(ctx, "scripts/layers", "scripts/layers", 60)
  end },
  { name = "lint", about = "luacheck, shell syntax, shellcheck", run = lint },
  { name = "unit", about = "cmocka, one program a file", again = true, run = function(ctx)
    ctest(ctx, "unit", ctx.build)
  end },
  { name = "lua", about = "busted over tests/lua, and again with a hard-driven collector",
    again = true, run = function(ctx)
      specs(ctx, "tests/lua", 300)
      if ctx.first then specs(ctx, "tests/lua", 600, "hard") end
    end },
  { name = "agree", about = "generated flows: every judge gives the oracle's verdict", again = true,
    run = function(ctx)
      specs(ctx, "tests/agree", 600, "world")
      programs(ctx, "tests/agree", 600)
    end },
  { name = "fuzz", about = "fuzz targets replay their corpora", run = function(ctx)
    ctest(ctx, "fuzz", ctx.build)
  end },
  { name = "asan", about = "unit and fuzz with the address and undefined-behaviour sanitizers",
    run = sanitized },
  { name = "e2e", about = "real programs under lattice run", again = true, run = function(ctx)
    specs(ctx, "tests/e2e", 300, "world")
  end },
  { name = "escape", about = "ways round, each decided by what the forbidden server saw",
    run = function(ctx) specs(ctx, "tests/escape", 900, "world") end },
  { name = "docs", about = "commands and policies in README.md and docs/ do what they say",
    run = function(ctx) program(ctx, "scripts/docs-check", "scripts/docs-check", 600) end },
  { name = "compilers", about = "gcc and clang, warnings are errors", named = true, run = compilers },
  { name = "fuzz-long", about = "libFuzzer, LATTICE_FUZZ_SECONDS (300) a target", named = true,
    run = fuzz_long },
  { name = "bench", about = "ratios to native, beside the rivals", named = true, run = function(ctx)
    for _, script in ipairs({ "tests/bench/run", "tests/bench/run --modes", "tests/bench/policy_load", "tests/bench/events",
      "tests/bench/node" }) do
      local ok, _, code = os.execute(steps.prefix .. script .. " </dev/null")
      if ok then
        ctx.tally:pass()
      elseif code == 77 then
        ctx.tally:skip("bench", script, "it said why")
      else
        ctx.tally:fail("bench", script)
      end
    end
  end },
  { name = "vm", about = "other kernels, in virtual machines", named = true, run = vm },
}
