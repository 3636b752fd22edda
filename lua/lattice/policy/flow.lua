-- A flow as text: "tcp to 10.0.0.7 port 5432", "in udp from 2001:db8::1 port 53", "tcp to api.example.com port 443",
-- and "tcp to api.example.com at 10.0.0.7 port 443" for a name that was answered with an address.
local addr = require("lattice.policy.addr")
local grammar = require("lattice.policy.grammar")
local names = require("lattice.policy.names")
local terms = require("lattice.policy.terms")

local M = {}

local function fail(item, message, expected)
  return nil, { pos = item.pos, message = message, expected = expected }
end

local function one_address(item)
  local family, hi, lo = addr.parse_flat(item.text)
  if family then return addr.format(family, hi, lo) end
  return nil
end

local function remote(tree, flow)
  local item, more = table.unpack(grammar.split(tree.dests, tree.dests_pos))
  if more then return fail(more, "a flow has one far end") end
  local at_item = tree.at and { text = tree.at, pos = tree.at_pos }
  flow.addr = one_address(item)
  if flow.addr and at_item then return fail(at_item, "'at' follows a name") end
  if flow.addr then return flow end
  local name, message, at = names.normalize(item.text)
  if not name or item.text:find("[/:]") or item.text == "any" then
    return fail({ pos = item.pos + (name and 0 or at - 1) },
      name and ("'%s' is not one address or name"):format(item.text)
      or ("'%s': %s"):format(item.text, message), "an address or a name")
  end
  flow.names = { name }
  if at_item then
    flow.addr = one_address(at_item)
    if not flow.addr then return fail(at_item, "not an IP address") end
  end
  return flow
end

--- Parses the text of a flow.
---@param text string
---@return table? flow  { dir, proto, addr?, port?, names? }
---@return table? problem  { pos, message, expected?, suggestion? }
function M.parse(text)
  local tree, err = grammar.flow(text)
  if not tree then return nil, err end
  local dir = tree.dir or "out"
  if (dir == "in") ~= (tree.way == "from") then
    return fail({ pos = tree.way_pos }, "a flow goes out 'to', or comes 'in ... from'")
  end
  local first, second = table.unpack(grammar.split(tree.protos, tree.protos_pos))
  if second then return fail(second, "a flow has one protocol") end
  local proto, message, expected, suggestion = terms.proto(first.text)
  if not proto or proto == "any" then
    return nil, {
      pos = first.pos, message = message or "a flow has one protocol",
      expected = expected or "such as tcp", suggestion = suggestion,
    }
  end
  local flow = { dir = dir, proto = proto }
  local good, problem = remote(tree, flow)
  if not good then return nil, problem end
  if tree.ports then
    local item, more = table.unpack(grammar.split(tree.ports, tree.ports_pos))
    if not terms.with_ports[proto] then return fail(item, "this protocol has no ports") end
    local lo, hi, why, want, near = terms.port(item.text)
    if not lo then
      return nil, { pos = item.pos, message = why, expected = want, suggestion = near }
    elseif lo ~= hi or more then
      return fail(more or item, "a flow has one port")
    end
    flow.port = lo
  elseif terms.with_ports[proto] then
    return fail({ pos = #text + 1 }, "the flow has no port", "port NUMBER")
  end
  return flow
end

return M
