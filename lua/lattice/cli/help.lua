-- lattice help, and what `lattice` alone says.
local M = {
  name = "help",
  summary = "Explain a command.",
  examples = { "lattice help run", "lattice help --man status | man -l -" },
}

local first = { "run", "check", "explain", "test", "log", "doctor" }

local function shown(names)
  local cli = require "lattice.cli"
  local commands = {}
  for _, name in ipairs(names) do
    local command = cli.find(name)
    if command and not command.hidden then commands[#commands + 1] = command end
  end
  return commands
end

local function summaries(names)
  local lines = {}
  for i, command in ipairs(shown(names)) do
    lines[i] = ("  %-12s %s\n"):format(command.name, command.summary)
  end
  return table.concat(lines)
end

local function as_json(out, names)
  local json = require "lattice.json"
  local list = {}
  for i, command in ipairs(shown(names)) do
    list[i] = { name = command.name, summary = command.summary, examples = json.array(command.examples) }
  end
  out:json("help", { commands = json.array(list) })
end

--- Six commands and two examples.
---@return string
function M.short()
  return "Run programs under a network policy written in Lua.\n\nUsage: lattice COMMAND ...\n\n"
    .. summaries(first)
    .. "\nExamples:\n"
    .. '  lattice run --allow "tcp to api.example.com port 443" -- curl https://api.example.com\n'
    .. '  lattice explain my.lua "tcp to 10.0.0.7 port 5432"\n\n'
    .. "On a node with latticed: lattice status, watch, top, reload, down.\n"
    .. "All commands: lattice help\n"
end

function M.args(parser)
  parser:argument("command", "The command to explain."):args("?")
  parser:flag("--man", "Print the command's manual page, in roff.")
end

function M.run(args, out)
  local cli = require "lattice.cli"
  if args.man and not args.command then
    out:message("--man takes a command: lattice help --man status")
    return cli.exit.usage
  end
  if not args.command then
    if args.json then
      as_json(out, cli.names())
      return cli.exit.ok
    end
    io.stdout:write("Usage: lattice [--socket PATH] COMMAND ...\n\nCommands:\n", summaries(cli.names()),
      "\n--socket PATH names the agent to talk to (default: /run/lattice/control.sock).",
      "\nlattice help COMMAND explains one, with examples.\n")
    return cli.exit.ok
  end
  local command = cli.find(args.command)
  if not command then
    local near = require("lattice.cli.support.suggest").nearest(args.command, cli.names())
    out:message(("unknown command '%s'%s"):format(args.command,
      near and "; did you mean '" .. near .. "'?" or ""))
    return cli.exit.usage
  end
  if args.man then
    io.stdout:write(require("lattice.cli.support.man").page(command))
  elseif args.json then
    as_json(out, { args.command })
  else
    io.stdout:write(cli.help(command), "\n")
  end
  return cli.exit.ok
end

return M
