-- An agent as lua/lattice/agent/_meta/contract.lua has it, with nothing behind it: for specs of what talks to one.
-- calls: what was asked of it. emit(event) is what its event source sees. `status` and the answers may be replaced.
local json = require("lattice.json")

local M = {}

local rules = {
  { id = 1, action = "allow", where = "node.lua:3", text = 'allow "tcp to 10.42.0.2 port 80"' },
  { id = 2, action = "deny", where = "node.lua:4", text = 'deny "udp to any port 443"', reason = "no quic" },
}

--- A verdict event with what is given replaced.
function M.event(with)
  local event = {
    time_ms = 1700000000000, verdict = "deny", action = "deny", dir = "out", proto = 6, addr = "10.42.0.9",
    port = 5432, local_addr = "10.42.0.1", sport = 40000, rule = 0, where = "default", device = "wf0", generation = 4,
  }
  for key, value in pairs(with or {}) do event[key] = value end
  return event
end

--- What `status` shows.
function M.status()
  return {
    started = 1700000000, config = "/etc/lattice/lattice.lua", generation = 4,
    enforcer = {
      name = "iptables", reason = "the strongest that this host can run",
      passed_over = json.array({ { name = "ebpf", reason = "load a program: Operation not permitted" } }),
      detail = { chains = 6 },
    },
    policy = { name = "node", default = "deny", rules = 2, files = { "/etc/lattice/policy.d/node.lua" },
      digest = ("ab"):rep(32), loaded = 1700000100 },
    devices = json.array({ {
      name = "wf0", kind = "wireguard", up = true, address = { "10.42.0.1/24" }, mtu = 1420,
      wireguard = { public_key = ("k"):rep(43) .. "=", listen = 51820, backend = "wireguard-go", peers = json.array({
        { key = ("p"):rep(43) .. "=", endpoint = "192.0.2.1:51820", allowed = { "10.42.0.2/32" },
          handshake = 1700000200, rx = 2048, tx = 4096 } }) },
    } }),
    reloads = { ok = 3, refused = 1, last_error = "node.lua:7: unknown protocol 'tpc'" },
    temporary = json.array({}),
    events = { seen = 17, lost = 0, lost_in_kernel = 2, audit_lost = 0 },
  }
end

---@class lattice.test.FakeAgent
local Agent = {}
Agent.__index = Agent

function M.new()
  local self = setmetatable({ calls = {}, started = 1700000000, watchers = {}, past = {}, config = { audit = {} } }, Agent)
  self.events = {
    watch = function(_, filter, fn)
      self.calls[#self.calls + 1] = { "watch", filter }
      for i = math.max(1, #self.past - (filter.last or 0) + 1), #self.past do fn(self.past[i]) end
      self.watchers[fn] = true
      return function() self.watchers[fn] = nil end
    end,
  }
  return self
end

local function record(self, ...) self.calls[#self.calls + 1] = table.pack(...) end

function Agent:emit(event)
  self.past[#self.past + 1] = event
  for fn in pairs(self.watchers) do fn(event) end
end

function Agent:status() return M.status() end

function Agent:generation()
  return {
    number = function() return 4 end, info = function() return { default = "deny" } end,
    rule = function(_, n) return rules[n] end,
  }
end

function Agent:enforcer()
  return {
    name = "iptables",
    counters = function(_, done)
      done({ [0] = { packets = 5, bytes = 300 }, [1] = { packets = 10, bytes = 9000 }, [2] = { packets = 1, bytes = 60 } })
    end,
    flows = function(_, limit, done)
      record(self, "flows", limit)
      done({ { dir = "out", proto = 6, local_addr = "10.42.0.1", addr = "10.42.0.2", port = 80, sport = 40001, rule = 1,
        generation = 4, packets = 8, bytes = 8000 } })
    end,
  }
end

function Agent:reload(opts, done)
  record(self, "reload", opts)
  if self.refuse then return done(nil, self.refuse, "policy") end
  done({ generation = 5, rules_added = 1, rules_removed = 2, flows_cut = 3, ms = 12, text = "+ node.lua:3 allow ..." })
end

function Agent:down(done)
  record(self, "down")
  done()
end

function Agent:explain(flow, done)
  record(self, "explain", flow)
  done({ verdict = "allow", action = "allow", rule = 1, where = "node.lua:3", text = rules[1].text })
end

function Agent:temporary_list() return {} end

function Agent:temporary_add(action, text, opts, done)
  record(self, "temporary_add", action, text, opts)
  if text:find("nonsense") then return done(nil, "rule:1:1: unknown protocol 'nonsense'", "policy") end
  done(7)
end

function Agent:temporary_remove(id, done)
  record(self, "temporary_remove", id)
  if id ~= 7 then return done(nil, "no temporary rule " .. id, "ENOENT") end
  done(true)
end

function Agent:note(uid, text) record(self, "note", uid, text) end

return M
