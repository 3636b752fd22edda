local records = dofile("tests/support/records.lua")
local line = records.line
local binary = (os.getenv("LATTICE_BUILD") or "build") .. "/lattice"

-- Runs `lattice log` with these words; its stdout, stderr and exit status.
local function log(words)
  local err = os.tmpname()
  local pipe = assert(io.popen(("%s log %s 2>%s"):format(binary, words, err)))
  local out = pipe:read("a")
  local _, _, status = pipe:close()
  local file = assert(io.open(err))
  local message = file:read("a")
  file:close()
  os.remove(err)
  return out, message, status
end

local function count(text) return select(2, text:gsub("\n", "\n")) end

describe("lattice log", function()
  local text = table.concat({
    line("start", { time = 1000 }),
    line("verdict", { seq = 2, name = "a.example", program = "curl" }),
    line("verdict", { seq = 3, name = "b.example", action = "deny", time = os.time() * 1000 }),
    line("verdict", { seq = 4, addr = "10.0.0.7", action = "deny" }),
    line("dns", { seq = 5, name = "evil.example", action = "deny", rcode = 5, qtype = 1 }),
    line("exit", { seq = 6, status = 3 }),
  }, "\n") .. "\n"

  it("prints a line for each record, and the records themselves with --json", function()
    local file <close> = records.file(text)
    local out, err, status = log(file.path)
    assert.same({ 6, "", 0 }, { count(out), err, status })
    out, err, status = log("--json " .. file.path)
    assert.same({ text, "", 0 }, { out, err, status })
  end)

  it("joins filters of different kinds by AND, of one kind by OR", function()
    local file <close> = records.file(text)
    assert.equal(3, count((log("--denied " .. file.path))))
    assert.equal(2, count((log("--denied --host '*.example' " .. file.path))))
    assert.equal(3, count((log("--host a.example --host 10.0.0.7 --host B.EXAMPLE " .. file.path))))
    assert.equal(1, count((log("--denied --host a.example --host b.example " .. file.path))))
    assert.equal(2, count((log("--kind start --kind exit " .. file.path))))
    assert.equal(1, count((log("--since 1h " .. file.path))))
    assert.equal(0, count((log("--host example " .. file.path))))
    assert.matches("status 3\n$", (log("--last 1 " .. file.path)))
    assert.equal(2, count((log("--last 2 --denied " .. file.path))))
    assert.matches("AND", (log("--help")))
  end)

  it("reads stdin", function()
    local file <close> = records.file(text)
    assert.equal(6, count((log("- <" .. file.path))))
  end)

  it("--check says complete with 0, and names the gap with 1", function()
    local file <close> = records.file(text)
    assert.same({ "complete: 6 records, 1 run\n", "", 0 }, { log("--check " .. file.path) })
    local holed <close> = records.file((text:gsub("[^\n]*b%.example[^\n]*\n", "")))
    local out, _, status = log("--check " .. holed.path)
    assert.equal(1, status)
    assert.matches("record 3 is missing", out, 1, true)
    local torn <close> = records.file(text:sub(1, -9))
    out, _, status = log("--check " .. torn.path)
    assert.equal(1, status)
    assert.matches("the last line is cut off", out, 1, true)
  end)

  it("--check follows a log over rotated files, and has JSON", function()
    local half = select(2, text:find("\n.-\n.-\n"))
    local old <close> = records.file(text:sub(1, half))
    local new <close> = records.file(text:sub(half + 1))
    assert.equal(0, (select(3, log(("--check %s %s"):format(old.path, new.path)))))
    assert.equal(1, (select(3, log("--check " .. new.path))))
    local out = log("--check --json " .. new.path)
    local value = require("lattice.json").decode(out)
    assert.same({ "lattice/log-check/v1", false, 1, 1, 3 }, { value.schema, value.complete, #value.gaps,
      value.gaps[1].from, value.gaps[1].to })
  end)

  it("goes on past garbage and fails in the end, but not for a torn last line", function()
    local garbage <close> = records.file(line("start") .. "\nxx\n" .. line("exit", { seq = 2 }) .. "\n")
    local out, err, status = log(garbage.path)
    assert.same({ 2, 1 }, { count(out), status })
    assert.matches(":2: not a JSON object", err, 1, true)
    local torn <close> = records.file(text:sub(1, -9))
    out, err, status = log(torn.path)
    assert.same({ 5, 0 }, { count(out), status })
    assert.matches("cut off", err, 1, true)
  end)

  it("refuses odd words with 2 and a missing file with 1", function()
    for _, words in ipairs({ "--since yesterday x", "--last 0 x", "--last many x", "--kind verdicts x",
      "--check --denied x", "--what x" }) do
      assert.equal(2, (select(3, log(words))), words)
    end
    local _, err, status = log("/nonexistent/x.jsonl")
    assert.equal(1, status)
    assert.matches("/nonexistent/x.jsonl", err, 1, true)
  end)
end)
