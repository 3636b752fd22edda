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
local Cg, Ct, Cp = lpeg.Cg, lpeg.Ct, lpeg.Cp

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

-- One or more, separated by commas, as the fields NAME (text) and NAME_pos.
local function list(name, one, what)
  one = expect(one, what)
  return Cg(Cp(), name .. "_pos") * Cg(C(one * (ws * P(",") * ws * one) ^ 0), name)
end

local way_words = { "to", "from" }
local direction = Cg(Cp(), "dir_pos") * Cg(C(word("in") + word("out")), "dir") * ws
local way = Cg(Cp(), "way_pos") * Cg(C(word("to") + word("from")), "way")
local quoted = P('"') * C((1 - S('"')) ^ 1) * P('"') + P("'") * C((1 - S("'")) ^ 1) * P("'")
local subject = word("for") * ws
  * Cg(Ct(Cg(Cp(), "pos") * expect(quoted + C((1 - space - S("\"',")) ^ 1), "a sandbox name")
    * Cg(Cp(), "stop")), "subject")
local port_list = word("port") * ws * list("ports", item, "a port")
local dest = item - (word("port") + word("for"))
local dest_words = "an address, a prefix, a name or any, host, mesh"

local rule = Ct(ws * direction ^ -1
  * list("protos", proto, "a protocol: tcp, udp, icmp, icmpv6, any or a number") * ws
  * expect(way, "'to' or 'from'", way_words) * ws * list("dests", dest, dest_words)
  * (ws * port_list) ^ -1 * (ws * subject) ^ -1
  * ws * expect(P(-1), "',', 'port', 'for' or the end of the rule", { "port", "for" }))

local flow_dest = item - (word("port") + word("at"))
local flow = Ct(ws * direction ^ -1 * list("protos", proto, "a protocol") * ws
  * expect(way, "'to' or 'from'", way_words) * ws
  * list("dests", flow_dest, "an address or a name")
  * (ws * word("at") * ws * Cg(Cp(), "at_pos") * Cg(C(expect(item, "an address")), "at")) ^ -1
  * (ws * port_list) ^ -1
  * ws * expect(P(-1), "'port', 'at' or the end of the flow", { "port", "at" }))

local items = Ct(ws * list("items", item, "a word") * ws * expect(P(-1), "',' or the end"))

local function run(pattern, text, kind)
  local state = { at = 0 }
  local folded = text:lower()
  local tree = pattern:match(folded, 1, state)
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

--- Parses a rule string (without its action). Texts are folded; lists: see split.
---@param text string
---@return table? tree  { dir?, protos, protos_pos, way, way_pos, dests, dests_pos, ports?, ports_pos?, subject? }
---@return table? err  { pos, message, expected, suggestion }
function M.rule(text)
  local tree, err = run(rule, text, "rule")
  if tree and tree.subject then
    -- names of sandboxes keep their case
    local raw = text:sub(tree.subject.pos, tree.subject.stop - 1)
    tree.subject = { pos = tree.subject.pos, text = raw:match("^[\"'](.*)[\"']$") or raw }
  end
  return tree, err
end

--- Parses a flow: one protocol, one far end (which the caller checks).
---@param text string
---@return table? tree  as of a rule; at?, at_pos? instead of a subject
---@return table? err
function M.flow(text) return run(flow, text, "flow") end

--- Parses a comma-separated field of the table form.
---@param text string
---@return table? tree  { items, items_pos }
---@return table? err
function M.list(text) return run(items, text, "list") end

--- The words of a list that was parsed, each with its position.
---@param list_text string
---@param pos integer  where the list begins
---@return table[] items  { text, pos }
function M.split(list_text, pos)
  local out = {}
  for at, one in list_text:gmatch("()([^%s,]+)") do
    out[#out + 1] = { text = one, pos = pos + at - 1 }
  end
  return out
end

return M
