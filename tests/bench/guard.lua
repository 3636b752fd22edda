-- Inside `lattice lua`: puts policies in force by an enforcer of the node, tells what each step took, and leaves the last
-- one in force.
--
--   guard.lua ENFORCER[:BACKEND] DEVICE PINS STEP...
--     apply:FILE           "load MS", "apply MS"
--     temporary:TIMES      "temporary MS": one rule more and one less, median
--     reload:A:B:TIMES     "reload MS WORST", "flip MS WORST": file to force, and its last part, the apply, alone
--     clear                removes all
local loop = require("lattice.loop")
local policies = require("lattice.policies")
local sys = require("lattice.sys")

local function wait(what, start)
  local result
  start(function(...)
    result = table.pack(...)
    loop.stop()
  end)
  while not result do loop.run() end
  if not result[1] then error(what .. ": " .. tostring(result[2]), 0) end
  return table.unpack(result, 1, result.n)
end

local arguments = { ... }
local name, backend = arguments[1]:match("^(%w+):?(%w*)$")
local nothing = function() end
local enforcer = wait("open", function(done)
  require("lattice.enforcer." .. name).open({ devices = { arguments[2] }, pins = arguments[3], adopt = true, log = nothing,
    events = { ring = nothing, nflog = nothing }, backend = backend ~= "" and backend or nil }, done)
end)
local number = enforcer:generation() or 0
local before

local function ms(from) return (sys.clock() - from) / 1e6 end

local function put(path)
  number = number + 1
  local from = sys.clock()
  local new = wait("load", function(done) policies.load({ number = number, files = { path } }, done) end)
  local middle = sys.clock()
  wait("apply", function(done) enforcer:apply(new, done) end)
  if before then before:close() end
  before = new
  return (middle - from) / 1e6, ms(middle)
end

local function median(list)
  table.sort(list)
  return list[(#list + 1) // 2], list[#list]
end

local steps = {}

function steps.apply(path) print(("load %.3f\napply %.3f"):format(put(path))) end

function steps.temporary(times)
  local entry = { { dir = "in", proto = 6, addr = "203.0.113.77", len = 32, family = 4, lo = 22, hi = 22 } }
  local took = {}
  for i = 1, tonumber(times) do
    local rules = i % 2 == 1 and { { id = i, action = "allow", text = "in tcp from 203.0.113.77 port 22", entries = entry,
      log = false, until_ns = sys.clock() + 60000000000 } } or {}
    local from = sys.clock()
    wait("temporary", function(done) enforcer:temporary(rules, done) end)
    took[i] = ms(from)
  end
  print(("temporary %.4f"):format((median(took))))
end

function steps.reload(a, b, times)
  local whole, flip = {}, {}
  for i = 1, tonumber(times) do
    local load, apply = put(i % 2 == 1 and a or b)
    whole[i], flip[i] = load + apply, apply
  end
  print(("reload %.3f %.3f"):format(median(whole)))
  print(("flip %.3f %.3f"):format(median(flip)))
end

local keep = true
function steps.clear() keep = false end

for i = 4, #arguments do
  local words = {}
  for word in arguments[i]:gmatch("[^:]+") do words[#words + 1] = word end
  steps[words[1]](table.unpack(words, 2))
end
wait("close", function(done) enforcer:close(keep, done) end)
os.exit(true, false)
