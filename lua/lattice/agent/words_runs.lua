-- The word `runs` of lattice.lua: which users may have the agent wall their own commands (lattice run --mode kernel), by
-- which policies, in which limits. Everything is checked when the config is read: a user who is not there, a policy that its
-- user could change.
local fields = require("lattice.agent.fields")
local settings = require("lattice.policy.settings")
local trust = require("lattice.agent.trust")

local M = {}

--- Runs at a time: of one user, and of all, where the config says nothing else.
M.MOST_OF_USER, M.MOST = 8, 64

local describe = settings.describe

-- A name of the user database, or a number.
local function user(ctx, source, line, value)
  if math.type(value) == "integer" and value >= 0 and value < 0xffffffff then
    return { name = tostring(value), uid = value }
  end
  local name = fields.word(ctx, source, line, value, "user")
  if not name then return nil end
  local uid, why = ctx.user_id(name)
  if uid then return { name = name, uid = uid } end
  return ctx:problem(source, line, ("there is no user '%s' (%s)"):format(name, tostring(why)), "a user, or its number")
end

local function policies(ctx, source, line, value)
  if type(value) == "string" then value = { value } end
  if type(value) ~= "table" or settings.is_marker(value) or #value == 0 then
    return ctx:problem(source, line, "policies is a list of files", "policies = { \"agent.lua\" }")
  end
  local list = {}
  for i, one in ipairs(value) do
    local path = fields.path(ctx, source, line, one, "policies")
    local stat, why, doubt, expected
    if path then stat, why = ctx.stat(path) end
    if stat then doubt, expected = trust.doubt_way(ctx.stat, path) end
    if path and not stat then
      ctx:problem(source, line, ("policies: %s cannot be read: %s"):format(path, why))
    elseif path and stat.type ~= "file" then
      ctx:problem(source, line, ("policies: %s is not a file"):format(path))
    elseif doubt then
      ctx:problem(source, line, "policies: " .. doubt, expected)
    else
      list[i] = path
    end
  end
  return #list == #value and list or nil
end

local function limits(ctx, source, line, value)
  local read, good = {}, true
  settings.add_limits({
    place = function() return { depth = 0, name = source.name, text = source.text }, line end, limits = read,
    problem = function(_, _, _, ...)
      good = false
      ctx:problem(source, line, ...)
    end,
  }, value)
  local plain = {}
  for key, one in pairs(read) do plain[key] = one.value end
  return good and plain or nil
end

local known = {
  user = user, policies = policies, limits = limits, network = fields.device,
  most = fields.integer(1, 4096, "1 to 4096"),
}

local function add(ctx, source, line, i, value)
  local list = ctx.config.runs
  local read = fields.read(ctx, source, line, ("runs: entry %d"):format(i), value, known, { "user", "policies" })
  if not read then return end
  for _, other in ipairs(list) do
    if other.uid == read.user.uid then
      return ctx:problem(source, line, ("runs: user '%s' is there already, at %s"):format(read.user.name, other.where))
    end
  end
  list[#list + 1] = { user = read.user.name, uid = read.user.uid, policies = read.policies, limits = read.limits or {},
    network = read.network, most = read.most or M.MOST_OF_USER, where = source.name .. ":" .. line }
end

--- The word, bound to one load.
---@param ctx table
---@param once fun(source: table, line: integer): boolean
---@return fun(value: any)
function M.new(ctx, once)
  return function(value)
    local source, line = ctx.place()
    if not once(source, line) then return end
    ctx.config.runs.said = true
    if type(value) ~= "table" or settings.is_marker(value) then
      return ctx:problem(source, line, ("runs takes a list of tables, not %s"):format(describe(value)),
        "runs { { user = \"alice\", policies = { \"agent.lua\" } } }")
    end
    local count = 0
    for key, one in pairs(value) do
      if key == "most" then
        ctx.config.runs.most = fields.integer(1, 4096, "1 to 4096")(ctx, source, line, one, "most") or M.MOST
      elseif math.type(key) ~= "integer" then
        ctx:problem(source, line, ("runs has no '%s'"):format(tostring(key)), "most, and a table for each user")
      else
        count = count + 1
      end
    end
    if count ~= #value then return ctx:problem(source, line, "runs is a list without holes") end
    for i, one in ipairs(value) do add(ctx, source, line, i, one) end
  end
end

return M
