-- What could stand at the end of a line: names of live tables (a variable's fields, too), the options of a word, numbers of
-- temporary rules, words of a flow. Runs inside the limited state; only raw access.
local help = require("lattice.control.repl.help")
local json = require("lattice.json")

local M = {}

local MOST = 200
local keywords = { "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in",
  "local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while" }

local function starting(list, prefix)
  local found = {}
  for _, name in ipairs(list) do
    if name:sub(1, #prefix) == prefix then found[#found + 1] = name end
  end
  table.sort(found)
  return table.move(found, 1, math.min(#found, MOST), 1, {})
end

local function field_names(value, prefix, methods)
  local list = {}
  if type(value) == "string" then value = string end
  if type(value) ~= "table" then return list end
  for key, one in next, value do
    if type(key) == "string" and key:match("^[%a_][%w_]*$") and (not methods or type(one) == "function") then
      list[#list + 1] = key
    end
  end
  return starting(list, prefix)
end

-- a.b.c<prefix>: the value before the last dot or colon.
local function by_path(env, line)
  local path, mark, prefix = line:match("([%a_][%w_%.]*)([%.:])([%w_]*)$")
  if path then
    local value = env
    for name in path:gmatch("[^%.]+") do
      if type(value) ~= "table" then return {}, prefix end
      value = rawget(value, name)
    end
    return field_names(value, prefix, mark == ":"), prefix
  end
  prefix = line:match("[%a_][%w_]*$") or ""
  local list = field_names(env, prefix)
  if prefix ~= "" then
    for _, word in ipairs(starting(keywords, prefix)) do list[#list + 1] = word end
  end
  return list, prefix
end

local function ask(session, name)
  local text = session.call(name, "{}")
  return text and json.decode(text) or {}
end

-- remove(<here>: the numbers of temporary rules.
local function by_argument(session, line)
  local word, prefix = line:match("([%a_]+)%s*%(%s*(%d*)$")
  if word ~= "remove" then return nil end
  local list = {}
  for _, rule in ipairs(ask(session, "temporary")) do list[#list + 1] = tostring(rule.id) end
  return starting(list, prefix), prefix
end

-- watch { ver<here>, allow("...", { <here>: the options of the word.
local function by_option(line)
  local word, inner = line:match("([%a_]+)%s*%(?[^%(%){}]*{([^{}]*)$")
  local entry = word and help.words[word]
  if not (entry and entry[3]) then return nil end
  local prefix = inner:match("^%s*([%a_]*)$") or inner:match(",%s*([%a_]*)$")
  if not prefix then return nil end
  local list = starting(entry[3], prefix)
  for i, name in ipairs(list) do list[i] = name .. " = " end
  return list, prefix
end

local following = {
  explain = { "tcp to ", "udp to ", "icmp to ", "icmpv6 to ", "in tcp from ", "in udp from " },
  allow = { "tcp to ", "udp to ", "icmp to ", "any to ", "in tcp from ", "in udp from " },
}
following.deny, following.drop = following.allow, following.allow

-- explain "tcp to 10.<here>: addresses that are in the flow table, and of the peers.
local function by_flow(session, line)
  local word, text = line:match("([%a_]+)%s*%(?%s*[\"']([^\"']*)$")
  local first = word and following[word]
  if not first then return nil end
  if not text:find(" ") or text:match("^in %a*$") then return starting(first, text), text end
  local prefix = text:match("%f[%a]to ([%x:%.]*)$") or text:match("%f[%a]from ([%x:%.]*)$")
  if not prefix then return {}, "" end
  local seen, list = {}, {}
  local function add(addr)
    if addr and not seen[addr] then
      seen[addr] = true
      list[#list + 1] = addr
    end
  end
  for _, one in ipairs(ask(session, "flows")) do add(one.addr) end
  for _, peer in ipairs(ask(session, "peers")) do
    for _, allowed in ipairs(type(peer.allowed) == "table" and peer.allowed or {}) do add((allowed:gsub("/.*", ""))) end
  end
  return starting(list, prefix), prefix
end

--- Candidates for the end of the line; `prefix` is what they replace.
---@param session table
---@param text string
---@return { candidates: string[], prefix: string }
function M.list(session, text)
  local list, prefix = by_argument(session, text)
  if not list then list, prefix = by_option(text) end
  if not list then list, prefix = by_flow(session, text) end
  if not list then list, prefix = by_path(session.env, text) end
  return { candidates = json.array(list), prefix = prefix }
end

return M
