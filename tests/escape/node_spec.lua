-- Packets as a stack would not make them, against a guarded device: extension headers, options, fragments, tunnels, odd TCP
-- flags, tags, errors about nothing. Each attack gets through without Lattice, by what the receiver's stack delivers; with
-- it none does, in either direction, under both enforcers.
package.path = "tests/support/?.lua;" .. package.path
local Agents = require("agents")

local missing = Agents.missing() or not Agents.has("python3") and "python3 is not installed" or nil

local policy = [[
default "deny"
allow "udp to 203.0.113.2, 2001:db8::2 port 53"
allow "tcp to 203.0.113.2, 2001:db8::2 port 80"
allow "in udp from 203.0.113.2, 2001:db8::2 port 53"
]]

local LEAST = 70 -- attacks that work without Lattice

local function suite(enforcer)
  local nodes

  setup(function() nodes = Agents.new() end)
  teardown(function() nodes:close() end)
  after_each(function()
    if nodes.agent and not nodes.agent.status then nodes:down() end
  end)

  local function attacks(...)
    local p = nodes:run("node", { "python3", Agents.root .. "/tests/support/attacks.py", nodes.node, nodes.peer, ... })
    assert.equal(0, p.status, p.err)
    local list = {}
    for name in p.out:gmatch("[^\n]+") do list[#list + 1] = name end
    return list
  end

  -- conntrack joins fragments before a rule sees them, so that this one looks like one that is always let pass; it is no
  -- longer than such a one may be, and stacks ignore it (RFC 6980)
  local joined = enforcer == "iptables" and { "six, neighbour discovery in fragments" } or {}

  local function hold(...)
    local before = attacks(...)
    assert.is_true(#before >= LEAST, #before .. " attacks work without the agent")
    nodes:configure({ policy = policy, enforcer = enforcer })
    nodes:up()
    assert.same(joined, attacks(...))
    nodes:down()
    assert.equal(#before, #attacks(...))
  end

  it("lets no packet in that no rule allows, however it is made", function() hold("in") end)
  it("lets no packet out that no rule allows, however a raw socket makes it", function() hold("out", "raw") end)

  if enforcer == "ebpf" then
    it("lets no frame of a packet socket out that no rule allows", function() hold("out", "frames") end)

    it("takes no directory of pins in which others may write", function()
      nodes:configure({ policy = policy, enforcer = enforcer })
      local pins = nodes.dir .. "/pins"
      local own = ("%s/%s-eth0"):format(pins, nodes:sh("node", "stat -Lc %i /proc/self/ns/net"):match("%d+"))
      local function mounted(options, more)
        nodes.sh_here(("umount %s 2>/dev/null || true; mkdir -p %s; mount -t bpf -o %s lattice-test %s; "):format(pins, pins,
          options, pins) .. (more or ""):gsub("OWN", own))
      end
      for _, made in ipairs({ "chown 12345", "chmod 0777", "chmod 0770" }) do
        mounted("mode=0777", ("mkdir OWN; %s OWN"):format(made))
        local p = nodes:latticed({ "--config", nodes.config }):wait(20000)
        assert.is_true(p.status ~= 0, made)
        assert.truthy(p.err:find("others may write in", 1, true), p.err)
      end
      mounted("mode=0777")
      nodes:up()
      nodes:down()
      nodes.sh_here("umount " .. pins)
    end)
  end
end

describe("raw packets against a node", function()
  if missing then return pending("all of it", missing) end
  for _, enforcer in ipairs({ "iptables", "ebpf" }) do
    local able, why = Agents.able(enforcer)
    describe("with " .. enforcer, function()
      if not able then return pending("all of it", why) end
      suite(enforcer)
    end)
  end
end)
