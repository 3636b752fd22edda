-- Rule text: what is accepted in which form, and for each mistake the place, the expectation and the suggestion.
-- luacheck: no max line length
require("tests.support.path")
local policy = require("lattice.policy")

local function load(text) return policy.load({ sources = { { name = "p", text = text } } }) end

--- The rule of a string, from its IR.
local function rule(text)
  local loaded, errors = load(("allow(%q)"):format(text))
  if not loaded then error(policy.format_error(errors[1])) end
  return loaded.rules[1], loaded.warnings
end

--- The first error of a rule string, without the file.
local function problem(text)
  local loaded, errors = load(('allow "%s"'):format(text))
  assert.is_nil(loaded, text)
  return (policy.format_error(errors[1]):gsub("^p:1:", ""))
end

describe("a rule string", function()
  local canonical = {
    ["tcp to any"] = 'allow "tcp to any"',
    ["  TCP   to  ANY  "] = 'allow "tcp to any"',
    ["out tcp to any"] = 'allow "tcp to any"',
    ["in any from any"] = 'allow "in any from any"',
    ["6,17 to 10.0.0.0/8"] = 'allow "tcp, udp to 10.0.0.0/8"',
    ["tcp to 10.0.0.1/32"] = 'allow "tcp to 10.0.0.1"',
    ["tcp to 2001:DB8:0:0::/32"] = 'allow "tcp to 2001:db8::/32"',
    ["tcp to ::1.2.3.4"] = 'allow "tcp to ::1.2.3.4"',
    ["tcp to 10.0.0.1 - 10.0.0.2"] = false,
    ["tcp to 10.0.0.1-10.0.0.2"] = 'allow "tcp to 10.0.0.1-10.0.0.2"',
    ["tcp to A.Example."] = 'allow "tcp to a.example"',
    ["tcp to *.A.Example"] = 'allow "tcp to *.a.example"',
    ["tcp to a-b.c_d.example"] = 'allow "tcp to a-b.c_d.example"',
    ["tcp to dead-beef.example"] = 'allow "tcp to dead-beef.example"',
    ["tcp to toast.example, port.example"] = 'allow "tcp to toast.example, port.example"',
    ["tcp to nas. port 445"] = 'allow "tcp to nas. port 445"',
    ["any to any port 53"] = 'allow "any to any port 53"',
    ["tcp to any port https,HTTP, 1-65535"] = 'allow "tcp to any port 443, 80, 1-65535"',
    ["tcp to any port 22 for ci"] = "allow \"tcp to any port 22 for 'ci'\"",
    ["tcp to any for 'My Box'"] = "allow \"tcp to any for 'My Box'\"",
    ["254 to any"] = 'allow "254 to any"',
    ["tcp\tto\nany"] = 'allow "tcp to any"',
  }
  for text, expected in pairs(canonical) do
    it(("in canonical form: %q"):format(text):gsub("\n", " "), function()
      if expected then
        assert.equal(expected, rule(text).text)
      else
        assert.has_error(function() rule(text) end)
      end
    end)
  end

  local mistakes = {
    { "", "1: the rule is empty (expected a protocol: tcp, udp, icmp, icmpv6, any or a number)" },
    { "to any", "8: unexpected 'to' (expected a protocol: tcp, udp, icmp, icmpv6, any or a number)" },
    { "tcp", "11: the rule ends too early (expected 'to' or 'from')" },
    { "tcp to", "14: the rule ends too early (expected an address, a prefix, a name or any, host, mesh)" },
    { "tcp to any port", "23: the rule ends too early (expected a port)" },
    { "tcp to any,", "19: the rule ends too early (expected an address, a prefix, a name or any, host, mesh)" },
    { "tcp to any any", "19: unexpected 'any' (expected ',', 'port', 'for' or the end of the rule)" },
    { "tcp to any prot 80", "19: unexpected 'prot' (expected ',', 'port', 'for' or the end of the rule; did you mean port?)" },
    { "tcp, any to any", "8: 'any' already covers the other protocols" },
    { "0 to any", "8: protocol 0 is out of range (expected 1 to 254)" },
    { "255 to any", "8: protocol 255 is out of range (expected 1 to 254)" },
    { "tcp to 10.0.0.0/33", "23: '/33' is not a prefix length (expected 0 to 32)" },
    { "tcp to ::/129", "17: '/129' is not a prefix length (expected 0 to 128)" },
    { "tcp to 10.0.0.0/", "23: '/' is not a prefix length (expected 0 to 32)" },
    { "tcp to 10.0.0.0/08", "23: '/08' is not a prefix length (expected 0 to 32)" },
    { "tcp to 010.0.0.0/8", "15: '010.0.0.0/8' is not a prefix: its length must follow an IP address (expected such as 10.0.0.0/8 or 2001:db8::/32)" },
    { "tcp to 10.1.0.0/8", "15: 10.1.0.0/8 has bits set beyond its prefix length (did you mean 10.0.0.0/8?)" },
    { "tcp to 2001:db8::1/32", "15: 2001:db8::1/32 has bits set beyond its prefix length (did you mean 2001:db8::/32?)" },
    { "tcp to db.example/24", "15: 'db.example/24' is not a prefix: its length must follow an IP address (expected such as 10.0.0.0/8 or 2001:db8::/32)" },
    { "tcp to 10.0.0.2-10.0.0.1", "15: the range 10.0.0.2-10.0.0.1 is reversed (expected the lower address first; did you mean 10.0.0.1-10.0.0.2?)" },
    { "tcp to 10.0.0.2-::1", "15: a range must stay in one address family" },
    { "tcp to 10.0.0.2-", "15: '' is not an IP address: a range has one on both sides" },
    { "tcp to 10.0.0.2-x.example", "15: 'x.example' is not an IP address: a range has one on both sides" },
    { "tcp to ::ffff:10.0.0.1", "15: a v4-mapped IPv6 address: write it as IPv4 (did you mean 10.0.0.1?)" },
    { "tcp to ::ffff:0:0/96", "15: a v4-mapped IPv6 address: write it as IPv4 (did you mean 0.0.0.0?)" },
    { "tcp to fe80::1%eth0", "15: an address with a scope cannot be matched (did you mean fe80::1?)" },
    { "tcp to 127.1", "15: '127.1': this is neither an IP address nor a name (expected an IPv4 address of four decimal parts)" },
    { "tcp to 0x7f000001", "15: '0x7f000001': this is neither an IP address nor a name (expected an IPv4 address of four decimal parts)" },
    { "tcp to 2130706433", "15: '2130706433': this is neither an IP address nor a name (expected an IPv4 address of four decimal parts)" },
    { "tcp to 10.0.0.256", "15: '10.0.0.256' is not an IPv4 address (expected four decimal parts, each at most 255 and without leading zeros)" },
    { "tcp to a..example", "17: 'a..example': the name has an empty label" },
    { "tcp to -", false },
    { "tcp to a.*.example", "17: 'a.*.example': a wildcard stands only at the start, as *.name" },
    { "tcp to *", "15: '*': a wildcard stands only at the start, as *.name" },
    { "tcp to b\195\188cher.example", "16: 'b\\xc3\\xbccher.example': a name is ASCII: write an international name in its xn-- form" },
    { "tcp to localhost", "15: unknown word or set 'localhost' (expected a name with a dot: write 'localhost.' for a name of one label; did you mean host?)" },
    { "tcp to anny", "15: unknown word or set 'anny' (expected a name with a dot: write 'anny.' for a name of one label; did you mean any?)" },
    { "tcp to @db", "15: there is no set 'db'" },
    { "tcp to a.example:443", "24: the port stands apart (did you mean a.example port 443?)" },
    { "tcp to https://a.example/x", "15: a URL cannot be matched, a host can (did you mean a.example?)" },
    { "tcp to any port 0", "24: port 0 is out of range (expected 1 to 65535)" },
    { "tcp to any port 65536", "24: port 65536 is out of range (expected 1 to 65535)" },
    { "tcp to any port 80-", "24: the port range '80-' has no end (expected LO-HI)" },
    { "tcp to any port 90-80", "24: the port range 90-80 is reversed (expected the lower port first; did you mean 80-90?)" },
    { "tcp to any port 0-80", "24: port 0 is out of range (expected 1 to 65535)" },
    { "tcp to any port htpps", "24: unknown port 'htpps' (expected a number, LO-HI or a service such as https; did you mean https?)" },
    { "icmp to any port 8", "25: icmp has no ports (expected 'port' only with tcp, udp or any)" },
    { "tcp, 47 to any port 8", "28: protocol 47 has no ports (expected 'port' only with tcp, udp or any)" },
    { "in tcp to any", "15: an 'in' rule names where the flow comes from (expected 'from')" },
    { "out tcp from any", "16: 'from' belongs to the direction 'in' (did you mean in tcp from any?)" },
    { "tcp from any", "12: 'from' belongs to the direction 'in' (did you mean in tcp from any?)" },
    { "deny tcp to any", "8: the action 'deny' stands before the string (did you mean deny \"tcp to any\"?)" },
    { "\11 to any", "8: unknown protocol '\\x0b' (expected tcp, udp, icmp, icmpv6, any or a number)" },
    { "tcp to any port \11", "24: unknown port '\\x0b' (expected a number, LO-HI or a service such as https)" },
    { "tcp to any for", "22: the rule ends too early (expected a sandbox name)" },
  }
  for _, case in ipairs(mistakes) do
    it("is refused with place and hint: " .. case[1]:gsub("[%c\128-\255]", "?"), function()
      local message = problem(case[1])
      if case[2] then assert.equal(case[2], message) end
    end)
  end
end)

