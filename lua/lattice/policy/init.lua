-- The policy language: load policies, judge flows, print rules. Pure Lua and lpeg.
local errors = require("lattice.policy.errors")
local load_ = require("lattice.policy.load")

local M = {
  addr = require("lattice.policy.addr"),
  eval = require("lattice.policy.eval"),
  flow = require("lattice.policy.flow"),
  names = require("lattice.policy.names"),
  print = require("lattice.policy.print"),
  load = load_.load,
  failing_tests = load_.failing_tests,
  format_error = errors.format,
}

return M
