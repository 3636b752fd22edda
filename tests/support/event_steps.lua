-- For specs of lattice.events: policies and audit files that go again, events pushed into a source.
local api = require("lattice.api")
local check = require("lattice.audit.check")
local loop = require("lattice.loop")
local pack = require("events").pack
local policies = require("lattice.policies")
local reader = require("lattice.audit.reader")

local M = {}
local made = {}

--- A file with this text; its path.
function M.temporary(text)
  local path = os.tmpname()
  local f <close> = assert(io.open(path, "w"))
  f:write(text or "")
  made[#made + 1] = path
  return path
end

--- A policy as a generation.
function M.generation(number, text)
  local got, why
  policies.load({ number = number, files = { M.temporary(text) } }, function(g, e) got, why = g, e end)
  loop.run()
  return assert(got, why)
end

--- Gives events (tables as of events.lua) to a source and lets the loop take them.
function M.push(source, ...)
  local bytes = {}
  for i, e in ipairs({ ... }) do bytes[i] = pack(e) end
  assert(source:push(table.concat(bytes)))
  loop.run()
end

--- The records of an audit file and whether it is complete.
function M.records(path)
  local list, checker = {}, check.new()
  for record in reader.records(path) do
    list[#list + 1] = record
    checker:add(record, path)
  end
  return list, checker:result()
end

--- What every spec does after each test: the files go; how many boxes are still open.
function M.finish()
  for _, path in ipairs(made) do os.remove(path) end
  made = {}
  collectgarbage()
  collectgarbage()
  return api.boxes()
end

return M
