-- What a REPL session may ask of the agent: call(session, args, done) on the agent's loop, done(value) or done(nil, text).
-- The arguments come out of somebody's text, so everything is checked here. Answers are small: lists come in pages.
local M = {}

local MOST = 500       -- rows of one answer
local WAITING = 1000   -- events that wait for the session; what is beyond is counted
local LONGEST = 10000  -- milliseconds that a call waits for events
local WATCHES = 4

---@class lattice.control.repl.Session
---@field agent lattice.agent.Agent
---@field uid integer
---@field write boolean
---@field watches table<integer, table>

M.calls = {}
local calls = M.calls

local function integer(value, least, most, fallback)
  if value == nil then return fallback end
  local number = math.tointeger(value)
  if number and number >= least and number <= most then return number end
  return nil
end

local function ports_of(rule, counters)
  local one = counters and counters[rule.rule]
  rule.packets, rule.bytes = one and one.packets or 0, one and one.bytes or 0
  return rule
end

local function row(generation, n, counters)
  local rule = generation:rule(n)
  if not rule then return nil end
  return ports_of({ rule = n, action = rule.action, text = rule.text, where = rule.where, reason = rule.reason },
    counters)
end

function calls.rules(session, args, done)
  local generation = session.agent:generation()
  local from, count = integer(args.from, 1, 1 << 40, 1), integer(args.count, 1, MOST, MOST)
  if not from or not count then return done(nil, "rules: from and count are numbers from 1") end
  session.agent:enforcer():counters(function(counters)
    local rows, total = {}, generation:info().rules or 0
    if type(total) == "table" then total = #total end
    for n = from, math.min(from + count - 1, total) do rows[#rows + 1] = row(generation, n, counters) end
    done({ rows = rows, more = from + count - 1 < total, total = total })
  end)
end

function calls.rule(session, args, done)
  local n = integer(args.n, 0, 1 << 40)
  if not n then return done(nil, "rule takes a number: rule(1)") end
  local generation = session.agent:generation()
  session.agent:enforcer():counters(function(counters)
    if n == 0 then
      return done(ports_of({ rule = 0, action = generation:info().default, where = "default" }, counters))
    end
    local found = row(generation, n, counters)
    if not found then return done(nil, ("there is no rule %d"):format(n)) end
    done(found)
  end)
end

function calls.tables(session, args, done)
  local from, count = integer(args.from, 1, 1 << 40, 1), integer(args.count, 1, MOST, MOST)
  if not from or not count then return done(nil, "tables: from and count are numbers from 1") end
  local rows = session.agent:generation():entries(from, count)
  done({ rows = rows, more = #rows == count })
end

function calls.names(session, _, done)
  local all = session.agent:generation():names()
  done(table.move(all, 1, math.min(#all, MOST), 1, {}))
end

function calls.generation(session, _, done)
  local generation = session.agent:generation()
  local info = {}
  for key, value in pairs(generation:info()) do info[key] = value end
  info.number = generation:number()
  done(info)
end

function calls.status(session, _, done) done(session.agent:status()) end
function calls.maps(session, _, done) done(session.agent:enforcer():status()) end
function calls.events(session, _, done) done(session.agent.events:counters()) end
function calls.devices(session, _, done)
  done(session.agent:status().devices or session.agent.config.devices)
end

function calls.peers(session, _, done)
  local list = {}
  for _, device in ipairs(session.agent:status().devices or {}) do
    local wireguard = type(device.wireguard) == "table" and device.wireguard or device
    for _, peer in ipairs(type(wireguard.peers) == "table" and wireguard.peers or {}) do
      local copy = { device = device.name }
      for key, value in pairs(peer) do
        if key ~= "preshared" then copy[key] = value end
      end
      list[#list + 1] = copy
    end
  end
  if #list > 0 then return done(list) end
  for _, device in ipairs(session.agent.config.devices or {}) do
    for _, peer in ipairs(device.wireguard and device.wireguard.peers or {}) do
      list[#list + 1] = { device = device.name, key = peer.key, endpoint = peer.endpoint, allowed = peer.allowed }
    end
  end
  done(list)
end

function calls.caps(session, _, done)
  local enforcer = session.agent:status().enforcer or {}
  local list = { { name = enforcer.name, state = "in force", reason = enforcer.reason } }
  for _, one in ipairs(enforcer.passed_over or {}) do
    list[#list + 1] = { name = one.name, state = "passed over", reason = one.reason }
  end
  done(list)
end

function calls.counters(session, _, done)
  session.agent:enforcer():counters(function(counters, problem)
    if not counters then return done(nil, problem) end
    local list = {}
    for rule, one in pairs(counters) do
      if one.packets > 0 then list[#list + 1] = { rule = rule, packets = one.packets, bytes = one.bytes } end
    end
    table.sort(list, function(a, b) return a.rule < b.rule end)
    done(table.move(list, 1, math.min(#list, MOST), 1, {}))
  end)
end

function calls.flows(session, args, done)
  local limit = integer(args.limit, 1, MOST, 200)
  if not limit then return done(nil, ("flows takes a number up to %d"):format(MOST)) end
  session.agent:enforcer():flows(limit, done)
end

function calls.explain(session, args, done)
  local proto, dir = integer(args.proto, 0, 255), args.dir or "out"
  if not proto or type(args.addr) ~= "string" and type(args.names) ~= "table" or dir ~= "out" and dir ~= "in" then
    return done(nil, 'explain takes a flow: explain "tcp to 10.0.0.7 port 80"')
  end
  if not args.addr then
    return done(nil, 'a name is judged with an address: explain "tcp to NAME at ADDRESS port 443"')
  end
  local names = {}
  for i, name in ipairs(type(args.names) == "table" and args.names or {}) do names[i] = tostring(name) end
  session.agent:explain({
    dir = dir, proto = proto, addr = args.addr, port = integer(args.port, 0, 65535),
    sport = integer(args.sport, 0, 65535), names = names[1] and names,
  }, done)
end

-- ---- changes ----

local function may_write(session, done)
  if session.write then return true end
  done(nil, "this session only reads; changes take root and lattice repl --write")
  return false
end

function calls.temporary(session, _, done)
  local list, now = {}, os.time()
  for i, rule in ipairs(session.agent:temporary_list()) do
    list[i] = { id = rule.id, action = rule.action, text = rule.text, uid = rule.uid,
      ttl = math.max(0, (rule.until_s or now) - now) }
  end
  done(list)
end

local actions = { allow = true, deny = true, drop = true }

function calls.temporary_add(session, args, done)
  if not may_write(session, done) then return end
  local ttl = integer(args.ttl, 1, 86400)
  if not actions[args.action] or type(args.text) ~= "string" then return done(nil, "a rule's text is missing") end
  if not ttl then return done(nil, "ttl is a number of seconds, 1 to 86400") end
  local reason = type(args.reason) == "string" and args.reason or nil
  session.agent:temporary_add(args.action, args.text, { ttl = ttl, reason = reason, uid = session.uid },
    function(id, problem)
      session.agent:note(session.uid, ("repl: %s(%q, { ttl = %d }): %s"):format(args.action, args.text, ttl,
        id and "temporary rule " .. id or problem))
      done(id, problem)
    end)
end

function calls.remove(session, args, done)
  if not may_write(session, done) then return end
  local id = integer(args.id, 1, 1 << 40)
  if not id then return done(nil, "remove takes the number of a temporary rule; see temporary()") end
  session.agent:temporary_remove(id, function(ok, problem)
    session.agent:note(session.uid, ("repl: remove(%d): %s"):format(id, ok and "removed" or problem))
    done(ok, problem)
  end)
end

function calls.reload(session, args, done)
  local preview = args.preview == true
  if not preview and not may_write(session, done) then return end
  session.agent:reload({ preview = preview, by = ("uid %d (repl)"):format(session.uid) }, function(result, problem)
    if not preview then
      session.agent:note(session.uid, "repl: reload(): "
        .. (result and "generation " .. tostring(result.generation) or problem))
    end
    done(result, problem)
  end)
end

function calls.bindings(session, _, done) done(session.agent:bindings()) end
function calls.runs(session, _, done) done(session.agent.runs:status()) end

function calls.attach_pid(session, args, done)
  if not may_write(session, done) then return end
  local pid, device = integer(args.pid, 1, 0x7fffffff), args.device
  if not pid or type(device) ~= "string" or not device:find("^[^%s%c/]+$") or #device > 15 or device == "lo" then
    return done(nil, 'attach_pid takes the number of a process and a device: attach_pid(1234, "wf0")')
  end
  if args.policy ~= nil and not (type(args.policy) == "string" and args.policy:find("^/[^%c]*$")) then
    return done(nil, "attach_pid: policy is an absolute path")
  end
  session.agent.runs:attach(pid, device, { policy = args.policy, uid = session.uid }, done)
end

function calls.detach_pid(session, args, done)
  if not may_write(session, done) then return end
  local pid = integer(args.pid, 1, 0x7fffffff)
  if not pid then return done(nil, "detach_pid takes the number of a process") end
  local binding, problem = session.agent.runs:detach(pid, session.uid)
  done(binding, problem)
end

-- ---- watching ----

local filter_words = { verdict = "string", proto = "integer", addr = "string", port = "integer", dir = "string",
  rule = "integer", last = "integer" }
local protos = { tcp = 6, udp = 17, icmp = 1, icmpv6 = 58 }

local function filter_of(given)
  local filter = {}
  for key, value in pairs(type(given) == "table" and given or {}) do
    local kind = filter_words[key]
    if not kind then return nil, ("watch has no filter '%s'; see help(watch)"):format(tostring(key)) end
    if key == "proto" then value = protos[value] or value end
    if key == "verdict" then value = tostring(value):lower() end
    if kind == "integer" then value = math.tointeger(value) end
    if kind == "integer" and not value or kind == "string" and type(value) ~= "string" then
      return nil, ("watch: %s is a %s"):format(key, kind == "integer" and "number" or "text")
    end
    filter[key] = value
  end
  if filter.last then filter.last = math.max(0, math.min(filter.last, WAITING)) end
  return filter
end

-- Answers the waiting watch_next, if there is one.
local function deliver(watch)
  local done = watch.waiting
  if not done then return end
  watch.waiting = nil
  if watch.timer then watch.timer:close() end
  watch.timer = nil
  local events = table.move(watch.events, 1, #watch.events, 1, {})
  local lost = watch.lost
  watch.events, watch.lost = {}, 0
  done({ events = events, lost = lost })
end

function calls.watch_start(session, args, done)
  local filter, problem = filter_of(args.filter)
  if not filter then return done(nil, problem) end
  local count = 0
  for _ in pairs(session.watches) do count = count + 1 end
  if count >= WATCHES then return done(nil, "too many watches at a time") end
  local watch = { events = {}, lost = 0 }
  session.next_watch = (session.next_watch or 0) + 1
  session.watches[session.next_watch] = watch
  watch.stop = session.agent.events:watch(filter, function(event)
    if #watch.events >= WAITING then
      watch.lost = watch.lost + 1
      return
    end
    watch.events[#watch.events + 1] = event
    deliver(watch)
  end)
  done(session.next_watch)
end

function calls.watch_next(session, args, done)
  local watch = session.watches[args.id]
  if not watch or watch.waiting then return done(nil, "no such watch") end
  watch.waiting = done
  if #watch.events > 0 or watch.lost > 0 then return deliver(watch) end
  watch.timer = require("lattice.loop").timer(integer(args.ms, 1, LONGEST, LONGEST) or LONGEST, function()
    watch.timer = nil
    deliver(watch)
  end)
end

function calls.watch_stop(session, args, done)
  local watch = session.watches[args.id]
  if watch then
    watch.stop()
    watch.waiting = nil
    if watch.timer then watch.timer:close() end
    session.watches[args.id] = nil
  end
  done(true)
end

--- Ends what an evaluation left running.
---@param session lattice.control.repl.Session
function M.finish(session)
  for id in pairs(session.watches) do calls.watch_stop(session, { id = id }, function() end) end
end

return M
