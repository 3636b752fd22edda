-- Every object of the binary loads with CAP_BPF and CAP_NET_ADMIN alone: without CAP_PERFMON the verifier refuses much that
-- root may do (arithmetic on pointers, unknown offsets), and an edit that needs it would be seen by nobody but users.
local bpf = require("lattice.bpf")
local build = os.getenv("LATTICE_BUILD") or "build"
local FEW = "setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,+bpf,+net_admin"

-- Those that need more, and are done without where that is not to be had.
local MORE = { unix = "programs on the hooks of security modules need CAP_PERFMON, too" }

-- Those that the verifier of an older kernel (6.1) gives up on, as too long, unless CAP_PERFMON is there, too.
local LONG = { cgroup = true }

local missing
if #bpf.embedded() == 0 then
  missing = "the community edition has no BPF objects"
elseif not os.execute(FEW .. " true 2>/dev/null") then
  missing = "needs root"
end

-- Output of a script in a process with these two capabilities (and one more), in a network namespace of its own.
local function with_few(text, more)
  local path = os.tmpname()
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
  local pipe = assert(io.popen(("unshare -n -- %s%s timeout %d %s/lattice lua %s 2>&1"):format(FEW, more or "",
    60 * (tonumber(os.getenv("LATTICE_PATIENCE")) or 1), build, path)))
  local out = pipe:read("a")
  pipe:close()
  os.remove(path)
  return out
end

describe("with CAP_BPF and CAP_NET_ADMIN alone", function()
  if missing then return pending(missing) end

  it("there is nothing else", function()
    local out = with_few([[
      for line in io.lines("/proc/self/status") do
        if line:find("^CapEff") then io.write(line:match("%x+$")) end
      end]])
    assert.equal((1 << 39) | (1 << 12), tonumber(out, 16))
  end)

  for _, name in ipairs(bpf.embedded()) do
    it(("the object '%s' loads"):format(name), function()
      if MORE[name] then return pending(MORE[name]) end
      local load = ([[
        local object <close> = assert(require("lattice.bpf").open(%q))
        io.write("loaded")]]):format(name)
      local out = with_few(load)
      if LONG[name] and out:find("Argument list too long", 1, true) then out = with_few(load, ",+perfmon") end
      assert.equal("loaded", out)
    end)
  end

  it("the tc programs load as an agent has them, and a hook takes them", function()
    assert.equal("true", with_few([[
      local loop, tc = require("lattice.loop"), require("lattice.tc")
      tc.probe(function(ok, why) io.write(tostring(ok or why)) end)
      loop.run()]]))
  end)
end)
