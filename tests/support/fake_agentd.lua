-- `lattice lua tests/support/fake_agentd.lua SOCKET AUDIT`: the control socket of a fake agent, for tests of the commands.
-- Standard input: "event PORT VERDICT" is one, "refuse TEXT" makes the next reload fail; its end ends the process.
package.path = "tests/support/?.lua;" .. package.path
local fake = require("fake_agent")
local uv = require("luv")

local agent = fake.new()
agent.config.audit = { { sink = "file", target = arg[2] } }
local control
function agent:down(done)
  control:close(function()
    done()
    require("lattice.loop").stop()
  end)
end

require("lattice.control.server").open(agent, { path = arg[1] }, function(server, why)
  control = assert(server, why)
  io.stdout:write("ready\n")
  io.stdout:flush()
end)

local stdin, buffer = uv.new_pipe(false), ""
stdin:open(0)
stdin:read_start(function(_, bytes)
  if not bytes then return require("lattice.loop").stop() end
  buffer = (buffer .. bytes):gsub("([^\n]*)\n", function(line)
    local port, verdict = line:match("^event (%d+) (%a+)")
    if port then
      agent:emit(fake.event({ port = math.tointeger(tonumber(port)), verdict = verdict, action = verdict }))
    end
    agent.refuse = line:match("^refuse (.+)") or agent.refuse
    return ""
  end)
end)
require("lattice.loop").run()
