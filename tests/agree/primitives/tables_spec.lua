-- The decision tables in C give the oracle's verdict and rule, on generated policies and flows. LATTICE_SEED changes
-- the sets, LATTICE_AGREE_SETS their number.
local gen = dofile("tests/support/gen.lua")
local policy = require("lattice.policy")
local tables = require("lattice.tables")

local first = math.tointeger(tonumber(os.getenv("LATTICE_SEED") or 1))
local sets = math.tointeger(tonumber(os.getenv("LATTICE_AGREE_SETS") or 220))
local FLOWS = 1000
local sizes = { 1, 3, 8, 20, 40, 60, 15 }

local function describe_flow(flow)
  return ("dir=%s proto=%d addr=%s port=%d names=%s"):format(flow.dir, flow.proto, flow.addr, flow.port,
    table.concat(flow.names or {}, ","))
end

local function describe_verdict(v)
  return ("%s (%s), rule %d at %s, reason %s"):format(v.verdict, v.action, v.rule, v.where, v.reason)
end

local function same(a, b)
  return a.verdict == b.verdict and a.action == b.action and a.rule == b.rule and a.where == b.where
    and a.reason == b.reason
end

local function compare(seed, count, flows, seen)
  local g = gen.new(seed)
  local text, made = gen.policy(g, count)
  local loaded, problems = policy.load({ sources = { { name = "gen.lua", text = text } } })
  if not loaded then
    error(("seed %d: the generated policy does not load: %s\n%s"):format(seed,
      policy.format_error(problems[1]), text))
  end
  local compiled <close> = assert(tables.build(loaded))
  assert.equal(count, #compiled)
  for _ = 1, flows do
    local flow = gen.flow(g, made)
    local want, got = policy.eval.judge(loaded, flow), compiled:judge(flow)
    if not same(want, got) then
      error(("seed %d, %d rules, flow %s\n oracle: %s\n tables: %s\n%s"):format(seed, count,
        describe_flow(flow), describe_verdict(want), describe_verdict(got), text))
    end
    seen[want.rule == 0 and "default" or "rule"] = seen[want.rule == 0 and "default" or "rule"] + 1
  end
end

describe("the decision tables", function()
  it(("agree with the oracle on %d sets x %d flows"):format(sets, FLOWS), function()
    local seen = { rule = 0, default = 0 }
    for seed = first, first + sets - 1 do
      compare(seed, sizes[seed % #sizes + 1], FLOWS, seen)
    end
    -- The flows must reach rules, or agreement means nothing.
    assert.is_true(seen.rule > sets * FLOWS // 4, "only " .. seen.rule .. " flows met a rule")
    assert.is_true(seen.default > sets * FLOWS // 20, "only " .. seen.default .. " flows met none")
  end)

  it("agree with the oracle on a policy of 2000 rules", function()
    compare(first + 100000, 2000, 1000, { rule = 0, default = 0 })
  end)
end)
