-- The hooks and maps of the ebpf enforcer, seen from outside by tc and bpftool: what is attached, what the maps hold, what
-- a second agent or somebody's qdisc does to it.
package.path = "tests/support/?.lua;" .. package.path
local Agents = require("agents")
local json = require("dkjson")

local missing = Agents.missing() or not Agents.has("python3") and "python3 is not installed"
  or not Agents.has("bpftool") and "bpftool is not installed"
if not missing then
  local able, why = Agents.able("ebpf")
  if not able then missing = why end
end

local POLICY = 'allow "tcp to 203.0.113.2 port 80"\nallow "in udp from 203.0.113.2 port 7"\n'

describe("the ebpf enforcer on a device", function()
  if missing then return pending("all of it", missing) end
  local nodes

  before_each(function() nodes = Agents.new() end)
  after_each(function() nodes:close() end)

  local function up(policy, env)
    nodes:configure({ policy = policy or POLICY, enforcer = "ebpf" })
    return nodes:up({ env = env })
  end

  local function guarded()
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 80))
    assert.is_false(nodes:open("node", "tcp", "203.0.113.2", 81, 300))
    assert.is_false(nodes:open("peer", "udp", "203.0.113.1", 53, 300))
  end

  local function pin() return (nodes:sh("node", ("ls -d %s/pins/*-eth0"):format(nodes.dir)):gsub("%s", "")) end

  local function bpftool(...) return assert(json.decode(nodes:sh("node", "bpftool -j " .. table.concat({ ... }, " ")))) end

  local function filters()
    local _, count = nodes:sh("node", "tc filter show dev eth0 ingress; tc filter show dev eth0 egress")
      :gsub("direct%-action", "")
    return count
  end

  local function raw(words) -- bpftool's list of "0x2a"
    local bytes = {}
    for i, word in ipairs(words) do bytes[i] = string.char(math.tointeger(tonumber(word))) end
    return table.concat(bytes)
  end

  -- The prefixes that the programs look up: "out 10.0.0.0/8".
  local function prefixes()
    local slots
    Agents.await("the generation before is freed", function() -- when no program is at it any more
      slots = bpftool("map dump pinned", pin() .. "/lat_lpm_slots")
      return #slots == 1
    end)
    local id = string.unpack("<I4", raw(slots[1].value))
    local list = {}
    for _, entry in ipairs(bpftool("map dump id", id)) do
      local len, tree, addr = string.unpack("<I4I4c16", raw(entry.key))
      local text
      if tree % 2 == 0 then
        text = ("%d.%d.%d.%d/%d"):format(addr:byte(1), addr:byte(2), addr:byte(3), addr:byte(4), len - 32)
      else
        local groups = {}
        for i = 1, 15, 2 do groups[#groups + 1] = ("%x"):format(addr:byte(i) << 8 | addr:byte(i + 1)) end
        text = table.concat(groups, ":") .. "/" .. len - 32
      end
      list[#list + 1] = (tree < 2 and "out " or "in ") .. text
    end
    table.sort(list)
    return list
  end

  it("holds exactly the prefixes of the rules in force, and after a reload only those", function()
    up('allow "tcp to 10.9.9.9/32"\ndeny "any to 10.9.0.0/16"\nallow "any to 10.0.0.0/8"\n'
      .. 'allow "in tcp from 2001:db8::5/128 port 22"\nallow "in any from 192.0.2.0/25"')
    assert.same({ "in 192.0.2.0/25", "in 2001:db8:0:0:0:0:0:5/128", "out 10.0.0.0/8", "out 10.9.0.0/16",
      "out 10.9.9.9/32" }, prefixes())
    for i = 1, 10 do nodes:reload(('allow "tcp to 10.8.%d.0/24"\n'):format(i)) end
    assert.same({ "out 10.8.10.0/24" }, prefixes())
    nodes:reload("")
    assert.same({}, prefixes())
  end)

  it("is there by TCX, once, and stays when somebody's clsact comes and goes", function()
    up()
    assert.matches("TCX on eth0, ingress and egress", nodes.agent.err)
    assert.equal(0, filters())
    local status = nodes:lattice({ "--socket", nodes.dir .. "/control.sock", "status", "--json" })
    assert.equal(pin(), assert(json.decode(status.out)).enforcer.devices[1].pins)
    local net = nodes:sh("node", "bpftool net show dev eth0")
    if net:find("tcx/", 1, true) then -- of bpftool 7.4 on
      assert.equal(2, select(2, net:gsub("tcx/", "")), net)
    end
    nodes:sh("node", "tc qdisc add dev eth0 clsact; tc qdisc del dev eth0 clsact")
    guarded()
    assert.equal(0, nodes:down())
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 81))
  end)

  it("is not stacked by a second agent with other files", function()
    up()
    local links = bpftool("link show pinned", pin() .. "/link_in")
    local second = nodes:file("second.lua", ('device "eth0" { kind = "existing" }\nenforcer "ebpf"\n'
      .. 'control "%s/second.sock"\npins "%s/second"\n'):format(nodes.dir, nodes.dir))
    local p = nodes:latticed({ "--config", second }):wait()
    assert.equal(1, p.status, p.err)
    assert.matches("another latticed", p.err)
    assert.same(links, bpftool("link show pinned", pin() .. "/link_in"))
    guarded() -- the second one has no rule at all
  end)

  it("is there by clsact where TCX is hidden, says so, and takes what it made with it", function()
    local before = nodes:trace()
    up(nil, { LATTICE_NO_TCX = "1" })
    assert.matches("clsact on eth0[^\n]*TCX", nodes.agent.err)
    assert.equal(2, filters())
    guarded()
    nodes:reload('allow "tcp to 203.0.113.2 port 81"')
    assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 81))
    assert.is_false(nodes:open("node", "tcp", "203.0.113.2", 80, 300))
    assert.equal(0, nodes:down())
    assert.equal(before, nodes:trace())
  end)

  for how, env in pairs({ clsact = { LATTICE_NO_TCX = "1" }, TCX = {} }) do
    it("is put back when somebody takes it off, by " .. how, function()
      up(nil, env)
      local kept = nodes:probe("node", "keep", "203.0.113.2", 80)
      kept:expect("connected")
      for _ = 1, 2 do
        local from = #nodes.agent.err
        if how == "TCX" then
          nodes:sh("node", "bpftool link detach pinned " .. pin() .. "/link_out")
        else
          nodes:sh("node", "tc qdisc del dev eth0 clsact")
        end
        nodes.agent:expect(function() return nodes.agent.err:find("all hooks are guarded again", from + 1, true) end)
        assert.matches("took a program of ebpf off its hook", nodes.agent.err:sub(from + 1))
        guarded()
      end
      nodes:reload(POLICY .. 'allow "tcp to 203.0.113.2 port 22"\n')
      assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 22))
      assert.is_nil(kept.status)
      assert.equal(0, nodes:down())
      assert.is_true(nodes:open("node", "tcp", "203.0.113.2", 81))
      assert.equal("", nodes:sh("node", "tc qdisc show dev eth0 clsact"))
    end)
  end

  it("ends when its pinned links are removed, and only then, once the agent is dead", function()
    up()
    nodes:down("sigkill")
    guarded()
    nodes:sh("node", ("rm %s/link_in %s/link_out"):format(pin(), pin()))
    Agents.await("the way", function() return nodes:open("node", "tcp", "203.0.113.2", 81, 300) end)
  end)

  it("counts a denied packet as often as the audit tells of it", function()
    up()
    nodes:run("peer", { "python3", "-c", [[
import socket
for i in range(20):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("203.0.113.1", 53))]] })
    -- beside the 20 a host may have said something else that the default denies
    local function told()
      local count, probes = 0, 0
      for _, record in ipairs(Agents.records(nodes.dir .. "/audit.jsonl")) do
        local own = record.unmapped.lattice
        if own.kind == "verdict" and own.action == "deny" then
          count = count + 1
          if record.dst_endpoint.port == 53 then probes = probes + 1 end
        end
      end
      return count, probes
    end
    Agents.await("as many records as denied packets", function()
      local p = nodes:lattice({ "--socket", nodes.dir .. "/control.sock", "status", "--json" })
      local count, probes = told()
      return probes == 20 and assert(json.decode(p.out)).enforcer.devices[1].packets.denied == count
    end)
  end)
end)
