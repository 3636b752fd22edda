-- What iptables-save says, as chains: whose they are, where they are hooked, their counters.
local M = {}

--- Chains of the policy enforcer; nat.lua has its own.
---@param name string
---@return boolean
function M.own(name)
  local rest = name:match("^LATTICE%-(.+)$")
  return rest ~= nil and (rest == "IN" or rest == "OUT" or rest == "DENY" or rest == "DROP"
    or rest:find("^TEMP%-") ~= nil or rest:find("^[OIRN]R?%d") ~= nil)
end

--- Reads the text of `iptables-save -c` of one table. tick: called now and then.
---@param text string
---@param tick? fun()
---@return { names: string[], chains: table<string, table>, policies: table<string, string> } rules
--- chains[name]: { text (without -A NAME), packets, bytes }
function M.parse(text, tick)
  local read, count = { names = {}, chains = {}, policies = {} }, 0
  for line in text:gmatch("[^\n]+") do
    count = count + 1
    if tick and count % 500 == 0 then tick() end
    local first = line:byte(1)
    if first == 58 then -- ":NAME POLICY [0:0]"
      local name, policy = line:match("^:(%S+) (%S+)")
      read.names[#read.names + 1], read.chains[name] = name, {}
      if policy ~= "-" then read.policies[name] = policy end
    elseif first == 91 then -- "[1:2] -A NAME ..."
      local packets, bytes, name, rest = line:match("^%[(%d+):(%d+)%] %-A (%S+) ?(.*)$")
      local chain = name and read.chains[name]
      if chain then
        chain[#chain + 1] = { text = rest, packets = math.tointeger(packets), bytes = math.tointeger(bytes) }
      end
    end
  end
  return read
end

--- The generation in force and its mark, by the comment at the head of LATTICE-OUT; nil: none.
---@return integer? generation, integer? mark
function M.generation(read)
  local head = read.chains["LATTICE-OUT"] and read.chains["LATTICE-OUT"][1]
  local number, mark = (head and head.text or ""):match("lattice generation (%d+) mark (%d+)")
  return math.tointeger(number), math.tointeger(mark)
end

--- The names of the chains that are ours.
function M.ours(read, is_own)
  local list = {}
  for _, name in ipairs(read.names) do
    if (is_own or M.own)(name) then list[#list + 1] = name end
  end
  return list
end

--- The lines that make hooks right: `wanted` first in their chain, in order, once, and none else that leads to `targets`.
--- Nothing when it is so already.
---@param read table
---@param wanted table<string, string[]>  by chain: rules, as iptables-save writes them
---@param targets table<string, boolean>
---@param after? table<string, boolean>  targets of hooks that stay before ours
---@return string[] lines
function M.hooks(read, wanted, targets, after)
  local lines = {}
  for _, chain in ipairs(read.names) do
    if wanted[chain] then
      local want, right, at, skip, there = wanted[chain], true, 0, 0, {}
      for i, rule in ipairs(read.chains[chain]) do
        local target = rule.text:match("%-[jg] (%S+)$")
        if after and after[target] and i == skip + 1 and at == 0 then
          skip = i
        elseif targets[target] then
          at = at + 1
          there[#there + 1] = rule.text
          right = right and want[at] == rule.text and i == skip + at
        end
      end
      if not right or at ~= #want then
        for _, text in ipairs(there) do lines[#lines + 1] = "-D " .. chain .. " " .. text end
        for i, text in ipairs(want) do lines[#lines + 1] = ("-I %s %d %s"):format(chain, skip + i, text) end
      end
    end
  end
  return lines
end

--- Packets and bytes by rule; temporary rules by their number in events.
function M.counters(read, temporary, counts)
  for name, chain in pairs(read.chains) do
    local rule = math.tointeger(name:match("^LATTICE%-R(%d+)$") or name:match("^LATTICE%-R(%d+)%-[OI]$"))
    local id = not rule and math.tointeger(name:match("^LATTICE%-TEMP%-R(%d+)$"))
    local last = chain[#chain]
    if (rule or id) and last then
      local key = rule or temporary | id
      local sum = counts[key] or { packets = 0, bytes = 0 }
      counts[key] = { packets = sum.packets + last.packets, bytes = sum.bytes + last.bytes }
    end
  end
  return counts
end

return M
