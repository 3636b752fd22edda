-- Programs that nobody here wrote, under lattice run: what the policy allows works, what it does not is refused soon, and
-- without Lattice the same program would have reached it. LATTICE_WRITE_TABLE=FILE writes what was seen as a table.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")
local programs = require("programs")

-- Each destination after "--": what the program said, then its status and the time it took.
local loop = [[
set -o pipefail; cd "$HOME"
go() { %s
}
for to in %s; do
  from=$EPOCHREALTIME; said=$(go "$to" 2>&1); status=$?
  echo "$said"; echo "== $to $status $(( (${EPOCHREALTIME/[.,]/} - ${from/[.,]/}) / 1000 ))"
done
]]

local preamble = [[
# Programs under `lattice run`

What works in user mode; the same programs are tried in kernel mode, with the same result, and
in preload mode, which holds none that goes round libc ([preload](preload.md)). The table is written by its test:
`LATTICE_WRITE_TABLE=docs/programs.md ./runtests --tier e2e`. Each program reached a server that the policy names, and
was refused the same server at an address and under a name that the policy does not name, where without Lattice it
reached it. The last two columns are the program's own words.

| Program | Does | Allowed | Refused address | Refused name |
|---|---|---|---|---|
]]

-- What a program said first, without what differs from run to run, as a cell.
local function cell(result)
  if not result then return "" end
  local text = (result.first or ""):gsub("%s+$", ""):gsub("%d+ ms", "N ms"):gsub("time %d+ms", "time N ms")
    :gsub("on 127.0.0.53:53", ""):gsub("0x%x+", "..."):gsub("127%.0%.0%.1:%d+", "127.0.0.1:PORT"):gsub("|", "/")
  return #text > 90 and text:sub(1, 87) .. "..." or text
end

local function write_table(path, rows)
  local f = assert(io.open(path, "w"))
  f:write(preamble)
  for _, row in ipairs(rows) do
    f:write(("| %s | %s | %s | %s | %s |\n"):format(row[1], row[2], row.missing and "not tried: " .. row.missing or
      row.failed and "no" or "yes", cell(row.refused), cell(row.named)))
  end
  f:close()
end

-- What the library of preload mode does not hold, and who asks name servers of the host's resolv.conf by itself.
local beside_libc = { ["go: net/http in a static program"] = "static", ["ping: IPv4"] = "may have file capabilities",
  ["ping: IPv6"] = "may have file capabilities", ["dig: A record"] = "its own resolver",
  ["node: dns.promises"] = "its own resolver" }

for _, mode in ipairs({ "user", "kernel", "preload" }) do describe("under lattice run --mode " .. mode, function()
  local missing = World.missing() or World.no_mode(mode)
  if missing then
    pending("all of it", missing)
    return
  end
  local world
  local prepared, serving, rows = {}, {}, {}

  setup(function()
    world = World.new()
    world.caller = mode ~= "kernel" and "65534" or nil -- whose files the command can write
    for name, text in pairs(programs.files) do world:file(name, text) end
    world:serve({ "lua5.4", "tests/support/dns_server.lua", "203.0.113.9", world:file("zone", programs.zone),
      world.dir .. "/queries" }, { udp = 53 })
  end)

  teardown(function()
    world:close()
    local path = os.getenv("LATTICE_WRITE_TABLE")
    if path and mode == "user" then write_table(path, rows) end
  end)

  local function once(prepare)
    if prepare and not prepared[prepare] then
      prepare(world)
      prepared[prepare] = true
    end
  end

  local function serve(name)
    local server = programs.servers[name]
    once(server.prepare)
    if server.argv and not serving[name] then
      serving[name] = world:serve(server.argv(world), { tcp = server.ports.tcp, user = server.user })
    end
  end

  local function lacking(case)
    local list = { case[1] }
    for _, more in ipairs({ case.needs or {}, programs.servers[case[3]].needs }) do
      for _, program in ipairs(more) do list[#list + 1] = program end
    end
    for _, program in ipairs(list) do
      if not World.has(program) then return program .. " is not installed" end
    end
    return os.getenv("LATTICE_IN_USERNS") and programs.servers[case[3]].alone
  end

  -- { destination = { status =, said =, ms = } } of a bash that went through them.
  local function results(p)
    local found, said = {}, {}
    for line in p.out:gmatch("[^\n]+") do
      local to, status, ms = line:match("^== (%S+) (%d+) (%d+)$")
      if to then
        found[to] = { status = tonumber(status), ms = tonumber(ms), said = table.concat(said, "\n"), first = said[1] }
        said = {}
      else
        said[#said + 1] = line
      end
    end
    return found
  end

  for _, case in ipairs(programs.cases) do
    local program, does, server, rules, go = table.unpack(case)
    local to = case.to or { "plain.example", "203.0.113.10", "other.example" }

    it(program .. ": " .. does, function()
      local reason = lacking(case) or mode == "preload" and beside_libc[program .. ": " .. does]
      if reason then
        rows[#rows + 1] = { program, does, missing = reason }
        return pending(reason)
      end
      local row = { program, does, failed = true }
      rows[#rows + 1] = row
      serve(server)
      once(case.prepare)
      local env = { WORLD = world.dir }
      local there = case.outside or to[2]
      local outside = results(world:run("host", { "bash", "-c", loop:format(go, there) },
        { user = world.caller, env = env, timeout = 60000 }))[there]
      assert.equal(0, outside.status, "without Lattice: " .. outside.said)
      assert.truthy(outside.said:find("served", 1, true), outside.said)

      local p = world:under('policy "programs" ' .. rules, { "bash", "-c", loop:format(go, table.concat(to, " ")) },
        { env = env, timeout = 90000, mode = mode })
      local found = results(p)
      local allowed = found[to[1]]
      assert.truthy(allowed, p.err)
      assert.equal(0, allowed.status, allowed.said .. p.err)
      assert.truthy(allowed.said:find("served", 1, true), allowed.said)
      for i = 2, #to do
        local refused = found[to[i]]
        assert.falsy(refused.said:find("served", 1, true), to[i] .. ": " .. refused.said)
        assert.is_true(refused.ms < 8000, ("%s took %d ms: %s"):format(to[i], refused.ms, refused.said))
      end
      assert.is_true(#World.find(p.audit, { action = "deny" }) >= 1)
      row.failed, row.refused, row.named = false, found[to[2]], found[to[3]]
    end)
  end
end) end
