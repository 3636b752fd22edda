-- lattice metrics: the agent's numbers for Prometheus.
local M = {
  name = "metrics",
  summary = "Print the agent's numbers in the text format of Prometheus.",
  agent = true,
  examples = {
    "lattice metrics",
    "lattice metrics > /var/lib/prometheus/node-exporter/lattice.prom",
  },
}

function M.run(args, out)
  local result, code = require("lattice.cli.support.agent").call(args, out, "metrics")
  if not result then return code end
  if out.as_json then
    out:json("metrics", { text = result.text })
  else
    io.stdout:write(result.text)
  end
  return 0
end

return M
