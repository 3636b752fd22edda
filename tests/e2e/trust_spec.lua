-- What the command may write must not widen what it may reach: policies that were replaced, unix paths made to name others.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")

local server = [[
local uv = require("luv")
uv.new_signal():start("sigpipe", function() end) -- a client that is killed must not end the server
io.stdout:setvbuf("line")
local listener = uv.new_tcp()
assert(listener:bind("203.0.113.10", 80))
listener:listen(64, function()
  local peer = uv.new_tcp()
  listener:accept(peer)
  print("reached")
  peer:write("served\n", function() peer:close() end)
end)
uv.run()
]]

local get = [[
get() { if exec 3<>/dev/tcp/$1/80; then read -r -t 5 line <&3; echo "$line"; exec 3>&-; else echo refused; fi; }
]]
local wide = 'policy "wide" allow "tcp to any"'
local missing = World.missing()

describe("under lattice run", function()
  if missing then
    pending("all of it", missing)
    return
  end
  local world, forbidden
  local user = { user = "65534" }

  setup(function()
    world = World.new()
    forbidden = world:serve({ "lua5.4", world:file("server.lua", server) }, { tcp = 80 })
  end)

  teardown(function() world:close() end)

  local function as_user(script, ...)
    local p = world:run("host", { "sh", "-ec", script, "sh", ... }, user)
    assert.equal(0, p.status, p.err)
  end

  local function start(path, script)
    return world:start_lattice({ "run", "-v", "--policy", path, "--", "bash", "-c", get .. script }, { stdin = "open" })
  end

  it("a policy that the user replaced, and the command then rewrote, is not reloaded", function()
    local path = world.home .. "/mine.lua"
    as_user([[echo 'policy "first"' > "$1"]], path)
    local p = start(path, ("get 203.0.113.10; read -r go; echo '%s' > %s && echo wrote; read -r go; get 203.0.113.10")
      :format(wide, path))
    p:expect("refused\n")
    as_user([[echo 'policy "second"' > "$1.new"; mv "$1.new" "$1"]], path)
    p:write("go\n")
    p:expect("wrote\n") -- the control: the hole is there for the command to use
    p:kill("sighup")
    p:expect("reload refused[^\n]*not the file that was there at the start")
    p:write("go\n")
    assert.equal("refused\nwrote\nrefused\n", p:wait().out)
    assert.equal("", forbidden.out)
  end)

  it("a file that a rewritten policy newly includes must be out of the command's reach", function()
    local path, part = world.home .. "/with.lua", world.home .. "/part.lua"
    as_user([[echo 'policy "first"' > "$1"; echo 'allow "tcp to any"' > "$2"]], path, part)
    local p = start(path, "echo ready; read -r go; get 203.0.113.10")
    p:expect("ready\n")
    as_user([[echo 'policy "second" include "part.lua"' > "$1"]], path)
    p:kill("sighup")
    p:expect("reload refused[^\n]*part.lua")
    p:write("go\n")
    assert.equal("ready\nrefused\n", p:wait().out)
  end)

  it("a policy where the user may not write is reloaded although it was replaced", function()
    local path = world:file("theirs.lua", 'policy "first"')
    local p = start(path, "get 203.0.113.10; read -r go; get 203.0.113.10")
    p:expect("refused\n")
    assert(os.rename(world:file("theirs.new", wide), path))
    p:kill("sighup")
    -- In a user namespace of its own the run's user is the owner of everything here.
    local done = p:expect(function() return p.err:match("reload refused") or p.err:match("generation 2") end)
    p:write("go\n")
    p:wait()
    assert.equal(done == "generation 2" and "refused\nserved\n" or "refused\nrefused\n", p.out)
  end)

  it("a policy that became a FIFO holds nobody up", function()
    local path = world.home .. "/fifo.lua"
    as_user([[echo 'policy "first"' > "$1"]], path)
    local p = start(path, "echo ready; read -r go; get 203.0.113.10")
    p:expect("ready\n")
    as_user([[rm "$1"; mkfifo "$1"]], path)
    p:kill("sighup")
    p:expect("reload refused")
    p:write("go\n")
    assert.equal("ready\nrefused\n", p:wait().out)
  end)

  describe("a unix rule", function()
    local listen = [[
import socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(8)
print("listening", flush=True)
while True:
    c, _ = s.accept(); print("reached", flush=True); c.close()
]]
    local connect = [[
import os, socket, sys
how, secret, path = sys.argv[1:]
if how != "none": os.rename(path, path + ".old")
if how == "rename": os.rename(secret, path)
if how == "link": os.symlink(secret, path)
if how == "hard": os.link(secret, path)
s = socket.socket(socket.AF_UNIX)
try: s.connect(path); print("connected")
except OSError as e: print(e.errno)
]]

    for _, how in ipairs({ "none", "rename", "link", "hard" }) do
      it(how == "none" and "opens its socket" or ("cannot be given another socket (" .. how .. ")"), function()
        local dir = world.home .. "/" .. how
        as_user([[mkdir "$1"]], dir)
        local secret = world:start("host", { "python3", "-c", listen, dir .. "/secret" }, user)
        local open = world:start("host", { "python3", "-c", listen, dir .. "/open" }, user)
        secret:expect("listening")
        open:expect("listening")
        local p = world:under(('policy "t" unix "%s/open"'):format(dir),
          { "python3", "-c", connect, how, dir .. "/secret", dir .. "/open" })
        assert.equal(how == "none" and "connected\n" or "13\n", p.out, p.err)
        assert.equal("listening\n", secret.out)
        for _, s in ipairs({ secret, open }) do
          s:kill("sigkill")
          s:wait()
        end
      end)
    end
  end)
end)
