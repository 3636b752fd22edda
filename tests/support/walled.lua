-- An agent in a world's host that walls the runs of an ordinary user (uid 65534), and such runs.
local World = require("world")

local Walled = {}

--- Starts the agent with one policy that the user may run by. Returns what run() takes.
---@param world table
---@param policy string
function Walled.start(world, policy)
  local self = { world = world, socket = world.dir .. "/run/control.sock", count = 0 }
  assert(require("luv").fs_mkdir(world.dir .. "/run", tonumber("755", 8)))
  self.policy = world:file("walled.lua", policy)
  world:file("open.lua", 'default "allow"')
  local config = world:file("lattice.lua", ([[
device "v0" { kind = "existing" }
policy "open.lua"
enforcer "ebpf"
control "%s"
pins "%s/pins"
audit { to = file "%s/agent.jsonl" }
runs { { user = 65534, policies = { "walled.lua" }, most = 4 } }
]]):format(self.socket, world.dir, world.dir))
  self.agent = world:start("host", { (World.lattice_path:gsub("[^/]*$", "latticed")), "--config", config, "-v" },
    { mode = "kernel" })
  self.agent:expect(function() return self.agent.err:find("guarding", 1, true) end, 20000)
  return self
end

--- Ends the agent.
function Walled.stop(self)
  self.agent:kill("sigterm")
  self.agent:wait(20000)
end

--- Runs a command behind the agent's wall; returns the process with .audit, as World:under does.
function Walled.run(self, command, opts)
  self.count = self.count + 1
  local audit = ("%s/walled%d.jsonl"):format(self.world.home, self.count)
  local argv = { "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", World.lattice_path, "--socket",
    self.socket, "run", "--mode", "kernel", "--policy", self.policy, "--audit", audit, "-q", "--" }
  table.move(command, 1, #command, #argv + 1, argv)
  opts.mode, opts.cwd = "kernel", self.world.home
  local p = self.world:run("host", argv, opts)
  p.audit = World.records(audit)
  return p
end

return Walled
