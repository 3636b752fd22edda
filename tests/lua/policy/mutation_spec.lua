-- Rule and flow texts with random mistakes: loading never throws, errors have a place and nothing that acts on a terminal,
-- and what is accepted means the same when its canonical text is read again. LATTICE_SEED changes the texts.
require("tests.support.path")
local gen = require("tests.support.gen")
local policy = require("lattice.policy")

local ROUNDS = 8000
local pieces = {
  "tcp", "udp", "icmp", "47", "to", "from", "in", "out", "port", "for", "at", "any", "host", "mesh", "@db", "db", "*.",
  ".", "-", "/", "/8", "/33", "::", "::ffff:", "10.0.0.0", "10.0.0.1-10.0.0.9", "2001:db8::1", "https", "80-90", "0",
  "65536", ",", " ", "\t", "\v", "'", "\"", "\n", "\\", "%", "a.example", "xn--a", "_", "1e9", "99999999999999999999",
  "\255", "\0",
}

local function mutate(g, text)
  for _ = 1, g:pick(0, 4) do
    local at, kind = g:pick(1, #text + 1), g:pick(1, 4)
    if kind == 1 then
      text = text:sub(1, at - 1) .. g:one(pieces) .. text:sub(at)
    elseif kind == 2 then
      text = text:sub(1, at - 1) .. text:sub(at + g:pick(1, 4))
    elseif kind == 3 then
      text = text:sub(1, at - 1) .. string.char(g:pick(0, 255)) .. text:sub(at + 1)
    else
      text = ("%s %s %s"):format(text:sub(1, at - 1), g:one(pieces), text:sub(at))
    end
  end
  return text
end

local SET = 'set "db" { "10.0.0.0/8", "x.example" }\n'

local function load(text) return policy.load({ sources = { { name = "m.lua", text = SET .. text } } }) end

local function check_errors(errors)
  for _, err in ipairs(errors) do
    assert.is_number(err.line)
    local text = policy.format_error(err)
    assert.is_nil(text:find("[%c\127-\255]"), text)
  end
end

describe("a rule text with random mistakes", function()
  it("is refused with a place, or means what its canonical text means", function()
    local g = gen.new(math.tointeger(tonumber(os.getenv("LATTICE_SEED") or 1)))
    local accepted, refused = 0, 0
    for _ = 1, ROUNDS do
      local text = mutate(g, g:rule())
      local loaded, errors = load(("deny(%q)"):format(text))
      policy.flow.parse(text)
      if loaded then
        accepted = accepted + 1
        local rule = loaded.rules[1]
        local again = assert(load(rule.text), rule.text).rules[1]
        assert.same({ rule.text, rule.prefixes, rule.names, rule.protos, rule.ports, rule.dir, rule.any },
          { again.text, again.prefixes, again.names, again.protos, again.ports, again.dir, again.any })
        assert.is_true(rule.any or #rule.prefixes + #rule.names > 0 or text:lower():find("mesh") ~= nil)
      else
        refused = refused + 1
        check_errors(errors)
      end
    end
    assert.is_true(accepted > ROUNDS // 20 and refused > ROUNDS // 20)
  end)
end)
