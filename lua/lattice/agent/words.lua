-- The words of lattice.lua. Each checks its own argument at once, reports what is wrong with its place, and goes on, so
-- that one run shows every problem; what needs the whole (duplicates, files on disk) is config.lua's.
local fields = require("lattice.agent.fields")
local runs = require("lattice.agent.words_runs")
local settings = require("lattice.policy.settings")
local suggest = require("lattice.policy.suggest")

local M = {}

local describe = settings.describe

local DEVICE_KINDS = { "existing", "tun", "wireguard" }
local ENFORCERS = { "auto", "ebpf", "iptables" }

local function one_of(list, value)
  return type(value) == "string" and settings.contains(list, value)
end

local function near(value, list)
  return type(value) == "string" and suggest.nearest(value, list) or nil
end

-- A word that may be said once.
local function once(ctx, name)
  return function(source, line)
    local old = ctx.said[name]
    if old then
      ctx:problem(source, line, ("%s is given twice: here, and at %s:%d"):format(name, old.source.name, old.line))
      return false
    end
    ctx.said[name] = { source = source, line = line }
    return true
  end
end

local peer_fields = {
  key = fields.public_key, endpoint = fields.endpoint, allowed = fields.prefixes,
  keepalive = fields.integer(1, 65535, "seconds from 1 to 65535"), preshared = fields.file,
}
local wireguard_fields = {
  key = fields.file, listen = fields.integer(1, 65535, "a port"),
  peers = function(ctx, source, line, list)
    if type(list) ~= "table" then
      return ctx:problem(source, line, "peers is a list of tables", "{ { key = \"...\", allowed = { ... } } }")
    end
    local peers, seen = {}, {}
    for i, peer in ipairs(list) do
      local read = fields.read(ctx, source, line, ("peer %d"):format(i), peer, peer_fields, { "key", "allowed" })
      if read and seen[read.key] then
        ctx:problem(source, line, ("peer %d has the key of peer %d"):format(i, seen[read.key]))
      elseif read then
        seen[read.key], peers[#peers + 1] = i, read
      end
    end
    return peers
  end,
}
local device_fields = {
  kind = function(ctx, source, line, kind)
    if one_of(DEVICE_KINDS, kind) then return kind end
    return ctx:problem(source, line, ("a device cannot be of kind %s"):format(describe(kind)),
      table.concat(DEVICE_KINDS, ", "), near(kind, DEVICE_KINDS))
  end,
  address = fields.addresses, mtu = fields.integer(1280, 65535, "1280 to 65535"),
  wireguard = function(ctx, source, line, value)
    return fields.read(ctx, source, line, "wireguard", value, wireguard_fields, { "key" })
  end,
}

local function add_device(ctx, source, line, name, value)
  local read = fields.read(ctx, source, line, ("device '%s'"):format(name), value, device_fields, {})
  if not read then return end
  local kind = read.kind or (read.wireguard and "wireguard" or "tun")
  local where = source.name .. ":" .. line
  local old = ctx.devices[name]
  if old then
    return ctx:problem(source, line, ("device '%s' is there already, at %s"):format(name, old.where))
  elseif kind == "wireguard" and not read.wireguard then
    return ctx:problem(source, line, ("device '%s' has no key"):format(name), "wireguard = { key = file \"...\" }")
  elseif kind ~= "wireguard" and read.wireguard then
    return ctx:problem(source, line, ("device '%s' is of kind %s and has no wireguard"):format(name, kind))
  elseif kind == "existing" and (read.address or read.mtu) then
    return ctx:problem(source, line, ("device '%s' is there already: it is guarded, not set up"):format(name),
      "no address and no mtu")
  elseif kind ~= "existing" and #(read.address or {}) == 0 then
    return ctx:problem(source, line, ("device '%s' has no address"):format(name), "address = { \"10.42.0.1/24\" }")
  end
  if read.wireguard then read.wireguard.peers = read.wireguard.peers or {} end
  local device = { name = name, kind = kind, address = read.address or {}, mtu = read.mtu,
    wireguard = read.wireguard, where = where }
  ctx.devices[name], ctx.config.devices[#ctx.config.devices + 1] = device, device
end

local function pair_word(ctx, kind, known, needed)
  return function(arg)
    local source, line = ctx.place()
    local read = fields.read(ctx, source, line, kind, arg, known, needed)
    if not read then return end
    if kind == "forward" and read.from == read.to then
      return ctx:problem(source, line, ("forward leads from %s to itself"):format(read.from))
    end
    read.kind, read.where = kind, source.name .. ":" .. line
    ctx.config.pairs[#ctx.config.pairs + 1] = read
  end
end

local function path_word(ctx, name, key)
  local first = once(ctx, name)
  return function(value)
    local source, line = ctx.place()
    if not first(source, line) then return end
    local path = fields.path(ctx, source, line, value, name)
    if path and #path > 100 and name == "control" then
      return ctx:problem(source, line, "the path of a unix socket has at most 100 bytes")
    end
    ctx.config[key] = path or ctx.config[key]
  end
end

local function add_handler(ctx, source, line, fn, options)
  if type(fn) ~= "function" then return ctx:problem(source, line, "on(\"flow\") takes a function") end
  local list = ctx.config.handlers.flow
  local known = { name = fields.word, before = fields.word, after = fields.word }
  local read = fields.read(ctx, source, line, "the options of on(\"flow\")", options or {}, known, {})
  if not read then return end
  read.name = read.name or ("handler-%d"):format(#list + 1)
  for _, other in ipairs(list) do
    if other.name == read.name then
      return ctx:problem(source, line, ("there is a handler '%s' already, at %s"):format(read.name, other.where))
    end
  end
  read.call, read.where = ctx.wrap(fn), source.name .. ":" .. line
  read.source, read.line = source, line
  list[#list + 1] = read
end

--- The words, bound to one load (a lattice.policy.Loader).
---@param ctx table
---@return table<string, function>
function M.new(ctx)
  local words, config = {}, ctx.config
  local once_enforcer, once_names, once_group = once(ctx, "enforcer"), once(ctx, "names"), once(ctx, "group")
  local once_writers = once(ctx, "writers")
  words.runs = runs.new(ctx, once(ctx, "runs"))

  function words.device(name, value)
    local source, line = ctx.place()
    local problem, expected = fields.device_problem(name)
    if problem then
      ctx:problem(source, line, problem, expected)
      return function() end
    end
    if value ~= nil then return add_device(ctx, source, line, name, value) end
    return function(later) add_device(ctx, source, line, name, later) end
  end
  function words.policy(globs)
    local source, line = ctx.place()
    if type(globs) == "string" then globs = { globs } end
    if type(globs) ~= "table" or #globs == 0 then
      return ctx:problem(source, line, "policy takes file names", "policy { \"policy.d/*.lua\" }")
    end
    for _, glob in ipairs(globs) do
      local path = fields.path(ctx, source, line, glob, "policy")
      if path then ctx.globs[#ctx.globs + 1] = { path = path, said = glob, source = source, line = line } end
    end
  end
  function words.enforcer(value)
    local source, line = ctx.place()
    if not once_enforcer(source, line) then return end
    if type(value) == "function" then
      config.select = ctx.wrap(value)
    elseif one_of(ENFORCERS, value) then
      config.enforcer = value
    else
      ctx:problem(source, line, ("there is no enforcer %s"):format(describe(value)),
        "auto, ebpf, iptables, or a function", near(value, ENFORCERS))
    end
  end
  words.nat = pair_word(ctx, "nat", { source = fields.prefix, out = fields.device }, { "source", "out" })
  words.forward = pair_word(ctx, "forward", { from = fields.device, to = fields.device }, { "from", "to" })
  words.control, words.pins = path_word(ctx, "control", "control"), path_word(ctx, "pins", "pins")
  function words.group(name)
    local source, line = ctx.place()
    if not once_group(source, line) then return end
    config.group = fields.word(ctx, source, line, name, "group") or config.group
  end
  -- writers { "alice" }: users who may also steer the agent by its control socket, beside root
  function words.writers(list)
    local source, line = ctx.place()
    if not once_writers(source, line) then return end
    config.writers = fields.words(ctx, source, line, list, "writers") or config.writers
  end
  function words.names(value)
    local source, line = ctx.place()
    if not once_names(source, line) then return end
    local known = { listen = fields.endpoint, observe = fields.boolean }
    local read = fields.read(ctx, source, line, "names", value, known, {})
    if not read then return end
    if read.observe == nil then read.observe = true end
    config.names = read
  end
  function words.audit(arg)
    if not settings.is_route(arg) then
      local source, line = ctx.place()
      return ctx:problem(source, line, "audit takes what to record and where to",
        "audit { \"deny\", to = file \"audit.jsonl\" }")
    end
    return settings.add_route(ctx, arg)
  end
  function words.on(event, fn, options)
    local source, line = ctx.place()
    if event ~= "flow" then
      return ctx:problem(source, line, ("there is no event %s"):format(describe(event)), "flow", near(event, { "flow" }))
    end
    return add_handler(ctx, source, line, fn, options)
  end
  function words.file(path)
    local source, line = ctx.place()
    return settings.marker("file", fields.path(ctx, source, line, path, "file") or "/")
  end
  function words.unix(path)
    local source, line = ctx.place()
    local full = fields.path(ctx, source, line, path, "unix")
    if full and #full > 107 then
      ctx:problem(source, line, "the path of a unix socket has at most 107 bytes")
    end
    return settings.marker("unix", full or "/")
  end
  function words.syslog() return settings.marker("syslog") end
  function words.log(...)
    local parts = table.pack(...)
    for i = 1, parts.n do parts[i] = tostring(parts[i]):sub(1, 4096) end
    ctx.log(table.concat(parts, " ", 1, parts.n))
  end
  return words
end

return M
