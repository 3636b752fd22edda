-- Addresses, MTU and routes of a device: what the config says, and nothing else that we would have made.
local addr = require("lattice.addr")

local M = {}

M.MTU = 1420 -- of a WireGuard device that says none: 1500 less what WireGuard adds over IPv6
local STATIC = 4 -- the routes that we make (RTPROT_STATIC); the kernel's own have 2

local function set(list)
  local members = {}
  for _, one in ipairs(list) do members[one] = true end
  return members
end

--- An address as the kernel shows it: "10.42.0.1/24"; one without a length gets its family's.
local function full(text)
  local host, len = text:match("^(.-)/(%d+)$")
  local parsed, family = addr.parse(host or text)
  return ("%s/%d"):format(parsed, len or (family == 4 and 32 or 128))
end

--- Gives the device the addresses and the MTU of its config, and takes others away (not link-local ones: those are the
--- kernel's).
---@param links lattice.link.Links
---@param device lattice.agent.Device
---@return true?, string? error, string? code
function M.addresses(links, device)
  local list, err, code = links:addresses(device.name)
  if not list then return nil, err, code end
  local wanted, there = {}, {}
  for _, text in ipairs(device.address) do wanted[#wanted + 1] = full(text) end
  local keep = set(wanted)
  for _, one in ipairs(list) do there[one.address] = one end
  for _, text in ipairs(wanted) do
    if not there[text] then
      local ok, why, what = links:address_add(device.name, text)
      if not ok and what ~= "EEXIST" then return nil, why, what end
    end
  end
  for text in pairs(there) do
    if not keep[text] and not text:lower():match("^fe[89ab]") then
      local ok, why, what = links:address_delete(device.name, text)
      if not ok and what ~= "EADDRNOTAVAIL" then return nil, why, what end
    end
  end
  local mtu = device.mtu or (device.kind == "wireguard" and M.MTU)
  if mtu then return links:set(device.name, { mtu = mtu }) end
  return true
end

--- The routes that the peers' allowed addresses need: not those inside of the device's own networks, and never a default
--- route, which would catch WireGuard's own packets; second result: those that were left out for that.
---@param device lattice.agent.Device
---@return string[] routes, string[] left_out
function M.wanted_routes(device)
  local own, routes, left_out, seen = {}, {}, {}, {}
  for _, text in ipairs(device.address) do
    local host, len = full(text):match("^(.-)/(%d+)$")
    own[#own + 1] = { host = host, family = host:find(":") and 6 or 4, len = math.tointeger(tonumber(len)) }
  end
  local function inside(prefix, parsed)
    for _, network in ipairs(own) do
      local bits = network.family == parsed.family and network.len <= parsed.len
      if bits and addr.contains(M.network(network), parsed.addr) then return true end
    end
    return false
  end
  for _, peer in ipairs(device.wireguard and device.wireguard.peers or {}) do
    for _, prefix in ipairs(peer.allowed) do
      local parsed = assert(addr.prefix(prefix))
      local text = ("%s/%d"):format(parsed.addr, parsed.len)
      if parsed.len == 0 then
        left_out[#left_out + 1] = text
      elseif not seen[text] and not inside(prefix, parsed) then
        seen[text] = true
        routes[#routes + 1] = text
      end
    end
  end
  return routes, left_out
end

--- The prefix of a network that an address stands in: the host bits cleared.
function M.network(one)
  local bytes = addr.bytes(one.host)
  if one.family == 4 then bytes = bytes:sub(13) end
  local cleared = {}
  for i = 1, #bytes do
    local bits = math.max(0, math.min(8, one.len - (i - 1) * 8))
    cleared[i] = string.char(bytes:byte(i) & (0xff << (8 - bits)) & 0xff)
  end
  return ("%s/%d"):format(addr.format(table.concat(cleared)), one.len)
end

--- Makes the routes and removes stale ones that we made. The device is up: the kernel takes none before.
---@param links lattice.link.Links
---@param device lattice.agent.Device
---@param log fun(level: string, text: string)
---@return true?, string? error, string? code
function M.routes(links, device, log)
  local wanted, left_out = M.wanted_routes(device)
  local keep, there = set(wanted), {}
  local list, err, code = links:routes(device.name)
  if not list then return nil, err, code end
  for _, route in ipairs(list) do
    if route.protocol == STATIC and route.table == 254 and not route.via then there[route.to] = true end
  end
  for _, to in ipairs(wanted) do
    if not there[to] then
      local ok, why, what = links:route_add { to = to, dev = device.name, protocol = STATIC }
      if not ok then
        if what == "EEXIST" then why = ("there is a route to %s already, over another device"):format(to) end
        return nil, why, what
      end
    end
  end
  for to in pairs(there) do
    if not keep[to] then links:route_delete { to = to, dev = device.name, protocol = STATIC } end
  end
  if #left_out > 0 then
    log("warn", ("device '%s': no route is made for %s: add what it should carry yourself")
      :format(device.name, table.concat(left_out, ", ")))
  end
  return true
end

return M
