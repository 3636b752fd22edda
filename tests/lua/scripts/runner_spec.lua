-- The test runner counts what really happened: a crash, a lost plan and a time-out are failures.
local steps = require("support.steps")
local Tally = require("support.tally")

describe("the runner", function()
  local tally

  before_each(function()
    tally = Tally.new()
  end)

  it("counts TAP with skips and their reasons", function()
    local results, failed, complete = steps.tap("ok 1 - a\nnot ok 2 - b\nok 3 - c # SKIP needs a moon\n1..3\n",
      tally, "here")
    assert.same({ 3, 1, true }, { results, failed, complete })
    assert.equal("1 passed, 1 failed, 1 skipped", tally:line())
    assert.same({ "here: c" }, tally.skips["needs a moon"])
  end)

  it("sees that a stream broke off before its plan", function()
    local _, _, complete = steps.tap("ok 1 - a\n", tally, "here")
    assert.is_false(complete)
  end)

  it("takes no result from a line that only looks like one", function()
    assert.equal(0, (steps.tap("okay\nnot okay\n  ok then\n", tally, "here")))
  end)

  it("counts each test of a cmocka program, with the line before a skip as its reason", function()
    steps.junit([[<testcase name="unit.x" status="run"><system-out>[ RUN      ] b
no root here
[  SKIPPED ] b
[  PASSED  ] 3 test(s).
[  SKIPPED ] 1 test(s), listed below:
[  SKIPPED ] b
</system-out></testcase>]], tally)
    assert.equal("3 passed, 0 failed, 1 skipped", tally:line())
    assert.same({ "no root here" }, tally.reasons)
  end)

  it("counts a program that crashed before its own count as one failure", function()
    local write = io.write
    io.write = function() end -- luacheck: ignore 122
    steps.junit('<testcase name="unit.x" status="fail"><failure message=""/><system-out></system-out></testcase>',
      tally)
    io.write = write -- luacheck: ignore 122
    assert.equal("0 passed, 1 failed, 0 skipped", tally:line())
  end)

  it("counts an exit status of 77 with its last line as a skip", function()
    steps.junit('<testcase name="unit.x" status="notrun"><skipped message="77"/><system-out>skipped: no tun\n'
      .. "</system-out></testcase>", tally)
    assert.same({ "no tun" }, tally.reasons)
  end)

  it("stops what runs too long", function()
    local good, how = steps.run("exec tail -f /dev/null", os.tmpname(), 1)
    assert.is_false(good)
    assert.equal("stopped after 1 s", how)
  end)
end)
