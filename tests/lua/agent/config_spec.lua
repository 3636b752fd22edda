local config = require("lattice.agent.config")

local KEY = ("A"):rep(43) .. "="
local FILES = {
  ["/etc/lattice/policy.d/20-web.lua"] = "file", ["/etc/lattice/policy.d/10-base.lua"] = "file",
  ["/etc/lattice/policy.d/.hidden.lua"] = "file", ["/etc/lattice/policy.d/notes.txt"] = "file",
  ["/etc/lattice/open.lua"] = "file", ["/etc/lattice/agent.lua"] = "file",
  ["/etc/lattice/alice.lua"] = "file", ["/etc/lattice/wf0.key"] = "file", ["/sys/class/net/eth0"] = "directory",
}
local fs = {
  stat = function(path)
    if FILES[path] then
      return { type = FILES[path], mode = path:find("open", 1, true) and 438 or 384,
        uid = path:find("alice", 1, true) and 1000 or 0 }
    end
    return nil, "no such file or directory"
  end,
  list = function(folder)
    local names = {}
    for path in pairs(FILES) do
      local name = path:match("^" .. folder .. "/([^/]+)$")
      if name then names[#names + 1] = name end
    end
    return names
  end,
}

local function load(text)
  return config.load("/etc/lattice/lattice.lua", { text = text, fs = fs, user_id = function(name)
    if name == "alice" or name == "bob" then return name == "alice" and 1000 or 1001 end
    return nil, "look up a user: No such file or directory"
  end })
end

local whole = [[
device "wf0" { address = { "10.42.0.1/24", "fd42::1/64" }, mtu = 1420,
               wireguard = { key = file "wf0.key", listen = 51820, peers = { { key = "]] .. KEY .. [[",
                             endpoint = "192.0.2.1:51820", allowed = { "10.42.0.2/32", "10.43.0.0/16" } } } } }
device "eth1" { kind = "existing" }
policy { "policy.d/*.lua" }
enforcer "auto"
nat { source = "172.18.0.0/16", out = "wf0" }
forward { from = "wf0", to = "eth0" }
audit { to = file "audit.jsonl" }
audit { "deny", to = syslog() }
control "/run/lattice/control.sock"
pins "/run/lattice/bpf"
names { observe = true }
]]

describe("lattice.lua", function()
  it("is read into what the agent works with", function()
    local c, err = load(whole)
    assert.equal("", err)
    assert.equal(2, #c.devices)
    assert.equal("wireguard", c.devices[1].kind)
    assert.equal("/etc/lattice/wf0.key", c.devices[1].wireguard.key)
    assert.same({ "10.42.0.2/32", "10.43.0.0/16" }, c.devices[1].wireguard.peers[1].allowed)
    assert.equal("/etc/lattice/lattice.lua:4", c.devices[2].where)
    assert.equal("existing", c.devices[2].kind)
    assert.same({ "/etc/lattice/policy.d/10-base.lua", "/etc/lattice/policy.d/20-web.lua" }, c.policies)
    assert.equal("auto", c.enforcer)
    assert.equal("nat", c.pairs[1].kind)
    assert.equal("wf0", c.pairs[2].from)
    assert.same({ match = { "all" }, sink = "file", target = "/etc/lattice/audit.jsonl" }, c.audit[1])
    assert.equal("syslog", c.audit[2].sink)
    assert.equal("/run/lattice/bpf", c.pins)
    assert.equal("lattice", c.group)
    assert.same({ "10.42.0.0/24", "fd42::/64", "10.42.0.2/32", "10.43.0.0/16" }, config.mesh(c))
    assert.same({}, c.warnings)
  end)

  local wrong = {
    { 'devise "wf0" {}', ":1: unknown word 'devise' (did you mean device?)" },
    { 'device "wf0" { adress = "10.0.0.1/24" }',
      "has no 'adress' (expected address, kind, mtu, wireguard; did you mean address?)" },
    { 'device "wf0" { address = "10.0.0.1" }', "address cannot be '10.0.0.1'" },
    { 'device "wf0" { address = "10.0.0.1/33" }', "address cannot be" },
    { 'device "wf0" { address = "10.0.0.1/24", mtu = 500 }', "mtu cannot be 500 (expected 1280 to 65535)" },
    { 'device "a/b" { kind = "tun" }', "cannot be called 'a/b'" },
    { 'device "lo" { kind = "existing" }', "lo is the host's own loopback" },
    { 'device "waytoolongdevicename" { kind = "existing" }', "1 to 15 characters" },
    { 'device "wf0" { kind = "wiregard" }', "did you mean wireguard?" },
    { 'device "wf0" { kind = "tun" }', "has no address" },
    { 'device "eth1" { kind = "existing", mtu = 1500 }', "is there already: it is guarded, not set up" },
    { 'device "eth1" { kind = "existing" }\ndevice "eth1" { kind = "existing" }',
      ":2: device 'eth1' is there already, at /etc/lattice/lattice.lua:1" },
    { 'device "wf0" { address = "10.0.0.1/24", wireguard = { key = file "none.key" } }',
      "/etc/lattice/none.key cannot be read: no such file" },
    { 'device "wf0" { address = "10.0.0.1/24", wireguard = { key = file "wf0.key", ' ..
      'peers = { { key = "x", allowed = {} } } } }',
      "key cannot be 'x' (expected a public key" },
    { 'device "wf0" { address = "10.0.0.1/24", wireguard = { key = file "wf0.key", peers = { { key = "' .. KEY ..
      '", allowed = { "10.0.0.1/24" } } } } }',
      "'10.0.0.1/24' has bits beyond its prefix length (did you mean 10.0.0.0/24?)" },
    { 'device "wf0" { address = "10.0.0.1/24", wireguard = { key = file "wf0.key", peers = { { key = "' .. KEY ..
      '", endpoint = "peer.example:1", allowed = {} } } } }', "endpoint cannot be 'peer.example:1'" },
    { 'device "eth1" { kind = "existing" }\npolicy "nothing.d/*.lua"', ":2: policy: there is no file 'nothing.d/*.lua'" },
    { 'device "eth1" { kind = "existing" }\npolicy "open.lua"',
      "every user can write /etc/lattice/open.lua (expected chmod" },
    { 'device "eth1" { kind = "existing" }\npolicy {}', ":2: policy takes file names" },
    { 'enforcer "epbf"', "there is no enforcer 'epbf' (expected auto, ebpf, iptables, or a function; did you mean ebpf?)" },
    { 'enforcer "auto"\nenforcer "ebpf"', ":2: enforcer is given twice" },
    { 'nat { source = "172.18.0.0/16" }', "nat has no out" },
    { 'nat { source = "172.18.0.1/16", out = "wf0" }', "did you mean 172.18.0.0/16?" },
    { 'forward { from = "wf0", to = "wf0" }', "from wf0 to itself" },
    { 'audit "deny"', "audit takes what to record and where to" },
    { 'audit { "dney", to = syslog() }', "did you mean deny?" },
    { 'on("flaw", function() end)', "did you mean flow?" },
    { 'on("flow", function() end, { after = "nobody" })\ndevice "e" { kind = "existing" }', "there is no handler 'nobody'" },
    { 'on("flow", function() end, { name = "a", after = "b" })\n' ..
      'on("flow", function() end, { name = "b", after = "a" })\ndevice "e" { kind = "existing" }', "contradict" },
    { 'os.execute("true")', "'os' is not available" },
    { 'while true do end', "instruction budget" },
    { 'device "wf0"', "there is no device to guard" },
    { 'policy = 1', "'policy' is a word of the config language" },
    { 'local x = ', "/etc/lattice/lattice.lua:1: " },
  }
  for _, case in ipairs(wrong) do
    it("is refused, with the place: " .. case[1]:gsub("%s+", " "):sub(1, 70), function()
      local c, err = load(case[1])
      assert.is_nil(c)
      assert.is_truthy(err:find("/etc/lattice/lattice.lua", 1, true), err)
      assert.is_truthy(err:find(case[2], 1, true), err)
    end)
  end

  it("reads who may run what", function()
    local c, err = load([[
      device "e" { kind = "existing" }
      runs { { user = "alice", policies = { "agent.lua" }, limits = { memory = "2G", cpu = 1.5, pids = 64 },
               network = "wf0" },
             { user = 65534, policies = "agent.lua", most = 2 }, most = 10 }
    ]])
    assert.equal("", err)
    assert.equal(10, c.runs.most)
    assert.same({ user = "alice", uid = 1000, policies = { "/etc/lattice/agent.lua" }, network = "wf0", most = 8,
      limits = { memory = 2 << 30, cpu = 1.5, pids = 64 }, where = "/etc/lattice/lattice.lua:2" }, c.runs[1])
    assert.same({ 65534, 2 }, { c.runs[2].uid, c.runs[2].most })
    assert.equal(0, #assert(load('device "e" { kind = "existing" }')).runs)
  end)

  local runs = {
    { 'runs "alice"', "runs takes a list of tables, not 'alice'" },
    { '\nruns { { user = "carol", policies = { "agent.lua" } } }', ":2: there is no user 'carol' (look up a user: No such" },
    { 'runs { { policies = { "agent.lua" } } }', "runs: entry 1 has no user" },
    { 'runs { { user = "alice" } }', "runs: entry 1 has no policies" },
    { 'runs { { user = "alice", policies = {} } }', "policies is a list of files" },
    { 'runs { { user = "alice", policies = { "none.lua" } } }', "/etc/lattice/none.lua cannot be read" },
    { 'runs { { user = "alice", policies = { "open.lua" } } }', "every user can write /etc/lattice/open.lua" },
    { 'runs { { user = "alice", policies = { "alice.lua" } } }', "alice.lua belongs to uid 1000, not to root or the agent" },
    { 'runs { { user = "alice", policies = { "agent.lua" }, limit = {} } }', "did you mean limits?" },
    { 'runs { { user = "alice", policies = { "agent.lua" }, limits = { memry = "1G" } } }', "did you mean memory?" },
    { 'runs { { user = "alice", policies = { "agent.lua" }, network = "lo" } }', "lo is the host's own loopback" },
    { 'runs { { user = "alice", policies = { "agent.lua" }, most = 0 } }', "most cannot be 0 (expected 1 to 4096)" },
    { 'runs { { user = "alice", policies = { "agent.lua" } }, { user = 1000, policies = { "agent.lua" } } }',
      "runs: user '1000' is there already, at /etc/lattice/lattice.lua:1" },
    { 'runs { users = {} }', "runs has no 'users'" },
    { 'runs {}\nruns {}', ":2: runs is given twice" },
  }
  for _, case in ipairs(runs) do
    it("refuses " .. case[1]:gsub("%s+", " "), function()
      local c, err = load(case[1])
      assert.is_nil(c)
      assert.is_truthy(err:find(case[2], 1, true), err)
    end)
  end

  it("puts handlers in the order that they ask for", function()
    local c, err = load([[
      device "e" { kind = "existing" }
      on("flow", function() end, { name = "third", after = "second" })
      on("flow", function() end, { name = "first", before = "second" })
      on("flow", function() end, { name = "second" })
    ]])
    assert.equal("", err)
    local names = {}
    for i, handler in ipairs(c.handlers.flow) do names[i] = handler.name end
    assert.same({ "first", "second", "third" }, names)
  end)

  it("warns of a pair with a device that is not there, and of no policy", function()
    local c = assert(load('device "eth0" { kind = "existing" }\nforward { from = "eth0", to = "eth9" }'))
    assert.equal(2, #c.warnings)
    assert.matches("no device 'eth9' now", c.warnings[1])
    assert.matches("everything on the devices is denied", c.warnings[2])
  end)
end)
