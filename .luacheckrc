-- luacheck over lua/, policies, tests, scripts, examples. No new globals anywhere; each exception says why.
std = "lua54"
max_line_length = 125 -- the house style is 90; a table of test data may be wider
codes = true
self = false
unused_args = false -- a handler keeps the arguments of its kind, used or not

-- a policy is built of these words (lua/lattice/policy)
local policy_words = {
  "policy", "default", "include", "set", "allow", "deny", "drop", "ask", "audit", "on",
  "limits", "test", "file", "syslog", "unix", "keep_established",
}
files["policies/*.lua"] = { read_globals = policy_words }
files["tests/golden/**/*.lua"] = { read_globals = policy_words }
files["tests/golden/**/*.lua"] = { read_globals = policy_words }
-- broken on purpose
exclude_files = { "tests/lua/hostile/*.lua" }
files["examples/**/*.lua"] = { read_globals = policy_words }
-- and the agent's configuration of these (lua/lattice/agent/words.lua)
files["examples/**/lattice.lua"] = { read_globals = {
  "device", "policy", "enforcer", "nat", "forward", "names", "audit", "file", "syslog", "unix", "on", "control", "pins",
  "group",
} }

files["examples/repl-session/session.lua"] = { read_globals = { "rules", "explain", "allow", "temporary", "remove" } }

-- stubs for editors: signatures without bodies
files["lua/lattice/policy/_meta/*.lua"] = { max_line_length = false, ignore = { "111", "131" } }
files["lua/lattice/agent/_meta/*.lua"] = { max_line_length = false, ignore = { "111", "131", "211", "241" } }
files["lua/lattice/_meta/*.lua"] = { max_line_length = false, unused_args = false, ignore = { "111", "112", "113", "211", "212", "241" } }

local busted = {
  read_globals = { "describe", "it", "pending", "before_each", "after_each", "setup", "teardown",
    "lazy_setup", "lazy_teardown", "strict_setup", "strict_teardown", "finally", "insulate", "expose",
    "spy", "stub", "mock", "match", "context",
    -- luassert extends the global function
    assert = { other_fields = true } },
}
files["tests/**/*_spec.lua"] = busted

-- `lattice lua FILE ARG...` gives the script its arg, as lua5.4 does
files["lua/lattice/cli/lua.lua"] = { globals = { "arg" } }
