-- Drives tests/support/iptables_node.lua: the iptables enforcer by itself in a node's namespace.
local Nodes = require("nodes")

local Steps = {}
Steps.__index = Steps

--- Starts it. devices: a list of names.
function Steps.new(nodes, backend, devices, opts)
  opts = opts or {}
  local p = nodes:start(opts.where or "node", { Nodes.lattice_path, "lua", Nodes.root .. "/tests/support/iptables_node.lua",
    backend, table.unpack(devices) }, { stdin = "open", env = opts.env })
  p:expect("ready")
  return setmetatable({ nodes = nodes, process = p, backend = backend }, Steps)
end

--- One command; its answer, or nil and the text of the refusal.
function Steps:try(line)
  local p = self.process
  if p.status then error(("the node's process ended: %s%s"):format(p.out, p.err), 2) end -- a write would end us, too
  local from = #p.out
  p:write(line .. "\n")
  local text = p:expect(function()
    local answer = p.out:sub(from + 1)
    return (("\n" .. answer):match("\nok ?[^\n]*\n$") or ("\n" .. answer):match("\nno [^\n]*\n$")) and answer
  end, 60000)
  local refusal = ("\n" .. text):match("\nno ([^\n]*)\n$")
  if refusal then return nil, refusal end
  return text
end

function Steps:ask(line)
  local text, why = self:try(line)
  if not text then error(line .. ": " .. why, 2) end
  return text
end

--- Puts a policy's text in force as a generation.
function Steps:apply(number, text)
  return self:ask(("apply %d %s"):format(number, self.nodes:file(("p%d.lua"):format(number), text)))
end

--- What iptables-save says of both families, without counters and dates.
function Steps:saved(where)
  local text = self.nodes:sh(where or "node", ("iptables-%s-save; ip6tables-%s-save"):format(self.backend, self.backend))
  return (text:gsub("#[^\n]*\n", ""):gsub("%[%d+:%d+%]", "[]"))
end

function Steps:stop()
  if not self.process.status then self.process:kill("sigkill") end
end

return Steps
