-- lattice run at a terminal: Ctrl-C, Ctrl-Z and the size reach the command as if Lattice were not there. script(1) of
-- util-linux gives the terminal.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")

local missing = World.missing() or not World.has("script") and "script is not installed" or nil

describe("at a terminal, lattice run", function()
  if missing then
    pending("all of it", missing)
    return
  end
  local world

  setup(function() world = World.new() end)
  teardown(function() world:close() end)

  -- Starts shell text at a terminal; $RUN in it is "lattice run" with a policy.
  local function terminal(text)
    return world:start("host", { "script", "-qec", text, "/dev/null" }, { user = "65534", stdin = "open", cwd = world.home,
      env = { RUN = World.lattice_path .. " run -q --", SHELL = "/bin/bash", TERM = "dumb", PS1 = "" } })
  end

  it("Ctrl-C reaches the command once, and Lattice waits for it", function()
    local p = terminal([[$RUN bash -c 'trap "echo got INT" INT; echo ready; read -r x; read -r x; echo "read $x"; exit 5';
      echo "status $?"]])
    p:expect("ready")
    p:write("\3")
    p:expect("got INT")
    p:write("line\n")
    p:write("line\n")
    p:expect("status 5")
    p:wait()
    assert.equal(1, select(2, p.out:gsub("got INT", "")), p.out)
    assert.matches("read line", p.out)
  end)

  it("Ctrl-C ends a command that does not care, with its signal", function()
    local p = terminal([[$RUN sh -c 'echo ready; exec tail -f /dev/null'; echo "status $?"]])
    p:expect("ready")
    p:write("\3")
    p:wait()
    assert.matches("status 130", p.out)
  end)

  it("the command has the terminal: its size, its name and job control", function()
    local p = terminal([[stty cols 91 rows 33; $RUN bash --norc -i]])
    p:write("stty size; tty\n")
    p:expect("33 91")
    p:expect("/dev/pts/%d+")
    p:write("sh -c 'echo started; exec tail -f /dev/null'\n")
    p:expect("\nstarted")
    p:write("\26")
    p:expect("Stopped")
    p:write("bg; kill %1; wait %1; echo killed $?\n")
    p:expect("killed 143")
    p:write("exit 4\n")
    assert.equal(4, p:wait().status)
  end)

  it("Ctrl-Z stops the run as a job of the shell outside, and fg goes on", function()
    local p = terminal([[bash --norc -i]])
    p:write("$RUN sh -c 'echo ready; read -r x; echo \"read $x\"'\n")
    p:expect("\nready")
    p:write("\26")
    p:expect("Stopped")
    p:write("fg\n")
    p:write("again\n")
    p:expect("read again")
    p:write("echo left $?\n")
    p:expect("left 0")
    p:write("exit\n")
    p:wait()
  end)

  it("a terminal that goes away ends the command, and the run with it", function()
    if not World.has("python3") then return pending("python3 is not installed") end
    local p = world:run("host", { "python3", "-c", [[
import os, pty, signal, sys
pid, master = pty.fork()
if pid == 0: os.execv(sys.argv[1], [sys.argv[1], "run", "-q", "--", "sh", "-c", "echo ready; exec tail -f /dev/null"])
while b"ready" not in os.read(master, 1000): pass
os.close(master)
signal.alarm(20)
print(os.waitpid(pid, 0)[1] >> 8)]], World.lattice_path }, { user = "65534" })
    assert.equal("129\n", p.out, p.err)
  end)
end)
