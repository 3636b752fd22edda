-- From what a run did to a policy that lets it do just that again: names where the name is known, addresses else.
local addr = require("lattice.addr")
local format = require("lattice.audit.format")

local M = {}

local TCP, UDP = 6, 17

-- A name that can stand in a rule; one label is written with its dot.
local function name_text(name)
  if not name or not name:find("^[%w_.-]+$") or #name > 253 then return nil end
  local last
  for label in (name .. "."):gmatch("([^.]*)%.") do
    if #label < 1 or #label > 63 then return nil end
    last = label
  end
  if last:find("^%d+$") or last:find("^0[xX]%x*$") then return nil end -- some resolvers take it as an address
  return name:lower() .. (name:find(".", 1, true) and "" or ".")
end

-- Where the flow goes, as a rule says it, and a key that sorts: the host's services, names, then addresses.
local function place(record, address)
  if record.dir == "out" and address and addr.is_loopback(address) then return "host", "0" end
  local name = record.dir == "out" and name_text(record.name)
  if name then return name, "1" .. name end
  if address then return address, "2" .. addr.bytes(address) end
  return nil
end

local function new_entry(record, to, key)
  return { dir = record.dir, proto = record.proto, to = to, key = key, count = 0, ports = {}, programs = {} }
end

local function note(entry, record)
  entry.count = entry.count + 1
  if record.program then entry.programs[record.program] = true end
end

local function add_place(seen, record, to, key, address)
  local id = ("%s %03d %s"):format(record.dir, record.proto, key)
  local entry = seen.flows[id] or new_entry(record, to, id)
  seen.flows[id] = entry
  if record.proto == TCP or record.proto == UDP then entry.ports[record.port] = true end
  if key:sub(1, 1) == "1" then
    seen.connected[to] = true
    entry.private = entry.private or address and addr.is_private(address)
  end
  return entry
end

local function add_flow(seen, record)
  local address = record.addr and addr.parse(record.addr)
  local to, key = place(record, address)
  if not to or not record.proto or record.proto < 1 or record.proto > 254 then return end
  local with_ports = record.proto == TCP or record.proto == UDP
  if with_ports and (not record.port or record.port < 1 or record.port > 65535) then return end
  note(add_place(seen, record, to, key, address), record)
  seen.flow_count = seen.flow_count + 1
  if key:sub(1, 1) ~= "1" then return end
  -- Several names may have been answered with this address; the record has the newest, the program may mean another.
  for name in pairs(seen.answers[address] or {}) do
    if name ~= to then add_place(seen, record, name, "1" .. name, address).shared = to end
  end
end

-- The text of an answered question is its addresses.
local function add_lookup(seen, record)
  local name = name_text(record.name)
  if not name then return end
  seen.lookups[name] = seen.lookups[name] or { count = 0, programs = {} }
  note(seen.lookups[name], record)
  for word in (record.text or ""):gmatch("[%x:.]+") do
    local address = addr.parse(word)
    if address then
      seen.answers[address] = seen.answers[address] or {}
      seen.answers[address][name] = true
    end
  end
end

local function add_unix(seen, record)
  local path = record.text
  if not path or path:sub(1, 1) ~= "/" or #path > 107 or path:find("%c") then return end
  seen.unix[path] = seen.unix[path] or { count = 0, programs = {} }
  note(seen.unix[path], record)
end

local adders = { verdict = add_flow, dns = add_lookup, unix = add_unix }

local function collect(records, run)
  local seen = { flows = {}, connected = {}, lookups = {}, answers = {}, unix = {}, flow_count = 0, runs = {},
    run_count = 0 }
  for _, record in ipairs(records) do
    if not run or record.run == run then
      if not seen.runs[record.run] then
        seen.runs[record.run] = true
        seen.run_count = seen.run_count + 1
      end
      local add = record.passed and adders[record.kind]
      if add and (record.kind ~= "verdict" or record.dir) then add(seen, record) end
    end
  end
  return seen
end

local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

