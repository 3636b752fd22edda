-- Events of a real agent, under both enforcers: each refusal is in the audit with the rule that decided it, a flood is told
-- or counted as lost, and what a handler does wrong hurts nobody.
package.path = "tests/support/?.lua;" .. package.path
local Agents = require("agents")
local json = require("dkjson")
local uv = require("luv")

local missing = Agents.missing() or not Agents.has("python3") and "python3 is not installed" or nil

local POLICY = [[
policy "node"
allow "tcp to 203.0.113.2 port 80"
deny { proto = "udp", to = "any", port = 443, reason = "no quic" }
allow { proto = "icmp", to = "any", log = false }
]]

local HANDLERS = [[
on("flow", function(batch) error("this one fails") end, { name = "bad" })
on("flow", function(batch)
  for i = 1, batch.count do
    local dir, action, proto, rule, generation, port = batch:fields(i)
    if port == 444 then while true do end end
  end
end, { name = "slow" })
]]

-- Sends datagrams as fast as it can: address, port, how many.
local FLOOD = [[
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for i in range(int(sys.argv[3])):
    try:
        s.sendto(b"x" * 32, (sys.argv[1], int(sys.argv[2])))
    except OSError:
        pass
]]

for enforcer, why in Agents.enforcers(missing) do
  describe("events of an agent with " .. enforcer, function()
    if why then return pending("all of it", why) end
    local nodes, agent, socket

    local function status()
      local p = nodes:lattice({ "--socket", socket, "status", "--json" })
      return p.status == 0 and assert(json.decode(p.out)) or nil
    end

    -- The audit's files, the older first: a flood makes it rotate.
    local function files()
      local list = {}
      for _, name in ipairs({ "/audit.jsonl.1", "/audit.jsonl" }) do
        if uv.fs_stat(nodes.dir .. name) then list[#list + 1] = nodes.dir .. name end
      end
      return list
    end

    local function records(wanted, mark)
      local list = {}
      for _, file in ipairs(files()) do
        for line in io.lines(file, "L") do
          local whole = line:sub(-1) == "\n" -- else it is being written at this moment
          if whole and (not mark or line:find(mark, 1, true)) then
            local event = assert(json.decode(line))
            local own = event.unmapped.lattice
            if wanted(own, event) then list[#list + 1] = { own = own, event = event } end
          end
        end
      end
      return list
    end

    setup(function()
      nodes = Agents.bare()
      assert(uv.fs_chmod(nodes.dir, tonumber("755", 8)))
      socket = nodes.dir .. "/run/control.sock"
      nodes:configure({ policy = POLICY, enforcer = enforcer, socket = socket, extra = HANDLERS })
      nodes:file("flood.py", FLOOD)
      nodes:start("peer", { "python3", "-u", "-m", "http.server", "80" }):expect("Serving")
      agent = nodes:up()
      assert.is_table(status())
    end)

    teardown(function() nodes:close() end)

    it("name the rule, its place and reason, and the flow; log = false makes none", function()
      nodes:try("node", "ping -c 1 -W 2 203.0.113.2")
      nodes:sh("node", "curl -sf -m 5 -o /dev/null http://203.0.113.2/")
      nodes:sh("node", "python3 " .. nodes.dir .. "/flood.py 203.0.113.2 443 3")
      local refused = Agents.await("the records", function()
        local list = records(function(own, event)
          return own.kind == "verdict" and event.dst_endpoint.port == 443
        end)
        return #list >= 3 and list
      end)
      assert.equal(3, #refused)
      local own, event = refused[1].own, refused[1].event
      assert.same({ "deny", 2, 1, "no quic", "203.0.113.1", "203.0.113.2", "udp", 2 }, { own.action, own.rule,
        own.generation, own.text, event.src_endpoint.ip, event.dst_endpoint.ip, event.connection_info.protocol_name,
        event.connection_info.direction_id })
      assert.matches("p.lua:3$", own.where)
      local allowed = records(function(o, e) return o.kind == "verdict" and e.dst_endpoint.port == 80 end)
      assert.equal("allow", allowed[1].own.action)
      assert.matches("p.lua:2$", allowed[1].own.where)
      assert.equal(0, #records(function(o, e)
        return o.kind == "verdict" and e.connection_info.protocol_name == "icmp" and o.action == "allow"
      end))
    end)

    local function default_packets(now)
      for _, row in ipairs(now.counters) do
        if row.rule == 0 then return row.packets end
      end
      return 0
    end

    -- What the default has dropped, and the events that were seen or lost. The second look has what the first found lost.
    local function account()
      local dropped, now = default_packets(assert(status())), assert(status())
      return { dropped = dropped, told = now.events.seen + now.events.lost_in_kernel, lost = now.events.lost_in_kernel }
    end

    -- Waits until as many events were told since `before` as packets were dropped, at least `least`.
    local function settle(before, least)
      local told, dropped
      local good = pcall(Agents.await, "all of them", function()
        local now = account()
        told, dropped = now.told - before.told, now.dropped - before.dropped
        return dropped >= least and told >= dropped
      end, 20000)
      -- the default drops other packets, too: a few of them between two looks
      assert.is_true(good and told - dropped <= 50, ("%d told, %d dropped"):format(told or 0, dropped or 0))
    end

    local function flood(count)
      nodes:sh("peer", ("python3 %s/flood.py 203.0.113.1 9 %d"):format(nodes.dir, count))
    end

    it("of a flood are told or counted as lost, all of them", function()
      local before = account()
      flood(50000)
      settle(before, 40000)
    end)

    it("of a flood while the agent stands still are counted, and the verdicts stay", function()
      local before = account()
      agent:kill("sigstop")
      flood(100000)
      local good = nodes:try("node", "curl -sf -m 5 -o /dev/null http://203.0.113.2/")
      local bad = nodes:try("node", "timeout 1 bash -c 'exec 3<>/dev/tcp/203.0.113.2/81' 2>/dev/null")
      agent:kill("sigcont")
      assert.same({ true, false }, { good, bad })
      settle(before, 80000)
      if enforcer == "ebpf" then assert.is_true(account().lost > before.lost) end
    end)

    it("are not hurt by a handler that fails or does not end", function()
      nodes:sh("node", "python3 " .. nodes.dir .. "/flood.py 203.0.113.2 444 1")
      Agents.await("the notes", function()
        local bad = #records(function(own) return own.kind == "handler" and own.text:find("bad", 1, true) end,
          '"kind":"handler"')
        local slow = #records(function(own) return own.kind == "handler" and own.text:find("slow", 1, true) end,
          '"kind":"handler"')
        return bad >= 1 and slow >= 1
      end)
      assert.is_table(status())
      assert.is_nil(agent.status)
    end)

    it("end with the agent, and the log is whole but for what it counts as lost", function()
      agent:kill("sigterm")
      assert.equal(0, agent:wait().status)
      local p = nodes:lattice({ "log", "--check", table.unpack(files()) })
      assert.not_matches("missing before it", p.out)
      assert.not_matches("no record of its end", p.out)
    end)
  end)
end
