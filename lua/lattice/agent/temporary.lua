-- Temporary rules: an operator's, before all others, each until its time. They outlive a reload, and end with the agent.
-- Who adds or removes one by hand notes that with the operator's uid (the control socket); that its time was over is noted
-- here.
local steps = require("lattice.agent.steps")

local M = {}

local MOST = 64
local MAX_TTL = 7 * 86400
local MAX_ENTRIES = 4096
local ACTIONS = { allow = true, deny = true, drop = true }

--- The list as an enforcer takes it, the newest first: it overrules the older ones.
function M.rules(agent)
  local list = {}
  for i = #agent.temporary, 1, -1 do
    local rule = agent.temporary[i]
    list[#list + 1] = { id = rule.id, action = rule.action, entries = rule.entries, log = true, until_ns = rule.until_ns,
      text = rule.text, reason = rule.reason, uid = rule.uid }
  end
  return list
end

function M.list(agent)
  local list, now = {}, require("lattice.sys").clock()
  for i, rule in ipairs(agent.temporary) do
    list[i] = { id = rule.id, action = rule.action, text = rule.text, reason = rule.reason, uid = rule.uid,
      until_s = rule.until_s, left_s = math.max(0, (rule.until_ns - now) // 1000000000) }
  end
  return list
end

local function find(agent, id)
  for i, rule in ipairs(agent.temporary) do
    if rule.id == id then return i, rule end
  end
  return nil
end

--- What a verdict by this rule says of it; nil: it is gone.
function M.rule(agent, id)
  local _, rule = find(agent, id)
  return rule and { action = rule.action, text = rule.action .. " " .. rule.text, reason = rule.reason,
    where = ("temporary:%d (uid %d)"):format(id, rule.uid) }
end

-- Inside steps, within `change`: gives the enforcer the list as it is now. What only a rule that is gone allowed is cut.
local function push(agent, cut)
  local enforcer = agent.enforcing
  local ok, err, code = steps.await(function(done) enforcer:temporary(M.rules(agent), done) end)
  if ok and cut then
    local count, why = steps.await(function(done) enforcer:cut(done) end)
    if not count then agent:log("warn", "open flows of a temporary rule: " .. tostring(why)) end
  end
  return ok, err, code
end

--- Ends a rule. The list without it is tried again while the enforcer refuses it: a rule never outlives its time for good.
local function expire(agent, id, why, done)
  agent:exclusive(function()
    local at, rule = find(agent, id)
    if not at then return nil, ("there is no temporary rule %s"):format(tostring(id)) end
    table.remove(agent.temporary, at)
    local ok, err = push(agent, true)
    if not ok then
      table.insert(agent.temporary, at, rule)
      return nil, err, "retry"
    end
    if rule.timer then rule.timer:close() end
    if why then agent:note(rule.uid, ("temporary rule %d ended (%s): %s %s"):format(id, why, rule.action, rule.text)) end
    return true
  end, function(ok, err, code)
    if not ok and code == "retry" and why and not agent.stopping then
      agent:log("error", ("temporary rule %d is over and could not be removed: %s"):format(id, tostring(err)))
      require("lattice.loop").timer(1000, function() expire(agent, id, why, function() end) end)
    end
    done(ok, err)
  end)
end

--- Inside steps: the match of the rule, by the language's own parser and the C tables.
local function entries_of(action, text)
  local generation, err = steps.await(function(done)
    require("lattice.policies").load({ number = 1, files = {}, rules_before = { action .. " " .. text } }, done)
  end)
  if not generation then return nil, err end
  local rule, entries, names = generation:rule(1), generation:entries(1, MAX_ENTRIES + 1), #generation:names()
  generation:close()
  if not rule then return nil, "it is no rule" end
  if names > 0 then return nil, "a temporary rule is about addresses, not names: say the address" end
  if #entries == 0 then return nil, "it matches nothing on a node" end
  if #entries > MAX_ENTRIES then return nil, ("it has more than %d parts"):format(MAX_ENTRIES) end
  return entries
end

function M.add(agent, action, text, opts, done)
  local ttl = opts and opts.ttl
  if not ACTIONS[action] then return done(nil, "a temporary rule is allow, deny or drop") end
  if type(text) ~= "string" or #text > 1000 or text:find("[\n\r]") then return done(nil, "a rule is one line of text") end
  if math.type(ttl) ~= "integer" or ttl < 1 or ttl > MAX_TTL then
    return done(nil, ("a temporary rule needs a ttl of 1 to %d seconds"):format(MAX_TTL))
  end
  agent:exclusive(function()
    if #agent.temporary >= MOST then return nil, ("there are %d temporary rules already"):format(MOST) end
    local entries, err = entries_of(action, text)
    if not entries then return nil, err end
    agent.last_temporary = agent.last_temporary + 1
    local rule = { id = agent.last_temporary, action = action, text = text, entries = entries, reason = opts.reason,
      uid = opts.uid or 0, until_s = os.time() + ttl, until_ns = require("lattice.sys").clock() + ttl * 1000000000 }
    agent.temporary[#agent.temporary + 1] = rule
    local ok, why, code = push(agent, action ~= "allow")
    if not ok then
      table.remove(agent.temporary)
      return nil, why, code
    end
    rule.timer = require("lattice.loop").timer(ttl * 1000, function()
      rule.timer = nil
      expire(agent, rule.id, "its time is over", function() end)
    end)
    return rule.id
  end, done)
end

function M.remove(agent, id, done) return expire(agent, id, nil, done) end

--- The agent ends: no timer may hold the loop.
function M.close(agent)
  for _, rule in ipairs(agent.temporary) do
    if rule.timer then rule.timer:close() end
  end
  agent.temporary = {}
end

return M
