-- The same rules in the words of everybody whom the node bench compares: N - 2 that match nothing of the bench, in places of
-- their own (a /24, a /28 or a /32 each, one port), and last the two that its traffic matches.
local M = { tcp = 7779, udp = 7780, denied = 7781, client = "198.51.100.1", server = "198.51.100.2" }

---@param n integer
---@param shift? integer  other ports for the fillers
---@return { [1]: string, [2]: string, [3]: integer }[]  prefix, protocol, port
local function list(n, shift)
  local rules = {}
  for i = 0, n - 3 do
    local lengths = { ".0/24", ".16/28", ".7/32" }
    rules[#rules + 1] = { ("%d.%d.%d%s"):format(20 + (i >> 16), i >> 8 & 255, i & 255, lengths[i % 3 + 1]),
      i & 1 == 0 and "tcp" or "udp", 1024 + (i * 7919 + (shift or 0)) % 60000 }
  end
  rules[#rules + 1] = { M.client .. "/32", "tcp", M.tcp }
  rules[#rules + 1] = { M.client .. "/32", "udp", M.udp }
  return rules
end

local function lines(head, n, shift, line, tail)
  local text = { head }
  for _, r in ipairs(list(n, shift)) do text[#text + 1] = line:format(table.unpack(r)) end
  text[#text + 1] = tail
  return table.concat(text, "\n") .. "\n"
end

function M.policy(n, shift)
  local text = { 'policy "bench"', 'default "drop"' }
  for _, r in ipairs(list(n, shift)) do text[#text + 1] = ('allow "in %s from %s port %d"'):format(r[2], r[1], r[3]) end
  return table.concat(text, "\n") .. "\n"
end

function M.iptables(n)
  return lines("*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]", n, 0,
    "-A INPUT -s %s -p %s --dport %d -j ACCEPT", "COMMIT")
end

function M.nft(n)
  local elements = {}
  for _, r in ipairs(list(n)) do elements[#elements + 1] = ("%s . %s . %d"):format(table.unpack(r)) end
  return ([[
table ip bench {
  set allowed { type ipv4_addr . inet_proto . inet_service; flags interval; elements = { %s } }
  chain input {
    type filter hook input priority 0; policy drop
    ip saddr . meta l4proto . th dport @allowed accept
  }
}
]]):format(table.concat(elements, ",\n"))
end

function M.ipset(n)
  return lines(("create allowed hash:net,port maxelem %d hashsize %d"):format(math.max(65536, 2 * n),
    math.max(1024, n // 2)), n, 0, "add allowed %s,%s:%d", "")
end

return M
