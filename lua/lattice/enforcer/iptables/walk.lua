-- What rules that were read back (read.lua) do with the first packet of a flow: the chains are walked as the kernel
-- walks them, rule by rule. A word that is not known here is an error, not a guess.
local addr = require("lattice.policy.addr")

local M = {}

local protos = { icmp = 1, tcp = 6, udp = 17, ["ipv6-icmp"] = 58, icmpv6 = 58, all = 255 }

-- iptables-save writes names of /etc/protocols.
local function protocol(word)
  local number = math.tointeger(tonumber(word)) or protos[word]
  if number then return number end
  local f = io.open("/etc/protocols")
  if f then
    for line in f:lines() do
      local name, value = line:match("^([^#%s]+)%s+(%d+)")
      if name then protos[name] = protos[name] or math.tointeger(value) end
    end
    f:close()
  end
  return protos[word]
end

local function prefix(word)
  local text, len = word:match("^([^/]+)/(%d+)$")
  local family, hi, lo = addr.parse(text or word)
  if not family then return nil end
  len = math.tointeger(len) or (family == 4 and 32 or 128)
  local mask_hi, mask_lo = addr.mask(family, len)
  return function(p)
    return p.family == family and p.hi & mask_hi == hi & mask_hi and p.lo & mask_lo == lo & mask_lo
  end
end

local function range(word)
  local from, to = word:match("^(%d+):?(%d*)$")
  from = math.tointeger(from)
  return from and from, from and (math.tointeger(to) or word:find(":") and 65535 or from)
end

