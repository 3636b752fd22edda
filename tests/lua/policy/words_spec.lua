-- The words beside rules: what they build, what they refuse, and how files combine.
local path = require("tests.support.path")
local policy = require("lattice.policy")

local function load(text, opts)
  opts = opts or {}
  opts.sources = { { name = "w.lua", text = text } }
  opts.shipped = opts.shipped or path.shipped
  return policy.load(opts)
end

local function problem(text, opts)
  local loaded, errors = load(text, opts)
  assert.is_nil(loaded, text)
  return policy.format_error(errors[1])
end

local function contains(text, part) assert.truthy(text:find(part, 1, true), text) end

describe("the words", function()
  it("are those of the stub for editors and of the lint settings", function()
    local stub, seen = {}, {}
    for word in path.read("lua/lattice/policy/_meta/words.lua"):gmatch("\nfunction ([%w_]+)%(") do stub[word] = true end
    local ctx = setmetatable({}, { __index = function() return {} end })
    for word in pairs(require("lattice.policy.words").new(ctx)) do seen[word] = true end
    assert.same(seen, stub)
    local lint = path.read(".luacheckrc"):match("policy_words = {(.-)}")
    for word in lint:gmatch('"([%w_]+)"') do
      assert.is_true(seen[word], word)
      seen[word] = nil
    end
    assert.same({}, seen)
  end)
end)

describe("a policy's settings", function()
  it("are what nothing said", function()
    local p = assert(load(""))
    assert.same({ "w", "deny", false, false }, { p.name, p.default, p.keep_established, p.names_open })
    assert.same({ {}, {}, {}, {}, {}, {} }, { p.rules, p.tests, p.unix, p.audit, p.limits, p.handlers })
    assert.same({ "w.lua" }, p.files)
  end)

  it("become numbers", function()
    local p = assert(load([[
limits { memory = "1.5G", io = "50M", cpu = 2, pids = 10, files = 20, cpu_time = "2m", file_size = "1k", core = 0 }
audit { "deny", to = file "x", rotate = 1000 }
]]))
    assert.same({ memory = 3 << 29, io = 50 << 20, cpu = 2, pids = 10, files = 20, cpu_time = 120,
      file_size = 1024, core = 0 }, p.limits)
    assert.same({ { match = { "deny" }, sink = "file", target = "x", rotate = 1000 } }, p.audit)
  end)

  for text, part in pairs({
    ['policy "a b"'] = "cannot be called 'a b'",
    ['default "denny"'] = "did you mean deny?",
    ['default "deny" default "allow"'] = "default is given twice: 'allow' here, 'deny' at w.lua:1",
    ["limits { memry = 1 }"] = "did you mean memory?",
    ['limits { memory = "lots" }'] = "limit memory cannot be 'lots'",
    ["limits { pids = 1.5 }"] = "limit pids cannot be 1.5",
    ['audit { "dney", to = file "x" }'] = "did you mean deny?",
    ['audit { "deny" }'] = "audit names no sink",
    ['audit { "deny", to = "x" }'] = "audit names no sink",
    ['audit { "deny", to = syslog(), rotate = "1M" }'] = "rotate is a size, and only for a file",
    ['audit { "deny", to = file "x", rotat = 1 }'] = "unknown key 'rotat'",
    ['file "a\\nb"'] = "no control characters",
    ['on("asked", function() end)'] = "did you mean ask?",
    ['on("ask", "deny")'] = "takes a function",
    ['on("ask", print)'] = "'print' is not available",
    ['on("ask", function() end) on("ask", function() end)'] = "already a handler",
    ['on("ask", function() end, { on_eror = "deny" })'] = "does not know on_eror",
    ['on("ask", function() end, "deny")'] = "the options of on(\"ask\") are a table",
    ['unix "x.sock"'] = "absolute",
    ["unix {}"] = "names no path",
    ['test { alow = "icmp to ::1" }'] = "did you mean allow?",
    ['test { "icmp to ::1" }'] = "a test says what it expects",
    ['test { allow = "tcp to 10.0.0.1" }'] = "w.lua:1:32: the flow has no port",
    ['set "to" { "10.0.0.1" }'] = "is a word of the rule language",
    ['set "a b" { "10.0.0.1" }'] = "a set cannot be called",
    ['set "a" {}'] = "has no elements",
    ['set "a" { "any" }'] = "'any' cannot stand in a set",
    ['set "a" { "10.0.0.1/8" }'] = 'w.lua:1:12: 10.0.0.1/8 has bits set beyond',
    ['set "a" { "10.0.0.1" } set "a" { "10.0.0.2" }'] = "set 'a' is already there, at w.lua:1",
    ['set "web" { "10.0.0.1" } allow "tcp to @wbe"'] = "did you mean web?",
    ['set "web" { "10.0.0.1" } allow "tcp to wbe"'] = "did you mean web?",
    ["keep_established(1)"] = "takes true or false",
    ["alow 'tcp to any'"] = "unknown word 'alow' (did you mean allow?)",
  }) do
    it("are refused: " .. text, function() contains(problem(text), part) end)
  end

  it("take a unix socket as a sink without opening it to the program", function()
    local p = assert(load('audit { to = unix "/run/a.sock" }\nunix { "/run/b.sock", "/run/c.sock" }'))
    assert.same({ "/run/b.sock", "/run/c.sock" }, p.unix)
    assert.same({ { match = { "all" }, sink = "unix", target = "/run/a.sock" } }, p.audit)
  end)

  it("open names by a rule that lets flows to any address pass, and by no other", function()
    for text, open in pairs({
      ['allow "tcp to any port 443"'] = true, ['audit "udp to any"'] = true, ['default "allow"'] = true,
      ['default "audit"'] = true, ['ask "tcp to any"'] = false, ['allow "in tcp from any"'] = false,
      ['allow "tcp to 0.0.0.0/0, ::/0"'] = false, ['deny "tcp to any"'] = false, ['default "ask"'] = false,
      ['allow "tcp to any for ci"'] = false,
    }) do
      assert.equal(open, assert(load(text)).names_open, text)
    end
  end)
end)

