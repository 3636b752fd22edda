-- The iptables enforcer by itself, inside a node's namespace (lattice lua iptables_node.lua BACKEND DEVICE...): commands as
-- lines on stdin, an answer line "ok ..." or "no ..." for each.
--
--   open | adopt            opens it
--   apply N FILE            loads the policy as generation N and puts it in force
--   pins FILE               lines "ADDR NAME..."
--   temporary ID ACTION DIR PROTO ADDR/LEN LO HI    one temporary rule; `temporary` alone: none
--   counters | cut | flows | generation | close | keep | remove
--   nat KIND A B ...        pairs (nat SOURCE OUT, forward FROM TO); again: a change; `nat-close`, `nat-keep`
--   explain FILE            lines "DIR PROTO ADDR PORT": one line "VERDICT RULE" for each before the answer
--   judge FILE              the same by the C tables; a line may end in names
local enforcer = require("lattice.enforcer.iptables")
local loop = require("lattice.loop")
local policies = require("lattice.policies")
local uv = require("luv")

local nat = require("lattice.enforcer.nat")

local backend, devices = arg[1], table.pack(table.unpack(arg, 2))
local live, generation, stdin, translation
local commands = {}

local function say(...)
  io.stdout:write(table.concat({ ... }, " "), "\n")
  io.stdout:flush()
end

local function answer(ok, err, code)
  if ok then return say("ok", type(ok) ~= "table" and tostring(ok) or "") end
  return say("no", tostring(code), (tostring(err):gsub("\n", " ")))
end

local function open(adopt)
  enforcer.open({ devices = devices, backend = backend, adopt = adopt, log = function() end }, function(e, err, code)
    live = e
    answer(e, err, code)
  end)
end

function commands.open() open(false) end
function commands.adopt() open(true) end

function commands.apply(number, file)
  policies.load({ number = math.tointeger(number), files = { file } }, function(g, err, code)
    if not g then return answer(nil, err, code) end
    live:apply(g, function(ok, why, what)
      if ok and generation then generation:close() end
      if ok then generation = g else g:close() end
      answer(ok, why, what)
    end)
  end)
end

function commands.pins(file)
  local pins = {}
  for line in io.lines(file) do
    local words = {}
    for word in line:gmatch("%S+") do words[#words + 1] = word end
    pins[#pins + 1] = { addr = words[1], names = { table.unpack(words, 2) } }
  end
  live:pin(pins, answer)
end

function commands.temporary(id, action, dir, proto, prefix, lo, hi)
  if not id then return live:temporary({}, answer) end
  local addr, len = prefix:match("^(.-)/(%d+)$")
  live:temporary({ { id = math.tointeger(id), action = action, log = true, entries = { { rule = 1, dir = dir,
    proto = math.tointeger(proto), family = addr:find(":") and 6 or 4, addr = addr, len = math.tointeger(len),
    lo = math.tointeger(lo), hi = math.tointeger(hi) } } } }, answer)
end

function commands.counters()
  live:counters(function(counts, err, code)
    if not counts then return answer(nil, err, code) end
    local list = {}
    for rule, c in pairs(counts) do
      if c.packets > 0 then list[#list + 1] = rule .. "=" .. c.packets end
    end
    table.sort(list)
    say("ok", table.concat(list, " "))
  end)
end

function commands.cut() live:cut(answer) end

function commands.flows()
  live:flows(1000, function(flows, err, code)
    if not flows then return answer(nil, err, code) end
    local list = {}
    for i, f in ipairs(flows) do
      list[i] = ("%s/%d/%s/%d/%s/%d/%d/%d"):format(f.dir, f.proto, f.addr, f.port, f.local_addr, f.sport, f.rule,
        f.generation)
    end
    table.sort(list)
    say("ok", table.concat(list, " "))
  end)
end

function commands.generation() say("ok", tostring(live:generation())) end

function commands.explain(file)
  local flows = {}
  for line in io.lines(file) do
    local dir, proto, addr, port = line:match("^(%S+) (%S+) (%S+) (%S+)")
    flows[#flows + 1] = { dir = dir, proto = math.tointeger(proto), addr = addr, port = math.tointeger(port) }
  end
  local function next_one(i)
    if not flows[i] then return say("ok") end
    live:explain(flows[i], function(v, err, code)
      if not v then return answer(nil, err, code) end
      say(v.verdict, tostring(v.rule), v.where)
      return next_one(i + 1)
    end)
  end
  next_one(1)
end

function commands.judge(file)
  for line in io.lines(file) do
    local dir, proto, addr, port, names = line:match("^(%S+) (%S+) (%S+) (%S+) ?(.*)$")
    local flow = { dir = dir, proto = math.tointeger(proto), addr = addr, port = math.tointeger(port), names = {} }
    for name in names:gmatch("%S+") do flow.names[#flow.names + 1] = name end
    local v = generation:judge(flow)
    say(v.verdict, tostring(v.rule))
  end
  say("ok")
end

function commands.nat(...)
  local words, pairs_ = { ... }, {}
  for i = 1, #words, 3 do
    local kind, a, b = words[i], words[i + 1], words[i + 2]
    pairs_[#pairs_ + 1] = kind == "nat" and { kind = kind, source = a, out = b, where = "test:" .. i }
      or { kind = kind, from = a, to = b, where = "test:" .. i }
  end
  if translation then return translation:change(pairs_, answer) end
  nat.open(pairs_, { backend = backend, log = function() end }, function(n, err, code)
    translation = n
    answer(n, err, code)
  end)
end

commands["nat-close"] = function()
  translation:close(false, answer)
  translation = nil
end
commands["nat-keep"] = function()
  translation:close(true, answer)
  translation = nil
end

function commands.remove()
  enforcer.remove({ devices = devices }, answer)
end

local function finish(keep)
  live:close(keep, function(...)
    answer(...)
    if generation then generation:close() end
    live, generation = nil, nil
  end)
end
function commands.close() finish(false) end
function commands.keep() finish(true) end

say("ready")
stdin = uv.new_pipe(false)
stdin:open(0)
local rest = ""
stdin:read_start(function(_, data)
  if not data then return stdin:is_closing() or stdin:close() end
  rest = rest .. data
  while true do
    local line, after = rest:match("^([^\n]*)\n(.*)$")
    if not line then break end
    rest = after
    local words = {}
    for word in line:gmatch("%S+") do words[#words + 1] = word end
    local ok, err = pcall(commands[words[1]], table.unpack(words, 2))
    if not ok then say("no", "error", (tostring(err):gsub("\n", " "))) end
  end
end)
loop.run()
