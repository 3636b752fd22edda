-- Things that take turns on the loop, written one after another: a coroutine that waits for callbacks; and queues in which
-- one runs at a time.
--
--   steps.run(function()
--     local handle, err = steps.await(function(done) device.open(spec, options, done) end)
--     ...
--     return result                  -- or: return nil, text, code
--   end, done)
local M = {}

local FAILED = {} -- in place of results: the starter raised

local function resume(co, done, ...)
  local results = table.pack(coroutine.resume(co, ...))
  if not results[1] then
    return done(nil, debug.traceback(co, tostring(results[2])), "internal")
  elseif coroutine.status(co) == "dead" then
    return done(table.unpack(results, 2, results.n))
  end
  local called = false
  local ok, problem = xpcall(results[2], debug.traceback, function(...)
    if called then return end -- a part that answers twice must not run what follows twice
    called = true
    resume(co, done, ...)
  end)
  if ok then return end
  if called then error(problem, 0) end -- of what came after the answer
  called = true
  return resume(co, done, FAILED, problem)
end

--- Runs fn in a coroutine; what it returns goes to done, and so does what it raises: done(nil, text, "internal").
---@param fn fun(): ...
---@param done fun(...)
function M.run(fn, done)
  return resume(coroutine.create(fn), done)
end

--- Inside run: calls starter with a `done` and gives what that gets.
---@param starter fun(done: fun(...))
---@return any ...
function M.await(starter)
  local results = table.pack(coroutine.yield(starter))
  if results[1] == FAILED then error(results[2], 0) end
  return table.unpack(results, 1, results.n)
end

--- Inside run: calls fn outside of the coroutine (sys.limited wants the main one) and gives what it returns.
---@param fn fun(): ...
---@return any ...
function M.outside(fn)
  return M.await(function(done) done(fn()) end)
end

--- A queue: queue(fn, done) runs fn as `run` does, after all that were given before it.
---@return fun(fn: fun(), done: fun(...))
function M.queue()
  local waiting, busy = {}, false
  local function next_one()
    local job = table.remove(waiting, 1)
    busy = job ~= nil
    if not job then return end
    M.run(job.fn, function(...)
      -- The next begins also when done raises; the error is the loop's.
      local ok, problem = xpcall(job.done, debug.traceback, ...)
      next_one()
      if not ok then error(problem, 0) end
    end)
  end
  return function(fn, done)
    waiting[#waiting + 1] = { fn = fn, done = done }
    if not busy then next_one() end
  end
end

return M
