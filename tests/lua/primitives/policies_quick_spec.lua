-- The rules that C takes from the words by itself (src/lua/quick.c) are those that Lua makes of the same text.
local loop = require("lattice.loop")
local policies = require("lattice.policies")
local policy = require("lattice.policy")

local path = os.tmpname()

local function in_c(text)
  local f <close> = assert(io.open(path, "w"))
  f:write(text)
  f:close()
  local result
  policies.load({ number = 1, files = { path } }, function(...) result = table.pack(...) end)
  loop.run()
  local g <close> = result[1]
  if not g then return result[2] end
  local lines, info = {}, g:info()
  for n = 1, info.rules do
    local r = g:rule(n)
    lines[#lines + 1] = ("%d %s %s %s %s %s %d %d"):format(n, r.action, r.text, r.where, r.reason, r.log, r.rate, r.ttl)
  end
  for _, e in ipairs(g:entries(1, info.entries)) do
    lines[#lines + 1] = ("%d %s %d %s/%d %d-%d"):format(e.rule, e.dir, e.proto, e.addr, e.len, e.lo, e.hi)
  end
  return table.concat(lines, "\n")
end

local any = { { family = 4, addr = "0.0.0.0", len = 0 }, { family = 6, addr = "::", len = 0 } }

local function rule_entries(r, lines)
  for _, p in ipairs(r.any and any or r.prefixes) do
    for _, proto in ipairs(r.protos or { 255 }) do
      for _, range in ipairs(r.ports or { { 0, 65535 } }) do
        lines[#lines + 1] = ("%d %s %d %s/%d %d-%d"):format(r.id, r.dir, proto, p.addr, p.len, range[1], range[2])
      end
    end
  end
end

local function in_lua(text)
  local loaded, errors = policy.load({ sources = { { name = path, text = text } }, run_tests = true })
  local lines = {}
  if not loaded then
    for i, err in ipairs(errors) do lines[i] = policy.format_error(err) end
    return table.concat(lines, "\n")
  end
  for n, r in ipairs(loaded.rules) do
    lines[n] = ("%d %s %s %s %s %s %d %d"):format(n, r.action, r.text, r.where, r.reason, r.log ~= false, r.rate or 0,
      r.ttl or 0)
  end
  for _, r in ipairs(loaded.rules) do rule_entries(r, lines) end
  return table.concat(lines, "\n")
end

local function pick(list) return list[math.random(#list)] end

local actions = { "allow", "deny", "drop", "ask", "audit" }
local openings = { "tcp to ", "udp to ", "any to ", "tcp, udp to ", "in tcp from ", "out tcp to ", "icmp to ", "tcp,udp to ",
  "in udp from ", "tcp from ", "tcp  to ", "to ", "tcp port ", "47, 6 to ", "" }
local places = { "10.0.0.0/8", "10.0.0.7", "10.0.0.7/32", "0.0.0.0/0", "10.0.0.1/8", "256.0.0.1", "010.0.0.1", "10.0.0.0/33",
  "10.0.0.0/", "10.0.0.0/08", "10.0.0", "10.0.0.0.0", "10.0.0.0-10.0.0.9", "192.0.2.254/31", "192.0.2.255/31", "any",
  "x.example", "2001:db8::/32", "10.0.0.1, 10.0.0.2", "@s", "255.255.255.255", "10.0.0.7x", "10.0.0.7:80", "0.0.0.0/1",
  "128.0.0.0/1", "00000000010.0.0.1", "1.2.3.4/000000000000" }
local tails = { "", " port 80", " port 0", " port 65535", " port 65536", " port 0080", " port 80, 443", " port 80-90",
  " port https", " port nosuch", " port", " port 80,", " for box", " ", "  port 80", ", 10.9.9.9", " 80", " port 80 ",
  " port 000000080", " port 00080", " port 1,2, 3-4", " port 99999", "\\0", " port 8\\0" }

local function mutated(text)
  local at, how = math.random(#text + 1), math.random(3)
  local bytes = " ,./-0179aoprtx@:*"
  local n = math.random(#bytes)
  return text:sub(1, at - 1) .. (how == 1 and "" or bytes:sub(n, n)) .. text:sub(how == 3 and at or at + 1)
end

local function is_good(text) return policy.load({ sources = { { name = "p", text = text } } }) end

local function agree(text) assert.equal(in_lua(text), in_c(text), text) end

describe("rules taken in C", function()
  teardown(function() os.remove(path) end)

  it("are those of Lua for rule strings and their mutations", function()
    math.randomseed(11)
    for _ = 1, 150 do
      local good, all = { 'set "s" { "10.1.0.0/16" }' }, { 'set "s" { "10.1.0.0/16" }' }
      for _ = 1, 12 do
        local rule = pick(openings) .. pick(places) .. pick(tails)
        if math.random(3) == 1 then rule = mutated(rule) end
        rule = pick(actions) .. ' "' .. rule .. '"'
        all[#all + 1] = rule
        if is_good(good[1] .. "\n" .. rule) then good[#good + 1] = rule end
      end
      agree(table.concat(good, "\n"))
      agree(table.concat(all, "\n"))
    end
  end)

  it("are those of Lua for tables", function()
    math.randomseed(12)
    local protos = { '"tcp"', '"udp, tcp"', '"any"', '"icmp"', "6", '"TCP"', '"nosuch"', '""', '{"tcp"}', "true" }
    local ports = { "80", "0", "65535", "65536", "443.0", "-1", '"80"', '"080"', '"80, 90-95"', '"x"', "{80}", "0/0", '""' }
    local extra = { "", 'reason = "r"', 'reason = ""', 'reason = "a\\n"', 'reason = "a\\127"', 'reason = "ä"', "reason = 5",
      "log = false", 'dir = "in"', 'from = "any"', "nosuch = 1", '"x"', "ttl = 5", "private = true",
      'reason = string.rep("a", 200)', 'reason = string.rep("a", 201)' }
    for _ = 1, 400 do
      local lines = {}
      for _ = 1, 6 do
        local parts = { "proto = " .. pick(protos), 'to = "' .. pick(places) .. '"' }
        if math.random(3) > 1 then parts[#parts + 1] = "port = " .. pick(ports) end
        if math.random(2) == 1 then parts[#parts + 1] = pick(extra) end
        local rule = ("%s { %s }"):format(pick(actions), table.concat(parts, ", "))
        if is_good(rule) or math.random(30) == 1 then lines[#lines + 1] = rule end
      end
      agree(table.concat(lines, "\n"))
    end
  end)

  it("keep their place among those that Lua makes, and with options, tests and includes of a policy", function()
    agree([[
      policy "mixed"
      allow "tcp to 10.0.0.0/8 port 443"
      allow("udp to 10.0.0.1 port 53", { reason = "dns" })
      deny "tcp to 10.0.0.0/8 port 443, 8443"
      deny "tcp to 10.1.0.0/16 port 443, 8443"
      allow "tcp to 2001:db8::/32" allow "in udp from 10.0.0.9"
      drop { proto = "tcp, udp", to = "10.0.0.9", port = "1-5", reason = "why" }
      drop { proto = "tcp, udp", to = "10.0.0.8", port = "1-5" }
      deny "any to any"]])
    agree([[
      allow "tcp to 10.0.0.0/8 port 443"
      test { allow = "tcp to 10.0.0.1 port 443", deny = "tcp to 10.0.0.1 port 80" }]])
    agree([[
      allow "tcp to 10.0.0.0/8 port 443"
      test { deny = "tcp to 10.0.0.1 port 443" }]])
  end)

  it("are judged by the tests of a policy as by Lua", function()
    for _, test in ipairs({ 'allow = "tcp to 10.0.0.1 port 443"', 'deny = "tcp to 10.0.0.1 port 443"',
      'deny = { "udp to 10.0.0.1 port 443", "in tcp from 10.0.0.1 port 443" }', 'allow = "udp to 10.0.0.1 port 443"',
      'allow = "tcp to db.example at 192.0.2.1 port 443"', 'deny = "tcp to db.example at 192.0.2.1 port 443"',
      'allow = "tcp to db.example port 443"', 'allow = "tcp to db.example at 10.9.9.9 port 80"', 'deny = "nonsense"',
      'deny = "tcp to x.example port 443"', 'allow = "icmp to 10.0.0.7"', 'deny = "tcp to 2001:db8::1 port 1"' }) do
      agree(([[
        allow "tcp to 10.0.0.0/8 port 443"
        allow "tcp to db.example port 443"
        ask "icmp to 10.0.0.7"
        deny "udp to 10.0.0.0/8 port 443"
        audit "tcp to 2001:db8::/32"
        test { %s }]]):format(test))
    end
  end)

  it("are as many as a policy may have", function()
    local text = in_c('for i = 1, 250000 do deny("tcp to 10.0.0.0/8 port " .. (i % 65535 + 1)) end')
    assert.equal(500000, select(2, text:gsub("\n", "")) + 1)
    assert.matches("at most 250000 rules", in_c('for i = 1, 250001 do deny("tcp to 10.0.0.0/8 port 80") end'))
  end)
end)