local function port_list(words)
  local list = {}
  for word in words:gmatch("[^,]+") do
    local from, to = range(word)
    if not from then return nil end
    list[#list + 1] = { from, to }
  end
  return list
end

local function in_list(port, list)
  for _, r in ipairs(list) do
    if port >= r[1] and port <= r[2] then return true end
  end
  return false
end

-- The conditions of the first packet of a flow: it is new, in its own direction, without a mark of ours but what the
-- walk itself sets. Each takes (value, packet) and says whether it matches; absent: always.
local function never() return false end

local conditions = {
  ["-s"] = function(v)
    local within = prefix(v)
    return within and function(p) return p.dir == "in" and within(p) end -- ours match only the remote end
  end,
  ["-d"] = function(v)
    local within = prefix(v)
    return within and function(p) return p.dir == "out" and within(p) end
  end,
  ["-p"] = function(v)
    local number = protocol(v)
    return number and function(p) return number == 255 or p.proto == number end
  end,
  ["--dport"] = function(v)
    local list = port_list(v)
    return list and function(p) return in_list(p.port, list) end
  end,
  ["--sport"] = function() return never end,
  ["--sports"] = function() return never end,
  ["--ctstate"] = function(v) return function() return v:find("NEW", 1, true) ~= nil end end,
  ["--ctdir"] = function(v) return function() return v == "ORIGINAL" end end,
  ["--ctstatus"] = function() return never end,
  ["--mark"] = function(v)
    local value, mask = v:match("^(0x%x+)/(0x%x+)$")
    value, mask = tonumber(value or v), tonumber(mask or "0xffffffff")
    return value and function(p) return p.mark & mask == value end
  end,
  ["--tcp-flags"] = function() return never end,
  ["--icmp-type"] = function() return never end,     -- ours name errors and neighbour discovery only
  ["--icmpv6-type"] = function() return never end,
  ["--hl-eq"] = function() return never end,
  ["--comment"] = function() return function() return true end end,
  ["--limit"] = function() return function() return true end end,
  ["--limit-burst"] = function() return function() return true end end,
  ["--hashlimit-above"] = function() return never end,
  ["--hashlimit-burst"] = function() return function() return true end end,
  ["--hashlimit-name"] = function() return function() return true end end,
  ["--u32"] = function(v) return v == "0x6&0xff=0x0" and function(p) return p.proto == 0 end end,
}
conditions["--dports"] = conditions["--dport"]
conditions["--hashlimit-upto"] = conditions["--limit"]
local options = { ["--set-xmark"] = 1, ["--nflog-prefix"] = 1, ["--nflog-group"] = 1, ["--nflog-size"] = 1,
  ["--reject-with"] = 1, ["--hashlimit-mode"] = 1, ["--hashlimit-htable-expire"] = 1 }

local function words_of(text)
  local out, i = {}, 1
  local rest = text
  while rest ~= "" do
    local word, after = rest:match('^"([^"]*)"%s*(.*)$')
    if not word then word, after = rest:match("^(%S+)%s*(.*)$") end
    out[i], rest, i = word, after, i + 1
  end
  return out
end

local function compile(text)
  local rule = { tests = {}, verb = nil, target = nil, values = {} }
  local words, i, inverted = words_of(text), 1, false
  while words[i] do
    local word, value = words[i], words[i + 1]
    local make = conditions[word]
    if word == "!" then
      inverted, i = true, i + 1
    elseif word == "-m" then
      i = i + 2
    elseif word == "-j" or word == "-g" then
      rule.verb, rule.target, i = word, value, i + 2
    elseif make then
      local test = make(value)
      if not test then return nil, word .. " " .. tostring(value) end
      rule.tests[#rule.tests + 1] = inverted and function(p) return not test(p) end or test
      inverted, i = false, i + (word == "--tcp-flags" and 3 or 2)
    elseif options[word] then
      rule.values[word], i = value, i + 2
    else
      return nil, word
    end
  end
  return rule
end

local function matches(rule, packet)
  for _, test in ipairs(rule.tests) do
    if not test(packet) then return false end
  end
  return true
end

local function set_mark(packet, words)
  local value, mask = words:match("^(0x%x+)/(0x%x+)$")
  packet.mark = packet.mark & ~tonumber(mask) | tonumber(value)
end

--- What happens to the first packet of a flow: { passed, rule (nil: none of ours), temporary (its id), action, steps }.
---@param read table  of read.parse
---@param flow lattice.agent.Flow
---@return table? outcome
---@return string? error
function M.flow(read, flow)
  local packet = { dir = flow.dir, proto = flow.proto, port = flow.port or 0, mark = 0 }
  packet.family, packet.hi, packet.lo = addr.parse_flat(flow.addr)
  local outcome = { steps = 0 }

  -- "return" or a final verdict
  local function run(name)
    while true do
      local id = name:match("^LATTICE%-R(%d+)$") or name:match("^LATTICE%-R(0)%-[OI]$")
      if id then outcome.rule = math.tointeger(id) end
      outcome.temporary = math.tointeger(name:match("^LATTICE%-TEMP%-R(%d+)$")) or outcome.temporary
      local go
      for i, line in ipairs(read.chains[name] or {}) do
        local rule = line.rule
        if not rule then
          local why
          rule, why = compile(line.text)
          if not rule then error({ ("%s, rule %d: %s is not known here"):format(name, i, why) }, 0) end
          line.rule = rule
        end
        outcome.steps = outcome.steps + 1
        if matches(rule, packet) then
          local target = rule.target
          if target == "NFLOG" then
            outcome.action = (rule.values["--nflog-prefix"] or ""):match("^lattice:%d+:%d+:(%a+):") or outcome.action
          elseif target == "CONNMARK" then
            set_mark(packet, rule.values["--set-xmark"])
          elseif target == "RETURN" then
            return "return"
          elseif target == "DROP" or target == "REJECT" then
            outcome.refused = target
            return "refused"
          elseif target == "ACCEPT" then
            return "return"
          elseif target and rule.verb == "-g" then
            go = target
            break
          elseif target then
            if run(target) == "refused" then return "refused" end
          end
        end
      end
      if not go then return "return" end
      name = go
    end
  end

  local ok, result = pcall(run, flow.dir == "in" and "LATTICE-IN" or "LATTICE-OUT")
  if not ok then
    if type(result) == "table" then return nil, result[1] end
    error(result, 0)
  end
  outcome.passed = result ~= "refused"
  outcome.action = outcome.action or (outcome.passed and "allow" or outcome.refused == "DROP" and "drop" or "deny")
  return outcome
end

return M
