-- struct lat_event (bpf/lattice_abi.h) from a table, as the kernel's programs and NFLOG give it.
local addr = require("lattice.addr")

local M = {}

local kinds = { verdict = 1, close = 2, loss = 3 }
local actions = { deny = 0, allow = 1, drop = 2, audit = 4 }
local layout = "=I8I4I4BBBBI2I2I4I4c16c16I8I8I8I8I4I4c16"
M.size = string.packsize(layout)

--- The record of an event.
---@param e? table  kind, action, dir, proto, addr, local_addr, port, sport, rule, generation, packets ...
---@return string
function M.pack(e)
  e = e or {}
  return layout:pack(e.time_ns or 1, e.generation or 1, e.rule or 0, kinds[e.kind or "verdict"] or e.kind,
    actions[e.action or "deny"] or e.action, e.dir == "in" and 1 or e.dir == nil and 0 or e.dir == "out" and 0 or e.dir,
    e.proto or 6, e.sport or 40000, e.port or 443, e.ifindex or 1, e.length or 60,
    addr.bytes(e.local_addr or "192.0.2.1"), addr.bytes(e.addr or "203.0.113.9"), e.packets or 1, e.bytes_out or 0,
    e.bytes_in or 0, e.duration_ns or 0, e.pid or 0, e.uid or 0, e.comm or "")
end

return M
