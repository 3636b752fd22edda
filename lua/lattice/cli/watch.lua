-- lattice watch: what the agent's enforcer decides, as it happens.
local M = {
  name = "watch",
  summary = "Follow what is allowed and refused on this node.",
  agent = true,
  examples = {
    "lattice watch --denied",
    "lattice watch --last 20 --stop",
    "lattice watch --to 10.42.0.0/16 --to fd42::/64 --proto tcp --port 5432",
    "lattice watch --json | jq -r 'select(.verdict == \"deny\") | .addr'",
    "lattice watch --from audit.jsonl --denied --port 22",
  },
}

function M.args(parser)
  parser:description(table.concat({
    M.summary,
    "",
    "Options of different kinds must all hold (AND); of one kind given more than once, any may (OR):",
    "--denied --port 22 --port 23 is denied AND (port 22 OR port 23).",
    "One line an event; one JSON object a line with --json. What could not be shown in time is counted.",
  }, "\n"))
  require("lattice.cli.support.events").options(parser)
  parser:option("--last", "Begin with the last N events of the past."):argname("N"):convert(math.tointeger)
  parser:flag("--stop", "End after the events of the past (all of them without --last).")
  parser:option("--from", "Read a file of such JSON lines or of audit records instead; - is stdin."):argname("FILE")
end

-- false when nobody reads any more.
local function show(event, out)
  local text
  if out.as_json then
    event.schema = "lattice/event/v1"
    text = require("lattice.json").encode(event)
  else
    text = require("lattice.cli.support.events").line(event, out)
  end
  return io.stdout:write(text, "\n") ~= nil and io.stdout:flush() ~= nil
end

local function show_loss(lost, out)
  if lost <= 0 then return true end
  if not out.as_json then
    out:message(("%d events could not be shown in time"):format(lost))
    return true
  end
  io.stdout:write(require("lattice.json").encode({ schema = "lattice/loss/v1", lost = lost }), "\n")
  return io.stdout:flush() ~= nil
end

local function from_file(args, test, out)
  local each, why = require("lattice.cli.support.events").from_file(args.from)
  if not each then
    out:message(why)
    return 1
  end
  local last = args.last or math.maxinteger
  local kept, count = {}, 0
  for event in each do
    if test(event) then
      if args.last then
        count = count + 1
        kept[(count - 1) % last + 1] = event
      elseif not show(event, out) then
        return 0
      end
    end
  end
  for i = math.max(1, count - last + 1), count do
    if not show(kept[(i - 1) % last + 1], out) then return 0 end
  end
  return 0
end

local function follow(args, spec, out)
  local support = require("lattice.cli.support.agent")
  local c, code = support.open(args, out)
  if not c then return code end
  local uv = require("luv")
  local over, err = false, nil
  spec.last = args.last or (args.stop and 100000 or 0)
  spec.stop = args.stop or nil
  c:request("watch", spec, {
    item = function(event, lost)
      if over then return end
      if not show_loss(lost, out) or not show(event, out) then over = true end
    end,
    done = function(result, e, lost)
      if over then return end -- it is we who close
      over, err = true, e
      if result then show_loss(lost or 0, out) end
    end,
  })
  local interrupt = uv.new_signal()
  interrupt:start("sigint", function() over = true end)
  local reader = uv.new_timer() -- head has its lines, and no event comes by which a write would tell
  reader:start(500, 500, function() over = over or require("lattice.peer").gone(1) end)
  while not over do uv.run("once") end
  interrupt:close()
  reader:close()
  c:close()
  return err and support.fail(err, out) or 0
end

function M.run(args, out)
  local spec, test = require("lattice.cli.support.events").filter(args)
  if spec and args.last and args.last < 1 then spec, test = nil, "--last takes a number from 1" end
  if not spec then
    out:message(test)
    return 2
  end
  if args.from then return from_file(args, test, out) end
  return follow(args, spec, out)
end

return M