describe("the table form", function()
  it("says the same as the string", function()
    local loaded = assert(load([[
allow { proto = "tcp", to = "10.0.0.0/8, a.example", port = "80, 90-99" }
allow { proto = { "udp", 6 }, to = { "10.0.0.0/8", "a.example" }, port = { 80, "90-99" } }
allow { proto = "any", from = "10.0.0.0/8" }
allow { dir = "in", proto = "any", from = "10.0.0.0/8", port = 22 }
]]))
    local texts = {}
    for i, r in ipairs(loaded.rules) do texts[i] = r.text end
    assert.same({
      'allow "tcp to 10.0.0.0/8, a.example port 80, 90-99"',
      'allow "udp, tcp to 10.0.0.0/8, a.example port 80, 90-99"',
      'allow "in any from 10.0.0.0/8"', 'allow "in any from 10.0.0.0/8 port 22"',
    }, texts)
  end)

  local mistakes = {
    { '{ proto = "tcp" }', "the rule names no place" },
    { '{ to = "any" }', "the rule names no protocol" },
    { '{ proto = "tcp", to = "any", from = "any" }', "not both" },
    { '{ proto = "tcp", to = "any", dir = "in" }', "an 'in' rule names where" },
    { '{ proto = "tcp", from = "any", dir = "out" }', "'from' belongs to the direction 'in'" },
    { '{ proto = "tcp", to = "any", dir = "up" }', "dir cannot be 'up'" },
    { '{ proto = "tcp", to = "any", ports = 80 }', "p:1:35: unknown key 'ports' (did you mean port?)" },
    { '{ proto = "tcp", to = "any", port = 70000 }', "port 70000 is out of range" },
    { '{ proto = "tcp", to = "any", port = 80.5 }', "port cannot be a number" },
    { '{ proto = "tcp", to = {} }', "to is empty" },
    { '{ proto = "tcp", to = "any", reason = 5 }', "reason cannot be 5" },
    { '{ proto = "tcp", to = "any", log = "yes" }', "log cannot be 'yes'" },
    { '{ proto = "tcp", to = "any", private = 1 }', "private cannot be 1" },
    { '{ proto = "tcp", to = "any", rate = "20/h" }', "rate cannot be '20/h'" },
    { '{ proto = "tcp", to = "any", ttl = "soon" }', "ttl cannot be 'soon'" },
    { '{ proto = "tcp", to = "any", errno = "ENOENT" }', "errno cannot be 'ENOENT'" },
    { '{ proto = "tcp", to = "any", uid = -1 }', "uid cannot be -1" },
    { '{ proto = "tcp", to = "any", exe = "curl" }', "exe cannot be 'curl'" },
    { '("tcp to any", { port = 80 })', "'port' belongs into the rule text" },
    { '("tcp to any", "why")', "the options of a rule are a table" },
    { '(42)', "allow takes a rule, not 42" },
  }
  for _, case in ipairs(mistakes) do
    it("is refused: " .. case[1], function()
      local loaded, errors = load("allow" .. case[1])
      assert.is_nil(loaded)
      local message = policy.format_error(errors[1])
      assert.truthy(message:find(case[2], 1, true), message)
    end)
  end

  it("keeps false options", function()
    local loaded = assert(load('allow("tcp to any", { log = false, private = false })'))
    assert.is_false(loaded.rules[1].log)
    assert.is_false(loaded.rules[1].private)
  end)
end)

