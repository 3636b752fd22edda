local check = require("lattice.audit.check")
local format = require("lattice.audit.format")
local learn = require("lattice.audit.learn")
local policy = require("lattice.policy")
local reader = require("lattice.audit.reader")
local records = dofile("tests/support/records.lua")

local line = records.line

local function read(text)
  local file <close> = records.file(text)
  local list, problems = {}, {}
  for record in reader.records(file.path, function(p) problems[#problems + 1] = p end) do
    list[#list + 1] = record
  end
  return list, problems
end

local function parse(...) return assert(reader.parse(line(...))) end

describe("the audit reader", function()
  it("reads a flow with its process, rule and name", function()
    local r = parse("verdict", { name = "api.example", program = "curl", rule = 3, where = "a.lua:7", seq = 9,
      action = "deny", text = "no" })
    assert.same({ "verdict", "deny", false, "out", 6, "203.0.113.9", 443, "api.example", 812, "curl", 1000, 3,
      "a.lua:7", 9, "r1", "no" }, { r.kind, r.action, r.passed, r.dir, r.proto, r.addr, r.port, r.name, r.pid,
      r.program, r.uid, r.rule, r.where, r.seq, r.run, r.text })
    r = parse("verdict", { dir = "in", addr = "10.0.0.7", port = 22, action = "deny", audit_only = true })
    assert.same({ "in", "10.0.0.7", 22, true }, { r.dir, r.addr, r.port, r.passed })
  end)

  it("names the line of garbage and goes on", function()
    local list, problems = read(table.concat({ line("start"), "garbage", line("verdict", { seq = 2 }), "", "{}",
      '{"metadata":1,"unmapped":{"lattice":{}}}', "[1]", line("exit", { seq = 3 }) }, "\n") .. "\n")
    assert.equal(3, #list)
    assert.same({ 1, 3, 8 }, { list[1].at, list[2].at, list[3].at })
    local at = {}
    for i, p in ipairs(problems) do
      at[i] = p.at
      assert.is_false(p.torn)
    end
    assert.same({ 2, 4, 5, 6, 7 }, at)
  end)

  it("says which field is odd", function()
    local function what(from, to)
      local changed, n = line("verdict"):gsub(from, to)
      assert.equal(1, n)
      return select(2, reader.parse(changed))
    end
    assert.matches("'metadata.sequence' is no integer", what('"sequence":1', '"sequence":"1"'))
    assert.matches("'metadata.sequence' is missing", what('"sequence":1,', ""))
    assert.matches("'unmapped.lattice.rule' is no integer", (what('"rule":0', '"rule":1.5'):gsub("'rule'",
      "'unmapped.lattice.rule'")))
    assert.matches("port' is negative", what('"port":443', '"port":-1'))
  end)

  it("takes a torn last line for what it is, and a whole one without its newline", function()
    local whole = line("start") .. "\n" .. line("exit", { seq = 2 })
    assert.equal(2, #read(whole))
    local list, problems = read(whole:sub(1, -5))
    assert.equal(1, #list)
    assert.same({ { 2, true } }, { { problems[1].at, problems[1].torn } })
  end)

  it("skips a line without end in bounded memory", function()
    local huge = ("x"):rep(3 << 20)
    local list, problems = read(line("start") .. "\n" .. huge .. "\n" .. line("exit", { seq = 2 }) .. "\n" .. huge)
    assert.same({ 2, 2 }, { #list, #problems })
    assert.same({ 2, 4 }, { problems[1].at, problems[2].at })
    assert.equal(3, list[2].at)
  end)

  it("reads lines that begin and end at the edge of a block", function()
    local one = line("verdict") .. "\n"
    local text = one:rep((1 << 16) // #one + 3)
    assert.equal((1 << 16) // #one + 3, #read(text))
    local pad = (" "):rep((1 << 16) - #one % (1 << 16))
    assert.equal(2, #read(one .. pad .. line("exit", { seq = 2 }) .. "\n"))
  end)
end)

describe("the audit check", function()
  local function result(...)
    local checker = check.new()
    for i, text in ipairs({ ... }) do
      local record, what = reader.parse(text)
      if record then record.at = i end
      if record then checker:add(record) else checker:garbage({ at = i, what = what }) end
    end
    return checker:result()
  end

  it("says complete for a run from start to exit", function()
    local r = result(line("start"), line("verdict", { seq = 2 }), line("exit", { seq = 3 }))
    assert.is_true(r.complete)
    assert.equal("complete: 3 records, 1 run", check.describe(r)[1])
  end)

  it("names every gap exactly", function()
    local r = result(line("start"), line("verdict", { seq = 4 }), line("verdict", { seq = 5 }),
      line("exit", { seq = 7 }))
    assert.is_false(r.complete)
    assert.same({ { 2, 3, false }, { 6, 6, false } }, { { r.gaps[1].from, r.gaps[1].to, r.gaps[1].known },
      { r.gaps[2].from, r.gaps[2].to, r.gaps[2].known } })
    assert.matches("records 2 to 3 are missing", check.describe(r)[2])
  end)

  it("sees that the beginning is missing", function()
    assert.same({ 1, 2 }, { result(line("verdict", { seq = 3 })).gaps[1].from,
      result(line("verdict", { seq = 3 })).gaps[1].to })
  end)

  it("takes a filtered file as complete: its own numbers have no gap", function()
    local r = result(line("verdict", { seq = 7, line = 1 }), line("verdict", { seq = 90, line = 2 }))
    assert.is_true(r.complete)
  end)

  it("knows a gap that a loss record explains, and still does not say complete", function()
    local r = result(line("start"), line("loss", { seq = 5, line = 4, lost = 3 }),
      line("exit", { seq = 6, line = 5 }))
    assert.is_false(r.complete)
    assert.is_true(r.gaps[1].known)
    assert.equal(3, r.lost)
    r = result(line("start"), line("loss", { seq = 5, line = 4, lost = 1 }))
    assert.is_false(r.gaps[1].known)
    assert.is_false(result(line("start"), line("loss", { seq = 2, lost = 5 }), line("exit", { seq = 3 })).complete)
  end)

  it("sees repeated and moved records, garbage, and a run without its end", function()
    assert.is_false(result(line("start"), line("start")).complete)
    assert.is_false(result(line("start"), line("exit", { seq = 3 }), line("verdict", { seq = 2 })).complete)
    assert.is_false(result(line("start"), "garbage", line("exit", { seq = 2 })).complete)
    local r = result(line("start"), line("verdict", { seq = 2 }))
    assert.same({ "r1" }, r.open)
    assert.is_false(r.complete)
    assert.is_false(result(line("start"), line("exit", { seq = 2 }), line("verdict", { seq = 3 })).complete)
  end)

  it("keeps runs that share a file apart", function()
    assert.is_true(result(line("start"), line("start", { run = "r2" }), line("exit", { seq = 2 }),
      line("exit", { seq = 2, run = "r2" })).complete)
  end)
end)

describe("the line for people", function()
  it("says who, where, why, and what would allow it", function()
    local text = format.line(parse("verdict", { action = "deny", name = "api.example", program = "python3",
      where = "agent.lua:14", rule = 2, text = "not here" }))
    assert.matches("^%d%d:%d%d:%d%d DENY  python3%[812%] → api%.example:443 %(203%.0%.113%.9%) tcp  agent%.lua:14", text)
    assert.matches('"not here"', text, 1, true)
    assert.matches('allow "tcp to api.example port 443"', text, 1, true)
    text = format.line(parse("verdict", { addr = "2001:db8::1" }))
    assert.matches("ALLOW - → [2001:db8::1]:443 tcp", text, 1, true)
    assert.is_nil(text:find('(allow "', 1, true))
  end)

  it("has a form for every kind", function()
    for _, kind in ipairs({ "verdict", "close", "dns", "unix", "start", "exit", "reload", "loss", "selfcheck",
      "handler", "agent", "operator", "limit", "unknown" }) do
      assert.is_string(format.line(parse(kind, { name = "x.example", qtype = 28, rcode = 5, lost = 4 })))
    end
    assert.matches("dns x.example AAAA REFUSED",
      format.line(parse("dns", { name = "x.example", qtype = 28, rcode = 5 })), 1, true)
  end)

  it("lets nothing through that acts on a terminal", function()
    local nasty = "a\27[31mb\nc\194\155d\127"
    for _, kind in ipairs({ "verdict", "close", "dns", "unix", "start", "reload" }) do
      local text = format.line(parse(kind, { name = nasty, program = nasty, text = nasty, where = nasty }))
      assert.is_nil(text:gsub("[→←]", ""):find("[%c\127-\255]"), text)
    end
    assert.is_nil(format.line({ kind = nasty, action = "allow", time = 0, generation = 0, rule = 0 }):find("%c"))
  end)
end)

describe("the learned policy", function()
  local function learned(lines, options)
    local list = {}
    for i, text in ipairs(lines) do list[i] = assert(reader.parse(text)) end
    local text = learn.policy(list, options)
    local loaded, problems = policy.load({ sources = { { name = "learned.lua", text = text } } })
    assert(loaded, problems and policy.format_error(problems[1]) .. "\n" .. text)
    for _, record in ipairs(list) do
      if record.kind == "verdict" and record.passed then
        local flow = { dir = record.dir, proto = record.proto, addr = record.addr, port = record.port,
          names = record.name and { record.name } or nil }
        assert.equal("allow", policy.eval.judge(loaded, flow).verdict, text)
      end
    end
    return text, loaded
  end

  it("allows what was seen, by name where one was known, and nothing more", function()
    local text, loaded = learned({
      line("start", { program = "sh" }),
      line("verdict", { name = "api.example", program = "curl" }),
      line("verdict", { name = "api.example", addr = "2001:db8::9", program = "python3", port = 80 }),
      line("verdict", { addr = "198.51.100.7", proto = 17, port = 53, action = "deny", audit_only = true }),
      line("verdict", { addr = "198.51.100.8", action = "deny" }),
      line("verdict", { dir = "in", addr = "10.0.0.9", port = 8080 }),
      line("verdict", { addr = "198.51.100.7", proto = 1, port = 0 }),
      line("dns", { name = "api.example", qtype = 1 }),
    }, { name = "my agent" })
    assert.matches('allow "tcp to api.example port 80, 443" -- 2 times, curl, python3', text, 1, true)
    assert.matches('policy "my-agent"', text, 1, true)
    assert.matches("1 run: 5 flows to 3 places, 1 name looked up", text, 1, true)
    assert.equal(4, #loaded.rules)
    local denied = { dir = "out", proto = 6, addr = "198.51.100.8", port = 443 }
    assert.equal("deny", policy.eval.judge(loaded, denied).verdict)
  end)

  it("says private = true where a name led to a private address, and host for the host's services", function()
    local text = learned({
      line("verdict", { name = "db.lan", addr = "10.0.0.7", port = 5432 }),
      line("verdict", { addr = "127.0.0.1", name = "localhost", port = 6379 }),
      line("verdict", { name = "nas", addr = "192.168.1.4", port = 445 }),
    })
    assert.matches('allow("tcp to db.lan port 5432", { private = true }) -- once', text, 1, true)
    assert.matches('allow "tcp to host port 6379"', text, 1, true)
    assert.matches('allow("tcp to nas. port 445"', text, 1, true)
  end)

  it("merges ports into ranges, in order", function()
    local lines = {}
    for _, port in ipairs({ 8002, 443, 8000, 8001, 9, 8001 }) do
      lines[#lines + 1] = line("verdict", { addr = "203.0.113.1", port = port })
    end
    assert.matches('allow "tcp to 203.0.113.1 port 9, 443, 8000-8002" -- 6 times', learned(lines), 1, true)
  end)

  it("keeps names answerable that were only looked up, and unix sockets", function()
    local text, loaded = learned({ line("dns", { name = "only.example" }), line("dns", { name = "no.example",
      action = "deny", rcode = 5 }), line("unix", { text = "/run/x.sock", program = "agent" }) })
    assert.matches('"icmp to only.example"', text, 1, true)
    assert.is_nil(text:find("no.example", 1, true))
    assert.equal(1, #loaded.rules)
    assert.equal("/run/x.sock", loaded.unix[1])
  end)

  it("covers every name that was answered with the address of a flow, when several were", function()
    local text = learned({
      line("dns", { name = "one.example", text = "203.0.113.9, 2001:db8::9" }),
      line("dns", { name = "two.example", text = "203.0.113.9" }),
      line("dns", { name = "far.example", text = "198.51.100.1" }),
      line("verdict", { name = "two.example", addr = "203.0.113.9" }),
      line("dns", { name = "late.example", text = "203.0.113.9" }),
    })
    assert.matches('allow "tcp to two.example port 443" -- once', text, 1, true)
    assert.matches('allow "tcp to one.example port 443" -- perhaps meant', text, 1, true)
    assert.matches('"icmp to far.example"', text, 1, true)
    assert.matches('"icmp to late.example"', text, 1, true)
    assert.matches("1 flow to 2 places", text, 1, true)
  end)

  it("takes no hostile text over into the policy", function()
    local _, loaded = learned({
      line("verdict", { name = 'x" allow "any to any', addr = "203.0.113.1" }),
      line("verdict", { name = "-- x", program = "evil\nallow 'any to any'", addr = "203.0.113.2" }),
      line("verdict", { addr = "203.0.113.3", program = "]] os.exit()" }),
      line("dns", { name = "a\nb" }), line("unix", { text = '/run/"\nallow' }),
      line("verdict", { name = "1.2.3.4", addr = "203.0.113.4" }),
    }, { name = '"\nallow "any to any' })
    assert.equal(4, #loaded.rules)
    for _, rule in ipairs(loaded.rules) do assert.is_false(rule.any) end
  end)

  it("is the same text for the same records, and one run can be chosen", function()
    local lines = {}
    for i = 1, 30 do
      lines[i] = line("verdict", { addr = "203.0.113." .. i % 7, port = 1 + i % 5, program = "p" .. i % 3 })
    end
    local text = learned(lines)
    local turned = {}
    for i = 1, 30 do turned[i] = lines[31 - i] end
    assert.equal(text, learned(turned))
    lines[31] = line("verdict", { run = "r2", addr = "198.51.100.1" })
    local list = {}
    for i, one in ipairs(lines) do list[i] = reader.parse(one) end
    assert.is_nil(learn.policy(list, { run = "r1" }):find("198.51.100.1", 1, true))
    assert.matches("from 1 run: 1 flow to 1 place,", learn.policy(list, { run = "r2" }), 1, true)
  end)
end)
