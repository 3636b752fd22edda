-- The rules that log are limited, so that a flood costs the kernel little: what their limit held back is told as lost. A
-- chain's last rule counts what came, its NFLOG rule what was told.
local M = {}

-- What a chain has held back; nil: it tells nothing.
local function held(chain)
  local told, last = nil, chain[#chain]
  for _, rule in ipairs(chain) do
    if rule.text:find("-j NFLOG", 1, true) then told = (told or 0) + rule.packets end
  end
  return told and math.max(0, last.packets - told)
end

--- Tells the events what was held back since the last look. state: kept between looks, by family. What is there at the first
--- look was told by whoever made it.
---@param state table
---@param family 4|6
---@param read table  of read.parse
---@param events { held: fun(self: table, count: integer) }
function M.tell(state, family, read, events)
  local first, before, now, count = not state[family], state[family] or {}, {}, 0
  for name, chain in pairs(read.chains) do
    local n = name:find("^LATTICE%-") and held(chain)
    if n then
      local was = before[name] or 0
      now[name] = n
      if not first then count = count + (n >= was and n - was or n) end -- fewer: it was made anew
    end
  end
  state[family] = now
  if count > 0 and events.held then events:held(count) end -- (a bench has no source)
end

return M
