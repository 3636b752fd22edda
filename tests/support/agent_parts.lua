-- Parts of the node agent that only note what is asked of them, for tests/lua/primitives/agent_spec.lua: calls has what
-- was noted, broken what is to fail, made what was given to a part, left the number that a dead agent's enforcer has.
local loop = require("lattice.loop")

local M = {}

--- Notes what was asked of a part.
function M.note(...) M.calls[#M.calls + 1] = table.concat({ ... }, " ") end

local function enforcer(name)
  return {
    name = name,
    probe = function(done)
      if M.broken["probe " .. name] then return done(nil, "not here", M.broken["probe " .. name]) end
      done(true, "tried")
    end,
    remove = function(_, done)
      M.note("remove", name)
      done(true)
    end,
    clear = function(_, done)
      M.note("clear", name)
      done(0)
    end,
    open = function(options, done)
      M.note("open", name)
      local self = { name = name, number = options.adopt and M.left or nil }
      function self.generation() return self.number end
      function self.plan(_, old, new)
        return { rules_added = new:info().rules, rules_removed = old and old:info().rules or 0, text = "plan" }
      end
      function self.apply(_, generation, applied)
        local number = generation:number()
        loop.defer(function()
          if M.broken["apply " .. name] then return applied(nil, "the map is full", "E2BIG") end
          M.note("apply", name, number)
          self.number = number
          applied(true)
        end)
      end
      function self.temporary(_, rules, set)
        M.note("temporary", name, #rules)
        if M.broken.temporary then return set(nil, "no room") end
        set(true)
      end
      function self.cut(_, cut)
        if M.broken.cut then error("a fault of ours") end
        cut(3)
      end
      function self.flows(_, _, found)
        found({ { dir = "out", proto = 6, addr = "10.0.0.1", port = 80 }, { dir = "out", proto = 6, addr = "10.0.0.2",
          port = 80 } })
      end
      function self.explain(_, _, told) told({ verdict = "allow", rule = 1 }) end
      function self.pin(_, _, pinned) pinned(true) end
      function self.status() return { hook = name } end
      function self.close(_, keep, closed)
        M.note("close", name, tostring(keep))
        closed(true)
      end
      done(self)
    end,
  }
end

local function fake(name, module) package.loaded[name] = module end

--- Puts them in place of the real ones, with nothing noted and nothing broken.
function M.install()
  M.calls, M.left, M.broken, M.made = {}, nil, {}, {}
  fake("lattice.enforcer.ebpf", enforcer("ebpf"))
  fake("lattice.enforcer.iptables", enforcer("iptables"))
  fake("lattice.enforcer.nat", { remove = function(_, done) done(true) end, open = function(_, _, done)
    M.note("open nat")
    done({ close = function(_, keep, closed)
      M.note("close nat", tostring(keep))
      closed(true)
    end, change = function(_, pairs, changed)
      M.note("change nat", #pairs)
      changed(true)
    end })
  end })
  fake("lattice.agent.device", { open = function(device, options, done)
    if M.broken.device then return done(nil, "there is no device " .. device.name) end
    M.note("open", device.name)
    M.made.device = options
    done({ raise = function(_, raised)
      M.note("raise", device.name)
      raised(true)
    end, status = function() return { up = true } end, close = function(_, keep, closed)
      M.note("close", device.name, tostring(keep))
      closed(true)
    end })
  end })
  fake("lattice.events", { open = function()
    return { generation = function(_, g) M.note("events", g:number()) end, on = function() return true end,
      counters = function() return { seen = 5, lost = 0 } end, close = function() M.note("close events") end,
      routes = function(_, routes)
        M.note("routes", #routes)
        return true
      end,
      record = function(_, kind, fields)
        M.note("record", kind, tostring(not fields.errno), fields.text:match("^[^\n]*"))
      end }
  end })
  fake("lattice.bpffs", { open = function(path)
    return { prepare = function() return path end, find = function() end, private = function() return false end,
      close = function() end, remove = function() end }
  end })
  fake("lattice.control.server", { open = function(_, options, done)
    if M.broken.control then return done(nil, "the socket is taken") end
    M.note("open control")
    done({ verb = function()
      if M.broken.verb then error("a fault of ours") end
    end, close = function(_, closed)
      M.note("close control")
      closed(true)
    end })
  end })
end

--- Takes them away again.
function M.uninstall()
  for _, name in ipairs({ "enforcer.ebpf", "enforcer.iptables", "enforcer.nat", "agent.device", "events",
    "control.server", "bpffs" }) do package.loaded["lattice." .. name] = nil end
end

return M
