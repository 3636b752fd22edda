-- The test runner behind ./runtests: options, the build, the tiers in order, and the closing line.
package.path = "tests/support/?.lua;" .. package.path
local steps = require("steps")
local Tally = require("tally")
local tiers = require("tiers")

local presets = { pro = "pro", community = "community" }

local function usage()
  print([[
./runtests [--tier NAME]... [--asan] [--bench] [--edition pro|community]... [--strict] [--list]

  --tier NAME     only this tier; "default" stands for all that run without a name
  --asan          test the build with the address and undefined-behaviour sanitizers
  --bench         the tier "bench"
  --edition NAME  pro unless given; with two, the second runs what the edition can change
  --strict        a skip is a failure
  --list          the tiers, and which run only when named

The last line is "N passed, N failed, N skipped"; exit 0 if nothing failed.]])
end

local function list()
  for _, tier in ipairs(tiers) do
    print(("%-10s %s%s"):format(tier.name, tier.about, tier.named and " (by name only)" or ""))
  end
end

local function die(message)
  io.stderr:write("runtests: ", message, "\n")
  os.exit(2)
end

local function known(name)
  for _, tier in ipairs(tiers) do
    if tier.name == name then return true end
  end
  return name == "default"
end

local function options(words)
  local opts = { tiers = {}, editions = {} }
  local at = 1
  local function value(option)
    at = at + 1
    return words[at] or die(option .. " needs a value")
  end
  while words[at] do
    local word = words[at]
    local name, given = word:match("^(%-%-%a+)=(.*)$")
    local function take() return given or value(word) end
    word = name or word
    if word == "--tier" then
      local tier = take()
      if not known(tier) then die("no tier '" .. tier .. "'; ./runtests --list names them") end
      opts.tiers[#opts.tiers + 1] = tier
    elseif word == "--edition" then
      local edition = take()
      if not presets[edition] then die("--edition is pro or community, not '" .. edition .. "'") end
      opts.editions[#opts.editions + 1] = edition
    elseif word == "--bench" then
      opts.tiers[#opts.tiers + 1] = "bench"
    elseif word == "--asan" or word == "--strict" or word == "--list" or word == "--help" then
      opts[word:sub(3)] = true
    elseif word == "-h" then
      opts.help = true
    else
      die("unknown option " .. word .. "; ./runtests --help")
    end
    at = at + 1
  end
  if #opts.tiers == 0 then opts.tiers[1] = "default" end
  if #opts.editions == 0 then opts.editions[1] = "pro" end
  return opts
end

local function wanted(opts, tier)
  for _, name in ipairs(opts.tiers) do
    if name == tier.name or (name == "default" and not tier.named) then return true end
  end
  return false
end

-- What every command of a tier finds in its environment. Lua cannot set it, so it is put before each command.
local function environment(ctx)
  local top = ctx.top
  local path = os.getenv("LUA_PATH_5_4") or os.getenv("LUA_PATH") or ";;"
  local values = {
    LATTICE = top .. "/" .. ctx.build .. "/lattice",
    LATTICE_BUILD = top .. "/" .. ctx.build,
    LATTICE_HELPERS = top .. "/" .. ctx.build .. "/helpers",
    LATTICE_SOURCE = top,
    LATTICE_EDITION = ctx.edition,
    LUA_PATH_5_4 = ("%s/lua/?.lua;%s/lua/?/init.lua;%s/tests/?.lua;%s"):format(top, top, top, path),
  }
  local words = {}
  for name, value in pairs(values) do
    words[#words + 1] = name .. "=" .. steps.quote(value)
  end
  return "unset LATTICE_RUNNING; export " .. table.concat(words, " ") .. "; "
end

local Context = {}
Context.__index = Context

function Context:log(name)
  return self.logs .. "/" .. (self.tier .. " " .. name):gsub("[^%w._-]+", "-")
end

function Context:progress(name, seconds)
  io.write(("  %-60s %4d s   %s\n"):format(name, seconds, self.tally:line()))
  io.flush()
end

local function run_tier(ctx, tier, total)
  ctx.tally, ctx.tier = Tally.new(), tier.name
  io.write(("== %s (%s): %s\n"):format(tier.name, ctx.edition, tier.about))
  io.flush()
  local started = os.time()
  tier.run(ctx)
  io.write(("== %s: %s (%d s)\n\n"):format(tier.name, ctx.tally:line(), os.time() - started))
  total:add(ctx.tally)
end

local function run_edition(opts, edition, first, total)
  local preset = opts.asan and "asan" or presets[edition]
  local build = steps.lines("scripts/build --dir " .. preset)[1]
  local top = steps.lines("pwd")[1]
  local ctx = setmetatable({ edition = edition, first = first, build = build, top = top,
    logs = top .. "/" .. build .. "/test-logs", cores = tonumber(steps.lines("nproc")[1]) }, Context)
  io.write(("== build (%s)\n"):format(preset))
  io.flush()
  local extra = opts.asan and " -DLATTICE_EDITION=" .. edition or ""
  if not os.execute("scripts/build " .. preset .. extra .. " && mkdir -p " .. steps.quote(ctx.logs)) then
    total:fail("build", preset)
    return
  end
  steps.prefix = environment(ctx)
  for _, tier in ipairs(tiers) do
    if wanted(opts, tier) and (first or tier.again) then
      run_tier(ctx, tier, total)
    end
  end
end

local function closing(total)
  if #total.reasons > 0 then print("skipped:") end
  for _, reason in ipairs(total.reasons) do
    local names = total.skips[reason]
    print(("  %s (%d): %s"):format(reason, #names, table.concat(names, "; ", 1, math.min(#names, 3))
      .. (#names > 3 and "; ..." or "")))
  end
  if #total.failures > 0 then print("failed:") end
  for _, name in ipairs(total.failures) do
    print("  " .. name)
  end
  print(total:line())
end

local opts = options(arg)
if opts.help then
  usage()
  os.exit(0)
elseif opts.list then
  list()
  os.exit(0)
end

local total = Tally.new()
for at, edition in ipairs(opts.editions) do
  run_edition(opts, edition, at == 1, total)
end
closing(total)
os.exit((total.failed == 0 and not (opts.strict and total.skipped > 0)) and 0 or 1)
