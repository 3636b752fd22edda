-- The verbs of `lattice repl`. Each connection that evaluates has a limited Lua state in a thread of its own
-- (C module lattice.eval): an error, an endless loop or a huge print is that thread's. What the text wants of the agent
-- comes here as a call and is judged here (calls.lua).
local json = require("lattice.json")
local log = require("lattice.log")
local eval = require("lattice.eval")
local calls = require("lattice.control.repl.calls")
local help = require("lattice.control.repl.help")

local M = {}

local SESSIONS = 8     -- at once: each is a thread and its memory
local CODE = 64 << 10  -- bytes of one text
local NOTED = 400      -- bytes of a text that the audit gets

local options = {
  module = "lattice.control.repl.inside", memory = 64 << 20, instructions = 300000000, deadline_ms = 10000,
  cpu_ms = 10000, calls = 10000, output = 128 << 10, -- half of what may wait for a client that reads slowly
}
local count = 0

---@class lattice.control.repl.Owner : lattice.control.repl.Session
---@field state lattice.eval.Session?
---@field reply lattice.control.Reply?  of the text at work
---@field waiting fun()?               the next one, once the state is free

local function close_state(session)
  if not session.state then return end
  session.state:close()
  session.state, session.busy = nil, false
end

-- An answer of the agent as the state takes it; a value that JSON cannot say is an error of the call.
local function answer(session, state, id, value, problem)
  if session.state ~= state then return end -- the session ended meanwhile
  local text
  if value ~= nil then
    local ok, encoded = pcall(json.encode, value)
    text, problem = ok and encoded or nil, ok and problem or encoded
  end
  if text then state:answer(id, text) else state:answer(id, nil, tostring(problem or "it failed")) end
end

local function on_call(session, id, name, text)
  local state, answered = session.state, false
  local function done(value, problem)
    if answered then return end
    answered = true
    answer(session, state, id, value, problem)
  end
  local call = calls.calls[name]
  if not call then return done(nil, "no such call") end
  local ok, why = xpcall(function()
    local args = json.decode(text)
    call(session, type(args) == "table" and args or {}, done)
  end, debug.traceback)
  if ok then return end
  log.error("repl: internal error in " .. name .. ":", why)
  done(nil, "internal error in " .. name .. ": " .. tostring(why):match("^[^\n]*"))
end

local function on_done(session, text, problem, why)
  local reply = session.reply
  session.busy, session.reply = false, nil
  calls.finish(session)
  local result = text and json.decode(text) or { ok = false, error = problem, why = why }
  if why == "memory" then -- what is left of such a state is of no use
    close_state(session)
    result.error = result.error .. "; a new session begins, its variables are gone"
  end
  if reply then reply(result) end
  local next_one = session.waiting
  session.waiting = nil
  if next_one then next_one() end
end

local function open_state(session)
  if session.state then return true end
  local state, err, code = eval.open(options, function(kind, ...)
    if kind == "output" then
      if session.reply then session.reply.more((...)) end
    elseif kind == "call" then
      on_call(session, ...)
    else
      on_done(session, ...)
    end
  end)
  if not state then return nil, err, code end
  session.state = state
  return true
end

-- The session of this connection, made at its first request.
local function session_of(agent, request, reply)
  local session = request.session.repl
  if session then return session end
  if count >= SESSIONS then
    reply.error("too many REPL sessions at once; end one of them", "EBUSY", 1)
    return nil
  end
  count = count + 1
  session = { agent = agent, uid = request.uid, write = false, watches = {} }
  request.session.repl, request.session.keep = session, true
  reply.closed(function()
    count = count - 1
    calls.finish(session)
    session.waiting, session.reply = nil, nil
    close_state(session)
  end)
  return session
end

-- Gives the state one text. A text that was interrupted may still be on its way out of it: the next one waits for that.
local function run(session, reply, text, write)
  if session.busy then
    if session.waiting or session.reply then
      return reply.error("this session evaluates something already", "EBUSY", 1)
    end
    session.waiting = function() run(session, reply, text, write) end
    reply.cancelled(function() session.waiting = nil end)
    return
  end
  local ok, err, code = open_state(session)
  if ok then ok, err, code = session.state:run(text) end
  if not ok then return reply.error(err, code, 1) end
  session.busy, session.reply, session.write = true, reply, write
  reply.cancelled(function()
    session.reply = nil
    if session.state and session.busy then session.state:interrupt() end
  end)
end

local function evaluate(agent, request, reply)
  local args = request.args
  if type(args.code) ~= "string" or #args.code > CODE then
    return reply.error(("repl: code is a text of at most %d bytes"):format(CODE), "EINVAL", 2)
  end
  local session = session_of(agent, request, reply)
  if not session then return end
  local write = args.write and request.writer or false
  if write then
    local text = #args.code > NOTED and args.code:sub(1, NOTED) .. "..." or args.code
    agent:note(request.uid, "repl: " .. text)
  end
  run(session, reply, json.encode({
    op = "eval", code = args.code, json = args.json and true or false, color = args.color and true or false,
    width = math.tointeger(args.width) or 80, write = write,
  }), write)
end

local function complete(agent, request, reply)
  local line = request.args.line
  if type(line) ~= "string" or #line > CODE then
    return reply.error("repl-complete: line is a text", "EINVAL", 2)
  end
  local session = session_of(agent, request, reply)
  if session then run(session, reply, json.encode({ op = "complete", line = line }), false) end
end

local function explain_word(request, reply)
  local text = help.text(request.args.word, request.args.write)
  if text then return reply({ text = text }) end
  reply.error(("no word '%s'; help() lists them"):format(tostring(request.args.word)), "ENOENT", 2)
end

--- Adds the REPL's verbs to the control socket.
---@param server lattice.control.Server
---@param agent lattice.agent.Agent
function M.register(server, agent)
  server:verb("repl", {
    write = function(args) return args.write and true or false end,
    run = function(request, reply) evaluate(agent, request, reply) end,
  })
  server:verb("repl-complete", { write = false, run = function(request, reply) complete(agent, request, reply) end })
  server:verb("repl-help", { write = false, run = explain_word })
end

return M