describe("handlers", function()
  it("are called under limits, with errors that name the place", function()
    local p = assert(load([[
on("ask", function(flow) return flow.port == 1 and "allow" or "deny" end)
on("connect", function()
  while true do end
end, { on_error = "allow" })
on("dns", function(q) return ("x"):rep(1e9) end)
]], { budget = { instructions = 100000 } }))
    assert.equal("allow", p.handlers.ask({ port = 1 }))
    assert.same({ ask = "deny", connect = "allow", dns = "deny" }, p.on_error)
    local ok, message = pcall(p.handlers.connect, {})
    assert.is_false(ok)
    contains(message, "w.lua:3: the policy runs too long")
    contains(select(2, pcall(p.handlers.dns, {})), "w.lua:5: string.rep")
    assert.equal("deny", p.handlers.ask({ port = 2 }))
  end)
end)

describe("include", function()
  local files = {
    ["top.lua"] = 'policy "top"\ninclude "parts/a.lua"\nallow "tcp to 10.0.0.3"\ninclude "parts/a.lua"\n',
    ["parts/a.lua"] = 'policy "part"\ndefault "allow"\nallow "tcp to 10.0.0.1"\ninclude "b.lua"\n',
    ["parts/b.lua"] = 'allow "tcp to 10.0.0.2"\nset "s" { "10.0.0.9" }\n',
    ["circle.lua"] = 'include "circle2.lua"\n', ["circle2.lua"] = '\ninclude "circle.lua"\n',
    ["deep.lua"] = 'include "up/../x.lua"\n',
    ["bad.lua"] = 'allow "tcp to any"\ninclude "worse.lua"\n', ["worse.lua"] = 'x = = 1\n',
  }
  local function read(name)
    if files[name] then return files[name] end
    return nil, name .. ": No such file or directory"
  end
  local function load_file(name)
    return policy.load({ files = { name }, read = read, shipped = path.shipped })
  end

  it("puts the rules in its place, once", function()
    local p = assert(load_file("top.lua"))
    local where = {}
    for i, rule in ipairs(p.rules) do where[i] = rule.where end
    assert.same({ "parts/a.lua:3", "parts/b.lua:1", "top.lua:3" }, where)
    assert.same({ "top.lua", "parts/a.lua", "parts/b.lua" }, p.files)
    assert.equal("top", p.name)
    assert.equal("allow", p.default)
  end)

  for name, part in pairs({
    ["circle.lua"] = "circle2.lua:2: circle.lua includes itself",
    ["deep.lua"] = "deep.lua:1: an include stays in the folder of its file",
    ["bad.lua"] = "worse.lua:1: unexpected symbol near '='",
    ["none.lua"] = "none.lua: cannot read none.lua: No such file or directory",
    ["guard"] = "there is no shipped policy 'guard'",
  }) do
    it("is refused: " .. name, function()
      local loaded, errors = load_file(name)
      assert.is_nil(loaded)
      contains(policy.format_error(errors[1]), part)
    end)
  end

  it("tells a file from the shipped policy of the same name", function()
    local p = assert(policy.load({
      files = { "policies/guards.lua" }, shipped = path.shipped,
      read = function() return 'include "guards"\nallow "tcp to any"\n' end,
    }))
    assert.equal("policies/guards.lua:2", p.rules[4].where)
  end)

  it("of a shipped policy takes its rules, and leaves its tests to itself", function()
    local p = assert(load('allow "tcp to host port 22"\ninclude "guards"\nallow "tcp to any"', { run_tests = true }))
    assert.equal(5, #p.rules)
    assert.equal("allow", policy.eval.judge(p, { dir = "out", proto = 6, addr = "127.0.0.1", port = 22 }).verdict)
  end)
end)

describe("several sources", function()
  it("are judged in order, command line first", function()
    local p = assert(policy.load({
      rules_before = { "deny tcp to 10.0.0.1", "allow udp to any port 53" },
      sources = { { name = "a", text = 'allow "tcp to any"' }, { name = "b", text = 'deny "tcp to 10.0.0.2"' } },
    }))
    local where = {}
    for i, rule in ipairs(p.rules) do where[i] = rule.where end
    assert.same({ "command line:1", "command line:2", "a:1", "b:1" }, where)
  end)

  it("name what is wrong on the command line", function()
    local _, errors = policy.load({ rules_before = { "allow tcp to any", "alow tcp to any" } })
    contains(policy.format_error(errors[1]), "command line:2: 'alow tcp to any' does not begin with an action")
    _, errors = policy.load({ rules_before = { "allow tcp too any" } })
    contains(policy.format_error(errors[1]), "command line:1:11: unexpected 'too'")
  end)
end)

describe("a tail call", function()
  it("does not hide the line of a word", function()
    local p = assert(load('local function f()\n  allow "tcp to any"\nend\n\nf()\n\nreturn deny "udp to any"'))
    assert.equal("w.lua:2", p.rules[1].where)
    assert.equal("w.lua:7", p.rules[2].where)
  end)
end)

describe("the mesh", function()
  it("is what the host says, and nothing where there is none", function()
    local with = assert(load('allow "tcp to mesh"', { mesh = { "10.9.0.0/16" } }))
    assert.same({ { family = 4, addr = "10.9.0.0", len = 16 } }, with.rules[1].prefixes)
    local without = assert(load('deny "any to mesh"\nallow "tcp to any"'))
    assert.equal(2, policy.eval.judge(without, { dir = "out", proto = 6, addr = "10.9.0.1", port = 1 }).rule)
  end)
end)
