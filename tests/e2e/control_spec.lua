-- The control socket of a real agent, and the commands against it, under both enforcers: what happened on the device is what
-- they show; who may not is refused, a program in a sandbox above all.
package.path = "tests/support/?.lua;" .. package.path
local Agents = require("agents")
local json = require("dkjson")
local uv = require("luv")

local missing = Agents.missing()

local policy = [[
policy "node"
allow "tcp to 203.0.113.2 port 80"
allow "icmp to any"
deny { proto = "udp", to = "any", port = 443, reason = "no quic" }
]]

for enforcer, why in Agents.enforcers(missing) do
  describe("the commands and an agent with " .. enforcer, function()
    if why then return pending("all of it", why) end
    local nodes, agent, socket

    local function lattice(...)
      local p = nodes:lattice({ "--socket", socket, ... })
      return p.status, p.out, p.err
    end

    local function decoded(...)
      local status, out, err = lattice(...)
      assert.equal(0, status, err .. out)
      return assert(json.decode(out))
    end

    local function up()
      agent = nodes:up()
      assert.equal(0, (lattice("version")))
    end

    setup(function()
      nodes = Agents.bare()
      assert(uv.fs_chmod(nodes.dir, tonumber("755", 8)))
      socket = nodes.dir .. "/run/control.sock"
      nodes:configure({ policy = policy, enforcer = enforcer, socket = socket, extra = 'group "nogroup"' })
      nodes:start("peer", { "python3", "-u", "-m", "http.server", "80" }):expect("Serving")
      up()
    end)

    teardown(function() nodes:close() end)

    it("status names enforcer, policy and device", function()
      local status = decoded("status", "--json")
      assert.equal(enforcer, status.enforcer.name)
      assert.equal("node", status.policy.name)
      assert.equal(1, status.generation)
      assert.equal("eth0", status.devices[1].name)
      assert.equal(agent.pid, status.pid)
      assert.equal("lattice/status/v1", status.schema)
      local _, out = lattice("status")
      assert.truthy(out:find(enforcer .. ": ", 1, true), out)
      assert.truthy(select(2, out:gsub("\n", "")) <= 24, out)
    end)

    it("watch tells what was allowed and refused, as it happens", function()
      local watch = nodes:start("node", { Agents.lattice_path, "--socket", socket, "watch", "--json", "--proto", "tcp" })
      local seen = {}
      Agents.await("both events", function()
        nodes:try("node", "curl -sf -m 2 -o /dev/null http://203.0.113.2/")
        nodes:try("node", "timeout 1 bash -c 'exec 3<>/dev/tcp/203.0.113.2/81'")
        for line in watch.out:gmatch("([^\n]+)\n") do
          local event = assert(json.decode(line))
          seen[event.verdict .. event.port] = event
        end
        return seen.allow80 and seen.deny81
      end)
      assert.same({ "allow", "out", 1, "203.0.113.2", "eth0" }, { seen.allow80.action, seen.allow80.dir,
        seen.allow80.rule, seen.allow80.addr, seen.allow80.device })
      assert.equal(0, seen.deny81.rule)
      assert.is_nil(seen.allow81)
      assert.is_nil(seen.deny80)
      watch:kill("sigint")
      assert.equal(0, watch:wait().status)
      local status, out = lattice("watch", "--stop", "--denied", "--port", "81", "--last", "1")
      assert.equal(0, status)
      assert.matches("^%d%d:%d%d:%d%d%.%d+ DENY  out tcp 203.0.113.1:%d+ → 203.0.113.2:81  eth0  default\n$", out)
    end)

    it("explain asks what is loaded, not what the file says", function()
      local verdict = decoded("explain", "--json", "udp to 203.0.113.2 port 443")
      assert.same({ "deny", 3, "no quic", enforcer },
        { verdict.verdict, verdict.rule, verdict.reason, verdict.enforcer })
      assert.matches("p.lua:4$", verdict.where)
      nodes:policy('policy "other" allow "udp to any port 443"')
      assert.equal("deny", decoded("explain", "--json", "udp to 203.0.113.2 port 443").verdict)
      nodes:policy(policy)
      assert.equal("allow", decoded("explain", "--json", "tcp to 203.0.113.2 port 80").verdict)
      assert.equal("deny", decoded("explain", "--json", "in tcp from 203.0.113.2 port 80").verdict)
    end)

    it("counters, flows and metrics follow the traffic", function()
      nodes:sh("node", "curl -sf -m 5 -o /dev/null http://203.0.113.2/")
      local status = decoded("status", "--json")
      assert.truthy(status.counters[1].packets > 0)
      assert.matches("p.lua:2$", status.counters[1].where)
      local top = decoded("top", "--by", "remote", "--json")
      assert.equal("203.0.113.2", top.rows[1].label)
      local _, out = lattice("top")
      assert.truthy(out:find("ALLOW", 1, true), out)
      _, out = lattice("metrics")
      assert.truthy(out:find(('lattice_enforcer_info{enforcer="%s"} 1'):format(enforcer), 1, true), out)
      assert.truthy(tonumber(out:match('\nlattice_rule_packets_total{rule="1"[^}]*} (%d+)')) > 0, out)
    end)

    it("reload previews, takes, and refuses with file and line", function()
      local before = decoded("status", "--json").generation
      nodes:policy(policy .. 'allow "tcp to 203.0.113.2 port 81"\n')
      local preview = decoded("reload", "--preview", "--json")
      assert.equal(1, preview.rules_added)
      assert.equal(before, decoded("status", "--json").generation)
      assert.equal("deny", decoded("explain", "--json", "tcp to 203.0.113.2 port 81").verdict)
      assert.equal(before + 1, decoded("reload", "--json").generation)
      assert.equal("allow", decoded("explain", "--json", "tcp to 203.0.113.2 port 81").verdict)
      nodes:policy(policy .. 'allow "tpc to any"\n')
      for _, words in ipairs({ { "reload" }, { "reload", "--preview" } }) do
        local status, out, err = lattice(table.unpack(words))
        assert.equal(3, status)
        assert.equal("", out)
        assert.matches("p.lua:5:%d+: unknown protocol 'tpc'", err)
      end
      local status = decoded("status", "--json")
      assert.equal(before + 1, status.generation)
      assert.matches("unknown protocol", status.reloads.last_error)
      nodes:policy(policy)
      assert.equal(0, (lattice("reload")))
    end)

    it("log reads the agent's audit, with who reloaded", function()
      local found = Agents.await("the record", function()
        local status, out = lattice("log", "--kind", "operator")
        return status == 0 and out:find("reload", 1, true) and out
      end)
      assert.truthy(found:find("uid 0", 1, true) or found:find("0", 1, true), found)
      local status, out = lattice("log", "--denied", "--host", "203.0.113.2")
      assert.equal(0, status)
      assert.truthy(out:find("203.0.113.2:81", 1, true), out)
    end)

    it("a member of the group may look, and only that; others may nothing", function()
      if Agents.in_userns then return pending("needs root: other users than one") end
      assert(uv.fs_copyfile(Agents.lattice_path, nodes.dir .. "/lattice"))
      assert(uv.fs_chmod(nodes.dir .. "/lattice", tonumber("755", 8)))
      local function as(uid, gid, words)
        local p = nodes:run("node", { "setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", nodes.dir .. "/lattice",
          "--socket", socket, table.unpack(words) })
        return p.status, p.err
      end
      local gid = tostring(uv.fs_stat(socket).gid)
      assert.equal(0, (as("65534", gid, { "status" })))
      assert.equal(0, (as("65534", gid, { "log", "--last", "1" })))
      for _, words in ipairs({ { "reload" }, { "reload", "--preview" }, { "down" } }) do
        local status, err = as("65534", gid, words)
        assert.equal(5, status, err)
        assert.matches("that is for root %(you are uid 65534%)", err)
      end
      local status, err = as("65533", "65533", { "status" })
      assert.equal(5, status, err)
      assert.equal(0, (lattice("status")))
    end)

    it("a program in a sandbox may nothing, even where its policy names the socket", function()
      if Agents.in_userns then return pending("needs root: the sandbox would be where the agent is") end
      local file = nodes:file("inside.lua", ('policy "inside"\nunix "%s"\n'):format(socket))
      local p = nodes:lattice({ "run", "-q", "--policy", file, "--", Agents.lattice_path, "--socket", socket, "status" })
      assert.equal(5, p.status, p.out .. p.err)
      assert.matches("another pid or user namespace", p.err)
      p = nodes:lattice({ "run", "-q", "--allow", "tcp to any", "--", Agents.lattice_path, "--socket", socket, "status" })
      assert.not_equal(0, p.status, p.out)
      p = nodes:run("node", { "unshare", "--user", "--map-root-user", Agents.lattice_path, "--socket", socket, "status" })
      assert.equal(5, p.status, p.out .. p.err)
    end)

    it("a second agent leaves the socket to the first", function()
      local second = nodes:latticed({ "--config", nodes.dir .. "/lattice.lua" }):wait()
      assert.not_equal(0, second.status)
      assert.equal(0, (lattice("status")))
    end)

    it("down with another socket leaves an agent that lives alone", function()
      local p = nodes:lattice({ "--socket", nodes.dir .. "/none.sock", "down" })
      assert.equal(1, p.status, p.out .. p.err)
      assert.matches("an agent is alive here .*, with another control socket", p.err)
      assert.equal("deny", decoded("explain", "--json", "tcp to 203.0.113.2 port 81").verdict)
      assert.is_false(nodes:try("node", "timeout 1 bash -c 'exec 3<>/dev/tcp/203.0.113.2/81'"))
    end)

    it("the socket of an agent that was killed is replaced", function()
      agent:kill("sigkill")
      agent:wait()
      local status, _, err = lattice("status")
      assert.equal(4, status)
      assert.matches("is dead; start latticed", err)
      up()
      assert.equal(enforcer, decoded("status", "--json").enforcer.name)
    end)

    it("down removes what one that was killed left", function()
      agent:kill("sigkill")
      agent:wait()
      assert.is_false(nodes:try("node", "timeout 1 bash -c 'exec 3<>/dev/tcp/203.0.113.2/81'"))
      local status, out, err = lattice("down", "--pins", nodes.dir .. "/pins")
      assert.equal(0, status, err)
      assert.matches("of a dead one was removed", out)
      assert.equal("", nodes:sh("node", "iptables-save | grep -i lattice || true"))
      assert.equal("", nodes:sh("node", "grep " .. nodes.dir .. " /proc/self/mountinfo || true"))
      local again, _, text = lattice("down", "--pins", nodes.dir .. "/pins")
      assert.equal(4, again, text)
      up()
    end)

    it("down removes everything and ends the agent", function()
      local status, out, err = lattice("down")
      assert.equal(0, status, err)
      assert.matches("nothing is enforced", out)
      assert.equal(0, agent:wait().status)
      assert.is_nil(uv.fs_stat(socket))
      assert.is_true(nodes:try("node", "ping -c 1 -W 2 203.0.113.2"))
      assert.equal("", nodes:sh("node", "iptables-save | grep -i lattice || true"))
      assert.equal(4, (lattice("status")))
    end)
  end)
end
