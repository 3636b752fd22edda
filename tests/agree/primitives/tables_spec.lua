-- The decision tables in C give the oracle's verdict and rule, on generated policies and flows. LATTICE_SEED changes
-- the sets, LATTICE_AGREE_SETS their number.
local policy = require("lattice.policy")
local tables = require("lattice.tables")
local own, common = dofile("tests/agree/gen.lua"), dofile("tests/support/gen.lua")

local first = math.tointeger(tonumber(os.getenv("LATTICE_SEED") or 1))
local sets = math.tointeger(tonumber(os.getenv("LATTICE_AGREE_SETS") or 440))
local FLOWS = 1000
local sizes = { 1, 3, 8, 20, 40, 60, 15 }

local function describe_flow(flow)
  return ("dir=%s proto=%d addr=%s port=%s names=%s"):format(flow.dir, flow.proto, flow.addr, flow.port,
    table.concat(flow.names or {}, ","))
end

local function describe_verdict(v)
  return ("%s (%s), rule %d at %s, reason %s"):format(v.verdict, v.action, v.rule, v.where, v.reason)
end

local function same(a, b)
  return a.verdict == b.verdict and a.action == b.action and a.rule == b.rule and a.where == b.where
    and a.reason == b.reason
end

local function load(seed, text)
  local loaded, problems = policy.load({ sources = { { name = "gen.lua", text = text } } })
  if loaded then return loaded end
  error(("seed %d: the generated policy does not load: %s\n%s"):format(seed, policy.format_error(problems[1]), text))
end

-- A policy's text, the loaded policy and flows for it, by one of the two generators.
local makers = {
  function(seed, count, flows)
    local g = own.new(seed)
    local text, made = own.policy(g, count)
    local list = {}
    for i = 1, flows do list[i] = own.flow(g, made) end
    return text, load(seed, text), list
  end,
  function(seed, count, flows)
    local g = common.new(seed)
    local text = g:policy(count)
    local loaded = load(seed, text)
    return text, loaded, g:flows(loaded, flows, true)
  end,
}

local function compare(maker, seed, count, flows, seen)
  local text, loaded, list = makers[maker](seed, count, flows)
  local compiled <close> = assert(tables.build(loaded))
  assert.equal(#loaded.rules, #compiled)
  for _, flow in ipairs(list) do
    if flow.addr then -- a flow known by name only is for people; the tables judge addresses
      local want, got = policy.eval.judge(loaded, flow), compiled:judge(flow)
      if not same(want, got) then
        error(("generator %d, seed %d, %d rules, flow %s\n oracle: %s\n tables: %s\n%s"):format(maker, seed, count,
          describe_flow(flow), describe_verdict(want), describe_verdict(got), text))
      end
      local met = want.rule == 0 and "default" or "rule"
      seen[met] = seen[met] + 1
    end
  end
end

describe("the decision tables", function()
  it(("agree with the oracle on %d sets x %d flows"):format(sets, FLOWS), function()
    local seen = { rule = 0, default = 0 }
    for seed = first, first + sets - 1 do
      compare(seed % 2 + 1, seed, sizes[seed % #sizes + 1], FLOWS, seen)
    end
    -- The flows must reach rules, or agreement means nothing.
    local flows = seen.rule + seen.default
    assert.is_true(flows > sets * FLOWS * 9 // 10, flows .. " flows were judged")
    assert.is_true(seen.rule > flows // 4, "only " .. seen.rule .. " flows met a rule")
    assert.is_true(seen.default > flows // 20, "only " .. seen.default .. " flows met none")
  end)

  it("agree with the oracle on policies of 2000 rules", function()
    for maker in ipairs(makers) do compare(maker, first + 100000, 2000, 1000, { rule = 0, default = 0 }) end
  end)
end)
