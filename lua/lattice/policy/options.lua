-- The options of a rule: reason, log, rate, ttl, private, errno, and whom it is about.
local suggest = require("lattice.policy.suggest")
local terms = require("lattice.policy.terms")

local M = {}

local function text_option(value)
  if type(value) ~= "string" or value == "" or #value > 200 or value:find("%c") then return nil end
  return value
end

-- option -> { the field of the rule, reader, what is expected }
local options = {
  reason = { "reason", text_option, "one line of text, at most 200 characters" },
  log = { "log", function(v) return type(v) == "boolean" end, "true or false" },
  rate = { "rate", terms.rate, "new flows a second, such as 20 or \"20/s\"" },
  ttl = { "ttl", terms.seconds, "a time such as \"30s\", \"10m\" or \"1h\"" },
  private = { "private", function(v) return type(v) == "boolean" end, "true or false" },
  errno = { "errno", function(v) return terms.errnos[v] and v end,
    table.concat(suggest.keys(terms.errnos), ", ") },
}
local subject_keys = {
  ["for"] = { "name", text_option, "the name of a sandbox" },
  uid = { "uid", function(v)
    return math.type(v) == "integer" and v >= 0 and v < 0xffffffff and v
  end, "a user number" },
  cgroup = { "cgroup", text_option, "a path below the cgroup root" },
  exe = { "exe", function(v) return text_option(v) and v:sub(1, 1) == "/" and v end,
    "an absolute path" },
}
M.match_keys = { proto = true, to = true, from = true, port = true, dir = true }
local table_keys = {}
for _, keys in ipairs({ options, subject_keys, M.match_keys }) do
  for key in pairs(keys) do table_keys[#table_keys + 1] = key end
end
table.sort(table_keys)

--- Reads reason, log, rate, ... of `given` into `rule`; false when one of them is wrong.
function M.read(given, rule, allowed, report)
  local good = true
  local function bad(key, problem)
    good = false
    report(problem, type(given[key]) == "string" and given[key] or tostring(key))
  end
  for _, key in ipairs(suggest.keys(given)) do
    local value, known = given[key], options[key] or subject_keys[key]
    if known then
      local read = known[2](value)
      if not read then
        bad(key, { message = ("%s cannot be %s"):format(key, type(value) == "string"
          and ("'%s'"):format(value) or tostring(value)), expected = known[3] })
      elseif subject_keys[key] then
        rule.subject = rule.subject or {}
        rule.subject[known[1]] = read
      else
        rule[known[1]] = type(value) == "boolean" and value or read
        if value == false then rule[known[1]] = false end
      end
    elseif not allowed[key] then
      good = false
      local message = M.match_keys[key] and "'%s' belongs into the rule text" or "unknown key '%s'"
      report({ message = message:format(key), suggestion = suggest.nearest(key, table_keys) }, key)
    end
  end
  for key in pairs(given) do
    if type(key) ~= "string" then
      good = false
      report({ message = "a rule's table has named fields only", expected = "such as to = \"...\"" })
      break
    end
  end
  return good
end

return M
