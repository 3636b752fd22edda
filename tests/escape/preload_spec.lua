-- What preload mode, which is advisory, holds of a program that uses libc, and what it does not: the attacks of the other
-- modes. What gets through is listed here; an attack that changes sides fails, whichever way.
package.path = "tests/support/?.lua;" .. package.path
local World = require("world")

local policy = [[
policy "escape"
allow "tcp, udp to 203.0.113.9, 2001:db8::9 port 80"
]]

-- Each by a call that the library does not see, or sees otherwise than the kernel does.
local through = {
  ["int-high-half"] = true, -- syscall(2)
  ["io-uring"] = true, i386 = true,
}
-- Not of this network; of a listener of the host's; and what a program does that swaps the descriptor between look and call.
local elsewhere = { ["cgroup-procs"] = true, ["clone-into-cgroup"] = true, ["race-family"] = true,
  ["race-descriptor"] = true, ["race-mark"] = true }

local missing = World.missing() or World.no_mode("preload")

describe("escape, mode preload:", function()
  if missing then
    pending("all of it", missing)
    return
  end
  local world, watcher
  local forbidden = { "203.0.113.12", "2001:db8::c", "239.1.2.3", "ff05::123", "255.255.255.255" }
  local group = "239.7.0.2"

  local function seen(address)
    return select(2, watcher.out:gsub("leak %d+ " .. address:gsub("%p", "%%%0") .. "\n", ""))
  end

  -- A group's reports come late, too: they count for the one attack.
  local function leaks(name)
    local before = seen("203.0.113.11")
    world:run("host", { "bash", "-c", "echo mark > /dev/udp/203.0.113.11/9" })
    watcher:expect(function() return seen("203.0.113.11") > before end)
    local count = name == "membership" and seen(group) or 0
    for _, address in ipairs(forbidden) do count = count + seen(address) end
    return count
  end

  setup(function()
    world = World.new()
    watcher = world:start("server", { World.helpers .. "watcher", "v0", "203.0.113.11", group, table.unpack(forbidden) })
    watcher:expect("ready")
  end)

  teardown(function() world:close() end)

  for _, helper in ipairs({ "attack", "packets", "race" }) do
    for name in io.popen(World.helpers .. helper .. " --list"):lines() do
      if not elsewhere[name] then it(("%s %s"):format(name, through[name] and "gets through" or "is held"), function()
        local before = leaks(name)
        local p = world:under(policy, { World.helpers .. helper, name }, { mode = "preload", options = { "-q" },
          timeout = 60000, env = { FORBIDDEN4 = forbidden[1], FORBIDDEN6 = forbidden[2], GROUP = group,
            TRIES = "2000" } })
        assert.is_true(p.status == 0 or p.status == 77, ("status %s: %s"):format(p.status, p.err))
        if p.status == 77 then return pending(name .. ": " .. p.err) end
        assert.equal(through[name] or false, leaks(name) > before)
      end) end
    end
  end
end)
