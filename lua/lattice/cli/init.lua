-- The `lattice` command: finds the subcommand, parses its arguments, runs it.
--
-- A subcommand is a file lua/lattice/cli/NAME.lua, found by its name; there is no list to edit. It returns
--   {
--     name = "check", summary = "one line", examples = { "lattice check my.lua" },
--     args = function(parser) end,       -- lua-argparse: parser:argument, :option, :flag
--     run = function(args, io) return 0 end,
--     rest = "COMMAND",                  -- optional: what follows `--` is args.rest, and how help names it
--     split = function(argv) return before, rest end,  -- optional: splits elsewhere than at `--`
--     failure = 125,                     -- optional: exit status when lattice itself fails
--     hidden = true,                     -- optional: not in the list of commands
--     agent = true,                      -- optional: it talks to the agent: --socket, before or after the name
--   }
-- --help, --json and --color are added here, and args.socket is the path that was given, or nil. Only the module that is
-- asked for is loaded: start-up time counts. What several commands share lives in lua/lattice/cli/support/.
local M = {}

M.exit = { ok = 0, failed = 1, usage = 2, invalid = 3, unreachable = 4, unsupported = 5,
  pro = 6 }

--- Names of all subcommands, sorted.
---@return string[]
function M.names()
  local api = require "lattice.api"
  local names = {}
  for _, module in ipairs(api.modules()) do
    local name = module:match("^lattice%.cli%.([%w_-]+)$")
    if name then names[#names + 1] = name end
  end
  return names
end

--- The subcommand of that name, or nil.
---@param name string
---@return table?
function M.find(name)
  if not name:match("^[%w_-]+$") or name == "support" then return nil end
  local api = require "lattice.api"
  if not api.has_module("lattice.cli." .. name) then return nil end
  return require("lattice.cli." .. name)
end

--- Give a parser (or a command of one) a subcommand's arguments.
---@param parser table  of lua-argparse
---@param command table
function M.configure(parser, command)
  parser:option("--color", "Colour the output: auto, always or never.")
    :choices { "auto", "always", "never" }:default("auto"):argname("WHEN")
  parser:flag("--json", "Print the result as JSON.")
  if command.agent then
    parser:option("--socket", "Control socket of the agent (default: /run/lattice/control.sock)."):argname("PATH")
  end
  if command.args then command.args(parser) end
  if command.examples then
    parser:epilog("Examples:\n  " .. table.concat(command.examples, "\n  "))
  end
end

local function new_parser(command)
  local argparse = require "argparse"
  local parser = argparse("lattice " .. command.name, command.summary)
  M.configure(parser, command)
  if command.rest then
    parser:usage(parser:get_usage() .. " -- " .. command.rest)
  end
  return parser
end

--- The help text of a subcommand.
---@param command table
---@return string
function M.help(command)
  return new_parser(command):get_help()
end

-- What follows the first "--" is the program's own: argparse must not see it.
local function split_at_dashes(argv)
  for i, word in ipairs(argv) do
    if word == "--" then
      return table.move(argv, 1, i - 1, 1, {}), table.move(argv, i + 1, #argv, 1, {})
    end
  end
  return argv, nil
end

local function run_command(command, argv, socket)
  local rest
  if command.split then
    argv, rest = command.split(argv)
  elseif command.rest then
    argv, rest = split_at_dashes(argv)
  end
  local parser = new_parser(command)
  local ok, args = parser:pparse(argv)
  if not ok then
    io.stderr:write("lattice ", command.name, ": ", args, "\nSee: lattice help ", command.name, "\n")
    return command.failure or M.exit.usage
  end
  args.rest = rest
  args.socket = args.socket or socket
  if socket and not command.agent then
    io.stderr:write("lattice ", command.name, ": it talks to no agent, so it takes no --socket\n")
    return command.failure or M.exit.usage
  end
  local output = require "lattice.cli.support.output"
  local done, status = xpcall(command.run, function(e)
    return debug.traceback(type(e) == "string" and e or "error object: " .. type(e), 2)
  end, args, output.new(args))
  if not done then
    io.stderr:write("lattice ", command.name, ": internal error: ", status, "\n")
    return command.failure or M.exit.failed
  end
  return math.tointeger(status) or error("the command gave no exit status")
end

local function unknown(name)
  local suggest = require "lattice.cli.support.suggest"
  local near = suggest.nearest(name, M.names())
  io.stderr:write("lattice: unknown command '", name, "'",
    near and "; did you mean '" .. near .. "'?" or "", "\nSee: lattice help\n")
  return M.exit.usage
end

-- lattice --socket PATH COMMAND ...: the path, and where the command is. A missing path: false.
local function global_options(argv)
  local word = argv[1]
  local path = word and word:match("^%-%-socket=(.+)$")
  if path then return path, 2 end
  if word ~= "--socket" then return nil, 1 end
  return argv[2] or false, 3
end

--- Runs the command line; argv[0] is the program.
---@param argv string[]
---@return integer exit status
function M.main(argv)
  local socket, at = global_options(argv)
  local name = argv[at]
  if socket == false or (socket and not name) then
    io.stderr:write("lattice: --socket PATH COMMAND ...: ", socket and "the command" or "the path", " is missing\n")
    return M.exit.usage
  end
  if not name then
    io.stdout:write(require("lattice.cli.help").short())
    return M.exit.ok
  end
  if name == "--help" or name == "-h" then name = "help" end
  if name == "--version" or name == "-V" then name = "version" end
  local command = M.find(name)
  if not command then return unknown(name) end
  return run_command(command, table.move(argv, at + 1, #argv, 1, {}), socket)
end

return M
