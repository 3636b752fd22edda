-- Which iptables: the nft or the legacy back end. Each is tried in a network namespace of its own; of those that work, the
-- one that already has our chains or, alone, other people's rules is taken, else nft.
local iptables = require("lattice.iptables")
local task = require("lattice.enforcer.iptables.task")
local text = require("lattice.enforcer.iptables.text")

local M = { names = { "nft", "legacy" } }

-- A policy that uses every match and target of ours.
local sample = {
  number = function() return 1 end,
  info = function() return { default = "deny" } end,
  rule = function(_, n) return { id = n, action = n == 1 and "allow" or "drop", log = true, rate = n == 1 and 5 or 0 } end,
  names = function()
    return { { pattern = "db.example", rule = 3, dir = "out", proto = 17, lo = 53, hi = 53, allows = false } }
  end,
  entries = function()
    local list = {}
    for _, e in ipairs({ { 4, "192.0.2.0", 24 }, { 6, "2001:db8::", 32 } }) do
      for _, ports in ipairs({ { 80, 90 }, { 443, 443 } }) do
        list[#list + 1] = { rule = 1, dir = "out", proto = 255, family = e[1], addr = e[2], len = e[3], lo = ports[1],
          hi = ports[2] }
      end
      list[#list + 1] = { rule = 2, dir = "in", proto = 0, family = e[1], addr = e[2], len = e[3], lo = 0, hi = 65535 }
    end
    return list
  end,
}

--- The families that this kernel has.
---@return integer[]
function M.families()
  local f = io.open("/proc/net/if_inet6")
  if not f then return { 4 } end
  f:close()
  return { 4, 6 }
end

--- In a task: does the back end work? true; or nil, why, code.
---@param backend "nft"|"legacy"
function M.works(backend)
  local gen = text.compile(sample, { mark = 1, temporary = {}, pins = { { addr = "192.0.2.1", names = { "db.example" } } } },
    function() end)
  for _, family in ipairs(M.families()) do
    local hooks = { "-I INPUT 1 -i lattice0 -m comment --comment lattice -j LATTICE-IN" }
    local made = text.transaction(gen.books[family], {}, hooks)
    local saved, err, code = task.wait(function(done) return iptables.probe(backend, family, made, done) end)
    if not saved and err:find("unshare failed", 1, true) then -- no privilege for a namespace: at least they understand it
      local tables <close> = assert(iptables.open(backend))
      saved, err, code = task.wait(function(done) return tables:test(family, made, done) end)
    end
    if not saved then return nil, err, code end
    if saved ~= true and not saved:find("-A INPUT -i lattice0 -m comment --comment lattice -j LATTICE-IN", 1, true) then
      return nil, backend .. ": what was applied does not read back", "EPROTO"
    end
  end
  return true
end

-- Rules in the filter tables of our namespace: how many, and whether ours are among them. Legacy tables are only read
-- where they are: reading makes them.
local function present(backend)
  if backend == "legacy" then
    local names = ""
    for _, file in ipairs({ "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names" }) do
      local f = io.open(file)
      if f then
        names = names .. (f:read("a") or "")
        f:close()
      end
    end
    if not names:find("%S") then return 0, false end
  end
  local tables <close> = assert(iptables.open(backend))
  local rules, ours = 0, false
  for _, family in ipairs(M.families()) do
    local saved = task.wait(function(done) return tables:save(family, "filter", done) end) or ""
    for _ in saved:gmatch("%-A ") do rules = rules + 1 end
    ours = ours or saved:find(":LATTICE-OUT ", 1, true) ~= nil
  end
  return rules, ours
end

-- In a user namespace of a normal user the kernel bounds the size of a netlink message, and so of a transaction.
local function bounded()
  local f <close> = io.open("/proc/self/uid_map")
  local map = f and f:read("a") or ""
  return not map:find("^%s*0%s+0%s+4294967295")
end

--- In a task: are there chains of ours in the filter tables of this back end?
function M.has_ours(backend)
  local _, ours = present(backend)
  return ours
end

--- In a task: the back end to use, and why; or nil, text, code.
---@param forced? "nft"|"legacy"
---@return string? backend
---@return string why
---@return string? code
function M.choose(forced)
  local found, reasons, code = {}, {}, nil
  for _, backend in ipairs(forced and { forced } or M.names) do
    local ok, err, why = M.works(backend)
    if ok then
      local rules, ours = present(backend)
      found[#found + 1] = { name = backend, rules = rules, ours = ours }
    else
      reasons[#reasons + 1], code = err, why or code
    end
  end
  if #found == 0 then return nil, table.concat(reasons, "; "), code end
  for _, one in ipairs(found) do
    if one.ours then return one.name, "it has our chains" end
  end
  local nft, legacy = found[1], found[2]
  if not legacy then
    return nft.name, forced and "asked for" or "the only one that works (" .. table.concat(reasons, "; ") .. ")"
  end
  if legacy.rules > 0 and nft.rules == 0 then return "legacy", "the rules of this host are there" end
  if nft.rules == 0 and bounded() then return "legacy", "in this user namespace nft takes small transactions only" end
  return "nft", nft.rules > 0 and "the rules of this host are there" or "no rules yet: the newer one"
end

return M