-- { [80]=true, [81]=true, [443]=true } -> "80-81, 443"
local function ports_text(ports)
  local list, parts, at = sorted_keys(ports), {}, 1
  while list[at] do
    local last = at
    while list[last + 1] == list[last] + 1 do last = last + 1 end
    parts[#parts + 1] = list[at] == list[last] and tostring(list[at]) or list[at] .. "-" .. list[last]
    at = last + 1
  end
  return table.concat(parts, ", ")
end

local function comment(entry, what)
  local programs = {}
  for i, program in ipairs(sorted_keys(entry.programs)) do
    programs[i] = format.plain(program)
  end
  if #programs > 4 then programs = { programs[1], programs[2], programs[3], #programs - 3 .. " more" } end
  if entry.count == 0 then return "perhaps meant where the address is also that of " .. entry.shared end
  local text = entry.count == 1 and "once" or entry.count .. " times"
  if what then text = what .. " " .. text end
  return #programs > 0 and text .. ", " .. table.concat(programs, ", ") or text
end

local function rule_line(entry)
  local rule = ("%s%s %s %s"):format(entry.dir == "in" and "in " or "", format.proto(entry.proto),
    entry.dir == "in" and "from" or "to", entry.to)
  local ports = ports_text(entry.ports)
  if ports ~= "" then rule = rule .. " port " .. ports end
  local line = entry.private and ("allow(%q, { private = true })"):format(rule) or ("allow %q"):format(rule)
  return line .. " -- " .. comment(entry)
end

local function plural(n, one, many) return ("%d %s"):format(n, n == 1 and one or many or one .. "s") end

-- The lines of all flows; how many places they are.
local function flow_lines(seen)
  local lines, places, count = {}, {}, 0
  for _, id in ipairs(sorted_keys(seen.flows)) do
    local entry = seen.flows[id]
    lines[#lines + 1] = rule_line(entry)
    if not places[entry.to] then
      places[entry.to], count = true, count + 1
    end
  end
  return lines, count
end

-- A name that was looked up and never connected to must still be answered, and nothing else opened but a ping.
local function lookup_lines(seen)
  local lines = {}
  for _, name in ipairs(sorted_keys(seen.lookups)) do
    if not seen.connected[name] then
      lines[#lines + 1] = ("allow(%q, { private = true }) -- %s"):format("icmp to " .. name,
        comment(seen.lookups[name], "only looked up,"))
    end
  end
  return lines
end

local function unix_lines(seen)
  local lines = {}
  for _, path in ipairs(sorted_keys(seen.unix)) do
    lines[#lines + 1] = ("unix %q -- %s"):format(path, comment(seen.unix[path]))
  end
  return lines
end

local function append(to, lines, title)
  if #lines == 0 then return end
  to[#to + 1] = ""
  if title then to[#to + 1] = "-- " .. title end
  table.move(lines, 1, #lines, #to + 1, to)
end

--- The text of a policy under which the recorded run, done again, is allowed in full.
---@param records lattice.audit.Record[]
---@param options? { name?: string, run?: string }  the policy's name; only the records of this run
---@return string text
function M.policy(records, options)
  options = options or {}
  local seen = collect(records, options.run)
  local flows, places = flow_lines(seen)
  local name = (options.name or "learned"):gsub("[^%w_.-]", "-"):sub(1, 64)
  local text = {
    ("-- Learned by Lattice from %s: %s to %s, %s looked up."):format(plural(seen.run_count, "run"),
      plural(seen.flow_count, "flow"), plural(places, "place"), plural(#sorted_keys(seen.lookups), "name")),
    "-- Everything was let pass. What happened to run then is what is allowed now: read it before you trust it.",
    ('policy "%s"'):format(name == "" and "learned" or name),
    'default "deny"',
  }
  append(text, flows)
  append(text, lookup_lines(seen), "Names that were only looked up.")
  append(text, unix_lines(seen), "Unix sockets outside of the sandbox.")
  return table.concat(text, "\n") .. "\n"
end

return M