describe("a flow text", function()
  local good = {
    ["tcp to 10.0.0.7 port 5432"] = { dir = "out", proto = 6, addr = "10.0.0.7", port = 5432 },
    ["in udp from 2001:DB8::1 port 53"] = { dir = "in", proto = 17, addr = "2001:db8::1", port = 53 },
    ["TCP to API.Example.com port https"] = { dir = "out", proto = 6, names = { "api.example.com" }, port = 443 },
    ["tcp to a.example at 10.0.0.7 port 1"] = { dir = "out", proto = 6, names = { "a.example" }, addr = "10.0.0.7", port = 1 },
    ["icmp to ::ffff:10.0.0.7"] = { dir = "out", proto = 1, addr = "10.0.0.7" },
  }
  for text, flow in pairs(good) do
    it("is read: " .. text, function() assert.same(flow, (policy.flow.parse(text))) end)
  end
  for _, text in ipairs({
    "", "tcp to any port 1", "any to 10.0.0.1 port 1", "tcp to 10.0.0.0/8 port 1", "tcp to 10.0.0.1",
    "tcp to 10.0.0.1 port 1-2", "tcp to 10.0.0.1 port 1, 2", "tcp to 10.0.0.1, 10.0.0.2 port 1",
    "tcp, udp to 10.0.0.1 port 1", "icmp to 10.0.0.1 port 1", "in tcp to 10.0.0.1 port 1",
    "tcp from 10.0.0.1 port 1", "tcp to 10.0.0.1 at 10.0.0.2 port 1", "tcp to *.example port 1",
    "tcp to a.example at b.example port 1", "tcp to a.example:80",
  }) do
    it("is refused: " .. text, function()
      local flow, err = policy.flow.parse(text)
      assert.is_nil(flow)
      assert.is_string(err.message)
      assert.is_number(err.pos)
    end)
  end
end)
