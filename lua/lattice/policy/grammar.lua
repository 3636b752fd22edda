-- The rule string: one LPeg grammar, which gives words with their positions and knows what it waited for.
--
--   rule  <- [in | out] PROTO (, PROTO)* (to | from) DEST (, DEST)* [port PORT (, PORT)*] [for SUBJECT]
--   flow  <- [in | out] PROTO (to | from) DEST [at ADDRESS] [port PORT]
--   list  <- ITEM (, ITEM)*                      a field of the table form
--
-- A list of a rule comes back as one text with its position: most texts repeat, so their meaning is cached (check.lua),
-- and split() gives the words where it is not. What the words mean is not known here. Matching is in lower case; positions
-- fit the original text because folding keeps the length.
local lpeg = require("lpeg")
local suggest = require("lattice.policy.suggest")

local P, S, R, C = lpeg.P, lpeg.S, lpeg.R, lpeg.C
local Cc, Cp = lpeg.Cc, lpeg.Cp

local M = {}

local space = S(" \t\r\n")
local ws = space ^ 0
local edge = -(R("az", "09") + S("_-.*@:/"))
local function word(text) return P(text) * edge end

-- Fails, and remembers where and what was waited for; the place furthest into the text counts.
local function expect(pattern, what, near)
  return pattern + lpeg.Cmt(lpeg.Carg(1), function(_, at, state)
    if at > state.at then state.at, state.expected, state.near = at, what, near end
    return false
  end)
end

local keyword = word("to") + word("from") + word("port") + word("for") + word("at")
local item = (1 - space - P(",")) ^ 1
local proto = item - keyword

-- One or more, separated by commas: its position and its text.
local function list(one, what)
  one = expect(one, what)
  return Cp() * C(one * (ws * P(",") * ws * one) ^ 0)
end

local nothing = Cc(false)
local way_words = { "to", "from" }
local direction = C(word("in") + word("out")) * ws + nothing
local way = Cp() * C(word("to") + word("from"))
local quoted = P('"') * (1 - S('"')) ^ 1 * P('"') + P("'") * (1 - S("'")) ^ 1 * P("'")
local subject = ws * word("for") * ws * Cp()
  * expect(quoted + (1 - space - S("\"',")) ^ 1, "a sandbox name") * Cp() + nothing * nothing
local ports = ws * word("port") * ws * list(item, "a port") + nothing * nothing
local dest = item - (word("port") + word("for"))
local dest_words = "an address, a prefix, a name or any, host, mesh"

local rule = ws * direction
  * list(proto, "a protocol: tcp, udp, icmp, icmpv6, any or a number") * ws
  * expect(way, "'to' or 'from'", way_words) * ws * list(dest, dest_words) * ports * subject
  * ws * expect(P(-1), "',', 'port', 'for' or the end of the rule", { "port", "for" })

local flow_dest = item - (word("port") + word("at"))
local at_address = ws * word("at") * ws * Cp() * C(expect(item, "an address")) + nothing * nothing
local flow = ws * direction * list(proto, "a protocol") * ws
  * expect(way, "'to' or 'from'", way_words) * ws * list(flow_dest, "an address or a name") * at_address * ports
  * ws * expect(P(-1), "'port', 'at' or the end of the flow", { "port", "at" })

local items = ws * list(item, "a word") * ws * expect(P(-1), "',' or the end")

local state = {} -- of the match that runs: matches do not nest

--- The captures, or nil and, as the second value, what is wrong.
local function run(pattern, text, kind, fill)
  state.at = 0
  local folded = text:lower()
  local tree = fill(pattern:match(folded, 1, state))
  if tree then return tree end
  local found = folded:match("^[^%s,]+", state.at)
  local message
  if text:find("^%s*$") then
    message = "the " .. kind .. " is empty"
  elseif not found and state.at > #text then
    message = "the " .. kind .. " ends too early"
  else
    message = ("unexpected '%s'"):format(found or text:sub(state.at, state.at))
  end
  return nil, {
    pos = state.at, message = message, expected = state.expected,
    suggestion = found and state.near and suggest.nearest(found, state.near),
  }
end

local function fill_rule(dir, protos_pos, protos, way_pos, way_word, dests_pos, dests, ports_pos, port_text,
    subject_pos, subject_stop)
  if dir == nil then return nil end
  return {
    dir = dir, protos_pos = protos_pos, protos = protos, way_pos = way_pos, way = way_word,
    dests_pos = dests_pos, dests = dests, ports_pos = ports_pos, ports = port_text,
    subject = subject_pos, subject_stop = subject_stop,
  }
end

local function fill_flow(dir, protos_pos, protos, way_pos, way_word, dests_pos, dests, at_pos, at_text, ports_pos,
    port_text)
  if dir == nil then return nil end
  return {
    dir = dir, protos_pos = protos_pos, protos = protos, way_pos = way_pos, way = way_word,
    dests_pos = dests_pos, dests = dests, at_pos = at_pos, at = at_text, ports_pos = ports_pos,
    ports = port_text,
  }
end

local function fill_items(pos, text) return pos and { items_pos = pos, items = text } end

--- Parses a rule string (without its action). Texts are folded; lists: see split. What is not there is false.
---@param text string
---@return table? tree  { dir, protos, protos_pos, way, way_pos, dests, dests_pos, ports, ports_pos, subject }
---@return table? err  { pos, message, expected, suggestion }
function M.rule(text)
  local tree, err = run(rule, text, "rule", fill_rule)
  if tree and tree.subject then
    -- names of sandboxes keep their case
    local raw = text:sub(tree.subject, tree.subject_stop - 1)
    tree.subject = raw:match("^[\"'](.*)[\"']$") or raw
  end
  return tree, err
end

--- Parses a flow: one protocol, one far end (which the caller checks).
---@param text string
---@return table? tree  as of a rule; at, at_pos instead of a subject
---@return table? err
function M.flow(text) return run(flow, text, "flow", fill_flow) end

--- Parses a comma-separated field of the table form.
---@param text string
---@return table? tree  { items, items_pos }
---@return table? err
function M.list(text) return run(items, text, "list", fill_items) end

--- The words of a list that was parsed, each with its position.
---@param list_text string
---@param pos integer  where the list begins
---@return table[] items  { text, pos }
function M.split(list_text, pos)
  local out = {}
  for at, one in list_text:gmatch("()([^ \t\r\n,]+)") do
    out[#out + 1] = { text = one, pos = pos + at - 1 }
  end
  assert(out[1], "a list that was parsed has a word") -- an empty one would match nothing
  return out
end

return M
