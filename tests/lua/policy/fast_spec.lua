-- The short way of the common rules (fast.lua) gives what the long way gives: rules, or problems.
require("tests.support.path")
local fast = require("lattice.policy.fast")
local policy = require("lattice.policy")

local long_way = { rule = function() return nil end }

local function outcome(text)
  local loaded, errors = policy.load({ sources = { { name = "p.lua", text = text } } })
  if loaded then return policy.print.dump(loaded) end
  local lines = {}
  for i, err in ipairs(errors) do lines[i] = policy.format_error(err) end
  return table.concat(lines, "\n")
end

local function both(text)
  local real = fast.new
  local short = outcome(text)
  fast.new = function() return long_way end
  local ok, long = pcall(outcome, text)
  fast.new = real
  assert(ok, long)
  return short, long
end

local function pick(list) return list[math.random(#list)] end

local actions = { "allow", "deny", "drop", "ask", "audit" }
local openings = {
  "tcp to ", "udp to ", "any to ", "tcp, udp to ", "in tcp from ", "out tcp to ", "icmp to ", "icmpv6 to ",
  "tcp,udp to ", "in udp from ", "any, tcp to ", "tcp from ", "in tcp to ", "tcp  to ", "to ", "tcp port ", "tcp at ",
}
local places = {
  "10.0.0.0/8", "10.0.0.7", "10.0.0.7/32", "0.0.0.0/0", "10.0.0.1/8", "256.0.0.1", "010.0.0.1", "10.0.0.0/33", "10.0.0.0/",
  "10.0.0.0/08", "10.0.0", "10.0.0.0.0", "10.0.0.0-10.0.0.9", "192.0.2.255/31", "any", "x.example", "2001:db8::/32",
  "10.0.0.1, 10.0.0.2", "@s", "255.255.255.255", "10.0.0.7x", "10.0.0.7:80",
}
local tails = {
  "", " port 80", " port 0", " port 65535", " port 65536", " port 0080", " port 80, 443", " port 80-90",
  " port 90-80", " port https",
  " port nosuch", " port", " port 80,", " port -80", " port 80 for box", " for \"box\"", " port for", " ", "  port 80",
  ", 10.9.9.9", " 80", " PORT 80", " port 80 ", " port 80 90", "\\tport 80", " port 000000080", " port 1,2, 3-4",
}

local function mutated(text)
  local at = math.random(#text + 1)
  local how, bytes = math.random(3), " ,./-0179aoprtx@:*"
  local n = math.random(#bytes)
  local middle = how == 1 and "" or bytes:sub(n, n)
  return text:sub(1, at - 1) .. middle .. text:sub(how == 3 and at or at + 1)
end

describe("the short way of common rules", function()
  it("is the long way for rule strings and their mutations", function()
    math.randomseed(7)
    for _ = 1, 400 do
      local lines = { 'set "s" { "10.1.0.0/16" }' }
      for _ = 1, 8 do
        local rule = pick(openings) .. pick(places) .. pick(tails)
        if math.random(2) == 1 then rule = mutated(rule) end
        lines[#lines + 1] = pick(actions) .. ' "' .. rule .. '"'
      end
      -- one bad rule hides what the good ones became, so each is also tried alone
      for i = 2, #lines do
        local short, long = both(lines[1] .. "\n" .. lines[i])
        assert.equal(long, short, lines[i])
      end
      local short, long = both(table.concat(lines, "\n"))
      assert.equal(long, short)
    end
  end)

  it("is the long way for tables", function()
    math.randomseed(8)
    local protos = { '"tcp"', '"udp, tcp"', '"any"', '"icmp"', "6", '"TCP"', '"nosuch"', '""', '{"tcp"}', "true" }
    local ports = { "80", "0", "65535", "65536", "443.0", "-1", '"80"', '"080"', '"80, 90-95"', '"x"', "{80}", "0/0", '""' }
    local extra = {
      "", 'reason = "r"', 'reason = ""', 'reason = "a\\n"', "reason = 5", "log = false", 'dir = "in"', 'from = "any"',
      "nosuch = 1", '"x"', "ttl = 5", "private = true", 'reason = string.rep("a", 201)',
    }
    for _ = 1, 3000 do
      local parts = { "proto = " .. pick(protos), 'to = "' .. pick(places) .. '"' }
      if math.random(3) > 1 then parts[#parts + 1] = "port = " .. pick(ports) end
      if math.random(2) == 1 then parts[#parts + 1] = pick(extra) end
      local text = ("%s { %s }"):format(pick(actions), table.concat(parts, ", "))
      if math.random(2) == 1 then -- what one rule left in a cache decides about the next
        text = ('allow { proto = "tcp", to = "10.0.0.1", port = 443 }\n%s'):format(text)
      end
      local short, long = both(text)
      assert.equal(long, short, text)
    end
  end)

  it("takes what it is for", function()
    local taken = 0
    local real = fast.new
    fast.new = function(checker)
      local made = real(checker)
      return { rule = function(_, raw, id)
        local rule = made:rule(raw, id)
        if rule then taken = taken + 1 end
        return rule
      end }
    end
    local ok, text = pcall(outcome, [[
      allow "tcp to 10.0.0.0/8 port 443"
      deny "in udp from 10.0.0.1"
      allow { proto = "tcp, udp", to = "10.0.0.9", port = "1-5", reason = "why" }
      allow "tcp to host.example port 443"]])
    fast.new = real
    assert(ok, text)
    assert.equal(3, taken)
  end)
end)
