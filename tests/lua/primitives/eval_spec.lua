-- lattice.eval, and the REPL's module in it: whatever a text does, this process goes on, and the text's end is told.
local api = require("lattice.api")
local eval = require("lattice.eval")
local json = require("lattice.json")
local loop = require("lattice.loop")

local limits = { module = "lattice.control.repl.inside", memory = 32 << 20, instructions = 50000000, deadline_ms = 3000,
  cpu_ms = 3000, calls = 1000, output = 64 << 10 }

describe("lattice.eval", function()
  local state, output, result, problem, why, answer, over

  before_each(function()
    answer = function() return "{}" end
    state = assert(eval.open(limits, function(kind, a, b, c)
      if kind == "output" then
        output = output .. a
      elseif kind == "call" then
        local text, failed = answer(b, c)
        if text or failed then state:answer(a, text, failed) end
      else
        result, problem, why, over = a and json.decode(a), b, c, true
      end
    end))
  end)

  after_each(function()
    state:close()
    loop.run("nowait")
  end)

  local function begin(code)
    output, result, problem, why, over = "", nil, nil, nil, false
    assert(state:run(json.encode({ op = "eval", code = code, width = 80 })))
  end

  local function run(code)
    begin(code)
    while not over do loop.run("once") end
    return result
  end

  it("gives what a text gives", function()
    assert.is_true(run("1 + 1").ok)
    assert.equal("2\n", output)
    run("x = { 1, 2 }")
    run("x")
    run("#x, _ == x")
    assert.equal("2\ntrue\n", output)
  end)

  local hostile = {
    { "an endless loop", "while true do end", "instructions" },
    { "an endless loop that catches its end", "while true do pcall(function() while true do end end) end", "instructions" },
    { "an endless handler of errors", "xpcall(error, function() while true do end end) while true do end", "instructions" },
    { "tables without end", 'local t = {} while true do t[#t + 1] = ("x"):rep(1000) .. #t end' },
    { "doubled strings", 'local s = "x" while true do s = s .. s end' },
    { "recursion without end", "local function f() return 1 + f() end f()" },
    { "a pattern that never ends", '("a"):rep(40):find(("a?"):rep(40) .. ("a"):rep(40))' },
    { "two gigabytes of x", '("x"):rep(1 << 31)' },
    { "an error that cannot be told", 'error(setmetatable({}, { __tostring = function() error({}) end }))' },
    { "an error whose text is a table", 'error(setmetatable({}, { __tostring = function() return {} end }))' },
    { "an error of nil", "error(nil)" },
    { "bytecode", 'assert(load("\27Lua"))' },
    { "a coroutine", "coroutine.wrap(function() end)()" },
    { "a finalizer", "setmetatable({}, { __gc = function() while true do end end })" },
    { "files", 'io.open("/etc/passwd")' },
    { "programs", 'os.execute("true")' },
    { "modules", 'require("lattice.sys")' },
    { "the inside of functions", "debug.getinfo(1)" },
    { "the metatable of strings", 'getmetatable("").__index = nil' },
    { "a way round by load", 'load("return io")().open("/etc/passwd")' },
    { "sorting without order", "local t = {} for i = 1, 1e5 do t[i] = i end "
      .. "table.sort(t, function() while true do end end)", "instructions" },
  }
  for _, case in ipairs(hostile) do
    it("ends " .. case[1], function()
      run(case[2])
      assert.is_false(result and result.ok or false, output)
      assert.is_truthy(problem or result.error)
      if case[3] then assert.equal(case[3], why) end
      assert.is_true(run("1 + 1").ok)
      assert.equal("2\n", output)
    end)
  end

  it("cuts what is written, and what is shown", function()
    assert.is_true(run('for _ = 1, 5000 do print(("x"):rep(100)) end').cut)
    assert.is_true(#output <= limits.output)
    run('("x"):rep(10000000)')
    assert.is_true(#output <= limits.output)
    run("local t = {} for i = 1, 20000 do t[i] = { a = i } end return t")
    assert.is_true(#output <= limits.output)
    run("local t = {} t.t = t return t")
    assert.matches("cycle", output)
  end)

  it("shows no control character of a text's values", function()
    run([[print("\27[2J\155\226\128\174") return { a = "\27]0;x\7" }]])
    assert.is_nil(output:find("[\0-\8\11-\31\127]"))
    assert.is_truthy(utf8.len(output))
  end)

  it("waits for answers of its owner, and is told of failures", function()
    answer = function(name) return name == "devices" and '[{"name":"wf0"}]' or nil, "not today" end
    run("devices()[1].name")
    assert.equal("wf0\n", output)
    assert.equal("not today", run("peers()").error)
  end)

  it("is interrupted while it runs and while it waits", function()
    answer = function() end
    for _, code in ipairs({ "status()", "while true do pcall(status) end", "print(1) while true do end" }) do
      begin(code)
      loop.timer(20, function() state:interrupt() end)
      while not over do loop.run("once") end
      assert.is_truthy(problem or not result.ok, code)
    end
    assert.is_true(run("1").ok)
  end)

  it("does one thing at a time", function()
    begin("while true do end")
    local ok, _, code = state:run("{}")
    assert.is_nil(ok)
    assert.equal("EBUSY", code)
    state:interrupt()
    while not over do loop.run("once") end
  end)

  it("stops asking for ever", function()
    run("while true do pcall(status) end")
    assert.truthy(why == "instructions" or why == "time", why) -- where each step is slow, time ends first
  end)

  it("is closed while it runs, and nothing is left", function()
    begin("while true do end")
    local before = api.boxes()
    state:close()
    assert.equal(before - 1, api.boxes())
    loop.run()
  end)
end)
