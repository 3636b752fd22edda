-- Steps that wait for the loop, written one after the other: a task is a coroutine, and what it waits for wakes it.
local loop = require("lattice.loop")
local sys = require("lattice.sys")

local M = {}
local SLICE_NS = 4000000 -- of the loop, before others get their turn

local function resume(co, ...)
  local ok, err = coroutine.resume(co, ...)
  if not ok then error(debug.traceback(co, err), 0) end
end

--- Runs fn() in a task; done gets what it returns, or nil and the text of its error.
---@param fn fun(): any
---@param done fun(...)
function M.run(fn, done)
  local co = coroutine.create(function()
    local results = table.pack(xpcall(fn, function(err)
      return type(err) == "table" and err or { text = debug.traceback(tostring(err)) }
    end))
    if results[1] then return done(table.unpack(results, 2, results.n)) end
    return done(nil, results[2].text, results[2].code)
  end)
  resume(co)
end

--- The same, one at a time: it begins when those before it in the queue (a table of the caller's) have ended.
---@param queue table[]
---@param fn fun(): any
---@param done fun(...)
function M.turn(queue, fn, done)
  queue[#queue + 1] = { fn, done }
  if #queue > 1 then return end
  local function go()
    local job = queue[1]
    M.run(job[1], function(...)
      table.remove(queue, 1)
      if queue[1] then go() end
      job[2](...)
    end)
  end
  go()
end

--- Ends the task with done(nil, text, code).
function M.fail(text, code) error({ text = text, code = code }, 0) end

--- Calls start(done) now; the function that it gives waits for done later: other work goes on in between.
---@param start fun(done: fun(...)): any, any, any
---@return fun(): any ...
function M.start(start)
  local results, waiting
  local ok, text, code = start(function(...)
    if waiting then return resume(waiting, ...) end
    results = table.pack(...)
  end)
  if ok == nil and text then results = table.pack(nil, text, code) end
  return function()
    if results then return table.unpack(results, 1, results.n) end
    waiting = coroutine.running()
    return coroutine.yield()
  end
end

--- Calls start(done) and waits for done; what it was given. A start that returns nil, text, code has failed.
---@param start fun(done: fun(...)): any, any, any
---@return any ...
function M.wait(start) return M.start(start)() end

--- A function to call often in long work: it lets the loop go on now and then.
---@return fun() tick
function M.ticker()
  local since = sys.clock()
  return function()
    if sys.clock() - since < SLICE_NS or not coroutine.isyieldable() then return end
    local co = coroutine.running()
    loop.defer(function() resume(co) end)
    coroutine.yield()
    since = sys.clock()
  end
end

return M
