-- What becomes of a handler's answer: verdict, scope, time; whatever is odd is an error, which the program denies.
require("tests.support.path")
local generation = require("lattice.generation")
local policy = require("lattice.policy")

local function answer(text, kind, flow)
  local loaded = assert(policy.load({ sources = { { name = "h.lua", text = text } } }))
  return { generation.answer(loaded, kind, flow or { rule = 1, port = 22 }) }
end

describe("a handler's answer", function()
  it("is a verdict with scope, time and reason", function()
    assert.same({ "allow", false, 0, "" }, answer('on("ask", function() return "allow" end)', "ask"))
    assert.same({ "deny", "run", 0, "no" },
      answer('on("ask", function() return "deny", { scope = "run", reason = "no" } end)', "ask"))
    assert.same({ "allow", "run", 60, "" }, answer('on("ask", function() return true, { ttl = 60 } end)', "ask"))
  end)

  it("is for this flow, the process, the run or everyone, and for nobody else", function()
    local text = 'on("ask", function() return "allow", { scope = "%s", ttl = 9 } end)'
    assert.same({ "allow", false, 9, "" }, answer(text:format("once"), "ask"))
    for _, scope in ipairs({ "process", "run", "everyone" }) do
      assert.same({ "allow", scope, 9, "" }, answer(text:format(scope), "ask"))
    end
    assert.has_error(function() answer(text:format("always"), "ask") end,
      'on("ask") returned the scope always; it must be "once", "process", "run" or "everyone"')
  end)

  it("is kept for the ask rule's ttl unless it says otherwise", function()
    local rule = 'ask("tcp to any", { ttl = "10m" })\n'
    assert.same({ "allow", "run", 600, "" }, answer(rule .. 'on("ask", function() return "allow" end)', "ask"))
    assert.same({ "allow", "run", 5, "" }, answer(rule .. 'on("ask", function() return "allow", { ttl = 5 } end)', "ask"))
    assert.same({ "allow", false, 0, "" },
      answer(rule .. 'on("ask", function() return "allow", { scope = "once" } end)', "ask"))
  end)

  it("of nothing means the default for connect, and is an error otherwise", function()
    for default, verdict in pairs({ allow = "allow", audit = "allow", deny = "deny", drop = "deny" }) do
      local text = ('default "%s"\non("connect", function() end)'):format(default)
      assert.equal(verdict, answer(text, "connect", { rule = 0 })[1], default)
    end
    assert.has_error(function() answer('on("ask", function() end)', "ask") end)
    assert.has_error(function() answer('on("ask", function() return "yes" end)', "ask") end)
    assert.has_error(function() answer('on("dns", function() return 1 end)', "dns", {}) end)
  end)

  it("is a denial where there is no handler", function()
    assert.equal("deny", answer("", "ask")[1])
  end)
end)
