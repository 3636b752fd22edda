-- check, explain, test and diff: what they print, their JSON and their exit codes.
local path = require("tests.support.path")
local policy = require("lattice.policy")

-- What a command is given instead of lua/lattice/cli/support/output.lua.
local function recorder(as_json)
  local out = { as_json = as_json, color = false, lines = {}, problems = {}, objects = {} }
  function out:print(...) self.lines[#self.lines + 1] = table.concat({ ... }, "\t") end
  function out:problem(text) self.problems[#self.problems + 1] = text end
  function out:message(text) self.problems[#self.problems + 1] = text end
  function out:paint(_, text) return text end
  function out:json(kind, value)
    value.schema = "lattice/" .. kind .. "/v1"
    self.objects[#self.objects + 1] = value
  end
  return out
end

local function run(name, args, as_json)
  local out = recorder(as_json)
  return require("lattice.cli." .. name).run(args, out), out
end

describe("the policy commands", function()
  local folder, shipped

  local function write(name, text)
    local file = assert(io.open(folder .. "/" .. name, "w"))
    file:write(text)
    file:close()
    return folder .. "/" .. name
  end

  setup(function()
    folder = assert(io.popen("mktemp -d")):read("l")
    -- in the program this look-up finds what is compiled in
    local loader = require("lattice.policy.loader")
    shipped = loader.shipped
    loader.shipped = path.shipped
  end)
  teardown(function()
    require("lattice.policy.loader").shipped = shipped
    os.execute("rm -r '" .. folder .. "'")
  end)

  describe("check", function()
    it("says what a valid policy holds", function()
      local file = write("a.lua", 'include "guards"\nallow "tcp to 10.0.0.1 port 1"\n')
      local status, out = run("check", { file = { file } })
      assert.equal(0, status)
      assert.same({ file .. ": ok, 4 rules, 7 tests, default deny" }, out.lines)
      assert.same({}, out.problems)
    end)

    it("fails with 3 and names every problem", function()
      local file = write("bad.lua", 'allow "tpc to any"\nallow "tcp to any port 0"\n')
      local status, out = run("check", { file = { file } })
      assert.equal(3, status)
      assert.equal(3, #out.problems)
      assert.truthy(out.problems[1]:find(file .. ":1:8: unknown protocol 'tpc'", 1, true))
    end)

    it("fails when a test of the policy fails", function()
      local file = write("t.lua", 'test { allow = "tcp to 10.0.0.1 port 1" }\n')
      local status, out = run("check", { file = { file } })
      assert.equal(3, status)
      assert.truthy(out.problems[1]:find("test failed: expected allow", 1, true))
    end)

    it("warns of rules that can never decide, and of no others", function()
      local file = write("w.lua", [[
allow "tcp to 10.0.0.0/8 port 80-90"
deny "tcp to 10.1.0.0/16 port 85"
deny "tcp to 10.1.0.0/16 port 85-95"
allow "any to *.a.example"
deny("tcp to x.a.example", { reason = "private answers come here" })
allow "tcp to y.a.example"
deny "udp to any"
allow "udp to 10.0.0.1, b.example port 53"
allow "in udp from any"
]])
      local _, out = run("check", { file = { file } }, true)
      local lines = {}
      for i, warning in ipairs(out.objects[1].files[1].warnings) do lines[i] = warning.line end
      assert.same({ 2, 6, 8 }, lines)
    end)

    it("gives JSON", function()
      local good, bad = write("g.lua", "allow 'tcp to any'"), write("b.lua", "allow 'tcp'")
      local status, out = run("check", { file = { good, bad } }, true)
      local object = out.objects[1]
      assert.equal(3, status)
      assert.equal("lattice/check/v1", object.schema)
      assert.is_false(object.ok)
      assert.is_true(object.files[1].ok)
      assert.same({ 1, 11, bad }, {
        object.files[2].errors[1].line, object.files[2].errors[1].col, object.files[2].errors[1].file,
      })
    end)
  end)

  describe("explain", function()
    local file
    setup(function()
      file = write("e.lua", [[
policy "e"
allow "tcp to 10.0.0.0/8 port 22"
deny("udp to any", { reason = "no udp" })
allow "tcp to *.corp.example"
ask "tcp to any port 25"
]])
    end)

    local function explain(flow)
      local status, out = run("explain", { file = file, flow = { flow } }, true)
      assert.equal(0, status)
      return out.objects[1]
    end

    it("names the rule, its place and its reason", function()
      local o = explain("udp to 10.0.0.1 port 53")
      assert.same({ "lattice/explain/v1", "deny", "deny", 2, file .. ":3", "e", "no udp" },
        { o.schema, o.verdict, o.action, o.rule, o.where, o.policy, o.reason })
      assert.same({ {
        rule = 1, where = file .. ":2", text = 'allow "tcp to 10.0.0.0/8 port 22"', why = "another protocol",
      } }, o.passed_over)
    end)

    it("says 0 for the default", function()
      local o = explain("tcp to 192.0.2.1 port 22")
      assert.same({ 0, "default", "deny", 4 }, { o.rule, o.where, o.verdict, #o.passed_over })
    end)

    it("offers a line that turns the verdict", function()
      for flow, line in pairs({
        ["tcp to 192.0.2.1 port 443"] = 'allow "tcp to 192.0.2.1 port 443"',
        ["tcp to 10.0.0.1 port 22"] = 'deny "tcp to 10.0.0.1 port 22"',
        ["tcp to 127.0.0.1 port 5432"] = 'allow "tcp to host port 5432"',
        ["in tcp from 2001:db8::1 port 22"] = 'allow "in tcp from 2001:db8::1 port 22"',
        ["icmp to 192.0.2.1"] = 'allow "icmp to 192.0.2.1"',
        ["tcp to x.example port 1"] = 'allow "tcp to x.example port 1"',
        ["tcp to x.example at 10.9.9.9 port 1"] = 'allow("tcp to x.example port 1", { private = true })',
        ["tcp to git.corp.example at 10.9.9.9 port 1"] = 'allow("tcp to git.corp.example port 1", { private = true })',
      }) do
        local before = explain(flow)
        assert.equal(line, before.change)
        local changed = assert(policy.load({ sources = {
          { name = "c.lua", text = before.change .. "\n" .. path.read(file) },
        } }))
        local after = policy.eval.judge(changed, assert(policy.flow.parse(flow)))
        assert.are_not.equal(before.verdict, after.verdict)
      end
    end)

    it("refuses what is no flow with 2, a bad policy with 3", function()
      local status, out = run("explain", { file = file, flow = { "tcp to 10.0.0.1" } })
      assert.equal(2, status)
      assert.truthy(out.problems[1]:find("the flow has no port", 1, true))
      assert.equal(3, (run("explain", { file = write("x.lua", "allow(5)"), flow = { "icmp to ::1" } })))
    end)

    it("tells where the line belongs when an included rule decides", function()
      local outer = write("outer.lua", 'include "guards"\nallow "tcp to host port 1"\n')
      local _, out = run("explain", { file = outer, flow = { "tcp to 127.0.0.1 port 1" } })
      assert.equal('  to change it, above the include of policies/guards.lua:  allow "tcp to host port 1"',
        out.lines[#out.lines])
    end)

    it("reads well", function()
      local _, out = run("explain", { file = file, flow = { "tcp", "to", "192.0.2.1", "port", "25" } })
      assert.equal("ASK  tcp to 192.0.2.1 port 25", out.lines[1])
      assert.equal("  by    " .. file .. ":5  ask \"tcp to any port 25\"  (rule 4)", out.lines[2])
      assert.equal("  to change it, before " .. file .. ":5:  allow \"tcp to 192.0.2.1 port 25\"",
        out.lines[#out.lines])
    end)
  end)

  describe("test", function()
    it("counts the blocks of a policy and of a folder", function()
      local status, out = run("test", { path = { "policies" } })
      assert.equal(0, status)
      assert.truthy(out.lines[#out.lines]:find("^%d%d+ passed, 0 failed$"))
    end)

    it("runs expectations, and fails with 1 when one does not hold", function()
      write("u.lua", 'allow("tcp to 10.0.0.1 port 1", { reason = "r" })\ndrop "udp to any"\n')
      local file = write("u_test.lua", [[
describe("u", function()
  it("holds", function()
    expect.allow("tcp to 10.0.0.1 port 1"):by("u.lua:1"):because("r")
    expect.deny { to = "10.0.0.1", port = 2 }:by("default")
    expect.drop { proto = "udp", to = "10.0.0.1", port = 2 }
  end)
  it("fails by verdict", function() expect.deny("tcp to 10.0.0.1 port 1") end)
  it("fails by rule", function() expect.allow("tcp to 10.0.0.1 port 1"):by("u.lua:9") end)
  it("fails by reason", function() expect.allow("tcp to 10.0.0.1 port 1"):because("other") end)
  it("does not end", function() while true do end end)
end)
]])
      local status, out = run("test", { path = { file } }, true)
      local object = out.objects[1]
      assert.equal(1, status)
      assert.same({ "lattice/test/v1", 1, 4 }, { object.schema, object.passed, object.failed })
      assert.equal(file .. ":7", object.results[2].where)
      assert.truthy(object.results[2].message:find("the verdict is allow by", 1, true))
      assert.truthy(object.results[5].message:find("runs too long", 1, true))
    end)

    it("says 3 when a policy is not valid, 2 when there is no such path", function()
      assert.equal(3, (run("test", { path = { write("v.lua", "allow(1)") } })))
      assert.equal(3, (run("test", { path = { write("v_test.lua", 'expect.allow("icmp to ::1")') } })))
      assert.equal(2, (run("test", { path = { folder .. "/none.lua" } })))
    end)
  end)

  describe("diff", function()
    local old, new
    setup(function()
      old = write("old.lua", [[
allow "tcp to 10.0.0.1"
allow "tcp to 10.0.0.2"
allow "tcp to 10.0.0.3"
deny "udp to any"
]])
      new = write("new.lua", [[
default "allow"
allow "tcp to 10.0.0.3"
allow "tcp to 10.0.0.1"
allow "tcp to 10.0.0.2"
deny "tcp to 10.0.0.9"
]])
    end)

    it("is silent about equal policies", function()
      local status, out = run("diff", { old = old, new = old })
      assert.equal(0, status)
      assert.same({ "no difference" }, out.lines)
    end)

    it("names rules that came, went and moved, and settings", function()
      local status, out = run("diff", { old = old, new = new }, true)
      local o = out.objects[1]
      assert.equal(1, status)
      assert.same({ 'deny "tcp to 10.0.0.9"' }, { o.added[1].text, o.added[2] })
      assert.same({ 'deny "udp to any"' }, { o.removed[1].text, o.removed[2] })
      assert.same({ 'allow "tcp to 10.0.0.3"', 3 }, { o.moved[1].text, o.moved[1].from, o.moved[2] })
      assert.same({ { change = "removed", text = "default deny" }, { change = "added", text = "default allow" },
        { change = "added", text = "names_open" } }, o.settings)
    end)

    it("names recorded flows that change verdict", function()
      local function record(activity, proto, ip, port)
        return ('{"class_uid":4001,"activity_id":%d,"connection_info":{"protocol_num":%d,"direction_id":2},'
          .. '"dst_endpoint":{"ip":"%s","port":%d}}\n'):format(activity, proto, ip, port)
      end
      local log = write("log.jsonl", record(1, 6, "10.0.0.1", 80) .. record(5, 6, "192.0.2.1", 80):rep(2)
        .. record(2, 6, "198.51.100.1", 80) .. record(5, 17, "::ffff:10.0.0.1", 53) .. '{"class_uid":1007}\n')
      local status, out = run("diff", { old = old, new = new, audit = log }, true)
      assert.equal(1, status)
      local flows = {}
      for i, one in ipairs(out.objects[1].flows) do
        flows[i] = ("%s %d %s %s"):format(one.flow, one.count, one.old, one.new)
      end
      assert.same({ "tcp to 192.0.2.1 port 80 2 deny allow", "udp to 10.0.0.1 port 53 1 deny allow" }, flows)
    end)

    it("says 2 when it cannot compare", function()
      assert.equal(2, (run("diff", { old = old, new = write("bad2.lua", "allow(1)") })))
      assert.equal(2, (run("diff", { old = old, new = new, audit = folder .. "/none" })))
    end)
  end)
end)
