-- lattice completion: a script for the shell.
local M = {
  name = "completion",
  summary = "Print a completion script for bash, zsh or fish.",
  examples = { "lattice completion bash > ~/.local/share/bash-completion/completions/lattice" },
}

function M.args(parser)
  parser:argument("shell", "The shell."):choices { "bash", "zsh", "fish" }
end

function M.run(args, out)
  local cli = require "lattice.cli"
  local parser = require("argparse")("lattice", "Run programs under a network policy.")
  parser:command_target("command")
  parser:option("--socket", "Control socket of the agent."):argname("PATH")
  for _, name in ipairs(cli.names()) do
    local command = cli.find(name)
    if not command.hidden then cli.configure(parser:command(name, command.summary), command) end
  end
  io.stdout:write(parser["get_" .. args.shell .. "_complete"](parser))
  return cli.exit.ok
end

return M
