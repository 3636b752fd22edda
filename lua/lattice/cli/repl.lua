-- lattice repl: a Lua prompt on the live agent. The text runs on the node, in a state that cannot hurt the agent.
local M = {
  name = "repl",
  summary = "Ask the agent on this node in Lua, rule by rule and flow by flow.",
  agent = true,
  examples = {
    "lattice repl",
    "lattice repl --eval 'explain \"tcp to 10.0.0.7 port 80\"'",
    "lattice repl --json --eval 'rules()' | jq '.values[0][] | select(.packets > 0)'",
    "sudo lattice repl --write --eval 'allow(\"tcp to 10.0.0.7 port 80\", { ttl = 60 })'",
  },
}

function M.args(parser)
  parser:description(table.concat({
    M.summary,
    "",
    "Type help() for the words, ?WORD for one of them; Tab completes, Ctrl-C stops what runs, Ctrl-D ends.",
    "Without a terminal, what stdin says is evaluated. A session only reads, unless it is root's and has --write;",
    "what such a session does is in the audit.",
    "Exit status: 0; 1 an error of the text (with --eval or without a terminal); 4 no agent; 5 you may not.",
  }, "\n"))
  parser:flag("--write", "Allow changes: temporary rules, reload. For root.")
  parser:option("--eval", "Evaluate this text, and end."):argname("CODE")
end

local function width() return math.tointeger(tonumber(os.getenv("COLUMNS"))) or 80 end

-- Evaluates one text: its output is written as it comes. The result, or nil and an error of the way there.
local function evaluate(c, code, args, out)
  local uv = require("luv")
  local result, err, over
  local id = c:request("repl", { code = code, write = args.write or nil, json = args.json or nil,
    color = out.color or nil, width = width() }, {
    item = function(text, lost)
      if args.json then text = "" end -- stdout has one object
      io.stdout:write(tostring(text))
      if lost > 0 then io.stderr:write(("lattice: %d pieces of output lost\n"):format(lost)) end
      io.stdout:flush()
    end,
    done = function(r, e) result, err, over = r, e, true end,
  })
  local interrupt = uv.new_signal()
  interrupt:start("sigint", function() if id then c:cancel(id) end end)
  while not over do uv.run("once") end
  interrupt:close()
  uv.run("nowait")
  if result and result.cancelled or not err and not result then result = { ok = false, error = "interrupted" } end
  return result, err
end

-- Shows what the evaluation did not write itself; whether it was good.
local function show(result, args, out)
  if args.json then
    out:json("repl", { ok = result.ok or false, values = result.values, error = result.error, why = result.why,
      cut = result.cut })
    return result.ok
  end
  if result.cut then io.stdout:write("\n… cut: more than a session may write at once\n") end
  if not result.ok then out:problem(out:paint("red", result.error or "interrupted")) end
  return result.ok
end

local function support() return require("lattice.cli.support.agent") end

local function once(c, code, args, out)
  local result, err = evaluate(c, code, args, out)
  if not result then return support().fail(err, out) end
  return show(result, args, out) and 0 or 1
end

-- Texts out of lines: a text that is not whole yet goes on in the next line.
local function script(c, args, out)
  local text, status
  for line in io.lines() do
    text = text and text .. "\n" .. line or line
    local result, err = evaluate(c, text, args, out)
    if not result then return support().fail(err, out) end
    if not result.incomplete then
      if not show(result, args, out) then return 1 end
      text = nil
    end
    status = result
  end
  if text and status and not status.ok then
    show(status, args, out)
    return 1
  end
  return 0
end

-- Where the history is kept; nil when there is no such place.
local function history_path()
  local uv = require("luv")
  local state, home = os.getenv("XDG_STATE_HOME"), os.getenv("HOME")
  if not state and not home then return nil end
  local dir = state or home
  local steps = state and { "lattice" } or { ".local", "state", "lattice" }
  for _, name in ipairs(steps) do
    dir = dir .. "/" .. name
    uv.fs_mkdir(dir, tonumber("700", 8))
  end
  return dir .. "/history"
end

local function interactive(c, args, out)
  local edit = require("lattice.edit")
  local version = c:call("version") or {}
  local history = history_path()
  local ok, why = edit.open("lattice", history)
  if not ok then
    out:message(why)
    return 1
  end
  out:print(("lattice %s (%s), pid %s%s. help() lists the words; Ctrl-D ends."):format(version.version or "?",
    version.edition or "?", version.pid or "?", args.write and ", with --write" or ""))
  local function complete(line)
    local result = c:call("repl-complete", { line = line }, 2000)
    if not result or not result.candidates then return {}, "" end
    return result.candidates, result.prefix or ""
  end
  local uv = require("luv")
  local calm = uv.new_signal() -- Ctrl-C between two lines is not the end
  calm:start("sigint", function() end)
  calm:unref()
  local text
  while true do
    local line, stopped = edit.read(text and "      >> " or args.write and "lattice# " or "lattice> ", complete)
    if not line and not stopped then break end
    if stopped then
      text = nil
      io.stdout:write("\n")
    elseif line:find("%S") or text then
      text = text and text .. "\n" .. line or line
      local result, err = evaluate(c, text, args, out)
      if not result and err.exit == 4 then return support().fail(err, out) end
      if not (result and result.incomplete) then
        edit.add((text:gsub("\n", " ")))
        if result then show(result, args, out) else support().fail(err, out) end
        text = nil
      end
    end
  end
  io.stdout:write("\n")
  if history then edit.save(history) end
  return 0
end

function M.run(args, out)
  local c, status = support().open(args, out)
  if not c then return status end
  local sys = require("lattice.sys")
  if args.eval then
    status = once(c, args.eval, args, out)
  elseif sys.isatty(0) and not args.json then
    status = interactive(c, args, out)
  else
    status = script(c, args, out)
  end
  c:close()
  return status
end

return M
