-- `lattice run` while it runs: handlers, reload, unix sockets, many at once, the supervisor killed.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")
local served = require("served")

local bash, get = served.bash, served.get

local allow9 = [[policy "t" allow "tcp to 203.0.113.9 port 80"]]
local missing = World.missing()

describe("lattice run, live:", function()
  if missing then
    pending("all of it", missing)
    return
  end
  local world

  setup(function()
    world = World.new()
    served.start(world)
  end)

  teardown(function() world:close() end)

  describe("handlers", function()
    it("hold the connect and answer it; a kept answer is asked once", function()
      local p = world:under([[
        policy "t"
        ask "tcp to 203.0.113.0/24 port 80"
        local n = 0
        on("ask", function(flow)
          n = n + 1
          if flow.addr == "203.0.113.9" then return "allow", { scope = "run", reason = "question " .. n } end
          return "deny", { reason = "exe " .. flow.exe }
        end)]], bash("get 203.0.113.9; get 203.0.113.9; get 203.0.113.10"))
      assert.equal("203.0.113.9: served\n203.0.113.9: served\n203.0.113.10: refused\n", p.out)
      local allowed = World.find(p.audit, { kind = "verdict", action = "allow" })
      assert.equal("question 1", allowed[2].unmapped.lattice.text)
      assert.matches("exe .*/bash", World.find(p.audit, { kind = "verdict", action = "deny" })[1].unmapped.lattice.text)
    end)

    it("that fail, loop or answer nonsense deny, named with file and line, while other flows go on", function()
      local p = world:under([[
        policy "t"
        allow "tcp to 203.0.113.9 port 80"
        on("connect", function(flow)
          if flow.addr == "203.0.113.10" then while true do end end
          if flow.port == 81 then error("broken") end
          return 42
        end)]], bash("get 203.0.113.10 & get 203.0.113.9; wait; get 203.0.113.9 81; get 203.0.113.11"))
      assert.matches("203.0.113.9: served", p.out, 1, true)
      assert.equal(3, select(2, p.out:gsub("refused", "")))
      assert.matches("policy%d+.lua:4", p.err)
      assert.matches("policy%d+.lua:5: broken", p.err)
      assert.equal(3, #World.find(p.audit, { kind = "handler" }))
    end)

    it("that fail give the declared verdict where one is declared", function()
      local p = world:under([[
        policy "t"
        on("connect", function() error("broken") end, { on_error = "allow" })]], bash("get 203.0.113.9"))
      assert.equal("203.0.113.9: served\n", p.out)
    end)
  end)

  describe("reload", function()
    local function rewrite(p, text)
      local f = assert(io.open(p.policy_path, "w"))
      f:write(text)
      f:close()
    end

    it("on SIGHUP: a refused one changes nothing, a new one holds for new and open connections", function()
      local p = world:under(allow9, { "bash", "-c", get .. [[
        exec 4<>/dev/tcp/203.0.113.9/80; read -r x <&4; echo open
        read -r go; echo ping >&4; read -r x <&4; echo "still $x"
        read -r go; if read -r -t 5 x <&4; then echo "not cut"; else echo "cut"; fi
        get 203.0.113.9; get 203.0.113.10]] }, { background = true, stdin = "open" })
      p:expect("open\n")
      rewrite(p, 'policy "t"\nallow "tcp to 203.0.113.300"\n')
      p:kill("sighup")
      p:expect("reload refused")
      assert.matches("policy%d+.lua:2", p.err)
      p:write("go\n")
      p:expect("still ping\n")
      rewrite(p, 'policy "t" allow "tcp to 203.0.113.10 port 80"')
      p:kill("sighup")
      p:expect("1 open connections cut")
      p:write("go\n")
      assert.equal(0, p:wait().status)
      assert.matches("cut\n203.0.113.9: refused\n203.0.113.10: served\n$", p.out)
      local reloads = World.find(World.records(p.audit_path), { kind = "reload" })
      assert.same({ "deny", "allow" }, { reloads[1].unmapped.lattice.action, reloads[2].unmapped.lattice.action })
    end)

    it("keeps a connection that the new policy allows, and all of them with keep_established", function()
      local p = world:under(allow9, { "bash", "-c", [[
        exec 4<>/dev/tcp/203.0.113.9/80; read -r x <&4; echo open
        while read -r word; do echo "$word" >&4; read -r x <&4; echo "got $x"; done]] },
        { background = true, stdin = "open" })
      p:expect("open\n")
      rewrite(p, 'policy "t" allow "tcp to 203.0.113.0/24"')
      p:kill("sighup")
      p:expect("0 open connections cut")
      p:write("one\n")
      p:expect("got one\n")
      rewrite(p, 'policy "t" keep_established()')
      p:kill("sighup")
      p:expect("generation 3")
      p:write("two\n")
      p:expect("got two\n")
      p.stdin:close()
      assert.equal(0, p:wait().status)
    end)

    it("--watch reloads when the file is written", function()
      local p = world:under(allow9, { "bash", "-c", get .. "get 203.0.113.10; echo ready; read -r go; get 203.0.113.10" },
        { background = true, stdin = "open", options = { "--watch" } })
      p:expect("ready\n")
      rewrite(p, 'policy "t" allow "tcp to 203.0.113.10 port 80"')
      p:expect("generation 2")
      p:write("go\n")
      p:wait()
      assert.equal("203.0.113.10: refused\nready\n203.0.113.10: served\n", p.out)
    end)
  end)

  describe("unix sockets", function()
    local listen = [[
import socket, sys, threading
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(8)
print("listening", flush=True)
while True:
    c, _ = s.accept(); print("reached", flush=True); c.close()
]]
    local connect = "import socket,sys\nfor p in sys.argv[1:]:\n  s=socket.socket(socket.AF_UNIX)\n" ..
      "  try: s.connect(p); print('connected')\n  except OSError as e: print(e.errno)"

    it("of the host are refused unless a unix rule names them; those made inside work", function()
      local path = world.home .. "/outside.sock"
      local s = world:start("host", { "python3", "-c", listen, path }, { user = "65534" })
      s:expect("listening")
      local p = world:under(allow9, { "python3", "-c", connect, path, "outside.sock", "/nowhere/at-all.sock" })
      assert.equal("13\n13\n2\n", p.out)
      assert.equal("listening\n", s.out)
      assert.equal(2, #World.find(p.audit, { kind = "unix", action = "deny" }))
      p = world:under(('policy "t" unix "%s"'):format(path), { "python3", "-c", connect, path })
      assert.equal("connected\n", p.out)
      s:expect("reached")
      p = world:under(allow9, { "python3", "-c", [[
import os, socket
for name in "inside.sock", "\0abstract":
    s = socket.socket(socket.AF_UNIX); s.bind(name); s.listen(1)
    c = socket.socket(socket.AF_UNIX); c.connect(name); s.accept(); print("inside")
os.unlink("inside.sock")]] })
      assert.equal("inside\ninside\n", p.out)
      s:kill("sigkill")
      s:wait()
    end)
  end)

  it("twenty runs at once do not meet", function()
    local runs = {}
    for i = 1, 20 do
      local address = i % 2 == 0 and "203.0.113.9" or "203.0.113.10"
      runs[i] = world:under(('policy "t" allow "tcp to %s port 80"'):format(address),
        bash("get 203.0.113.9; get 203.0.113.10"), { background = true })
    end
    for i, p in ipairs(runs) do
      assert.equal(0, p:wait(60000).status)
      assert.equal(i % 2 == 0 and "203.0.113.9: served\n203.0.113.10: refused\n"
        or "203.0.113.9: refused\n203.0.113.10: served\n", p.out)
    end
  end)

  it("the program ends when the supervisor is killed", function()
    local p = world:under(allow9, { "sh", "-c", "echo ready; exec tail -f /dev/null" }, { background = true })
    p:expect("ready")
    p:kill("sigkill")
    p:wait(5000) -- its pipes end only when nothing inside holds them
    assert.equal(137, p.status)
  end)
end)
