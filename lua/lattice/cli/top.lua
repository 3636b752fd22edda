-- lattice top: which rules and which remotes the traffic of this node belongs to, refreshed in place.
local M = {
  name = "top",
  summary = "Show the busiest rules and remotes of this node, refreshed.",
  agent = true,
  examples = { "lattice top", "lattice top --by remote --interval 1", "lattice top --by rule | head" },
}

local FLOWS = 10000

function M.args(parser)
  parser:description(table.concat({
    M.summary,
    "",
    "On a terminal it goes on until q or Ctrl-C; elsewhere it prints one table and ends. Rates are those of the last",
    "interval; rules count since the generation came into force, remotes and ports over the flows open now.",
  }, "\n"))
  parser:option("--by", "What a line stands for."):choices({ "rule", "remote", "port" }):default("rule")
  parser:option("--run", "Of a run of a user, by its id (lattice status), instead of the node."):argname("ID")
  parser:option("--interval", "Seconds between two tables."):argname("SECONDS"):default("2"):convert(tonumber)
  parser:option("--lines", "Lines of the table (default: what fits, or all)."):argname("N"):convert(math.tointeger)
end

local function plain(text) return require("lattice.audit.format").plain(tostring(text)) end

-- rows: by key, { label, packets, bytes, flows? }
local function by_rule(c, run)
  local result, err = c:call("counters", { run = run })
  if not result then return nil, err end
  local rows = {}
  for _, one in ipairs(result.counters) do
    rows[#rows + 1] = {
      key = result.generation .. ":" .. one.rule, packets = one.packets, bytes = one.bytes, action = one.action,
      label = plain((one.where or "rule " .. one.rule):match("[^/]*$")) .. (one.text and "  " .. plain(one.text) or ""),
    }
  end
  return rows
end

local function by_flow(c, run, label)
  local result, err = c:call("flows", { limit = FLOWS, run = run })
  if not result then return nil, err end
  local rows, known = {}, {}
  for _, flow in ipairs(result.flows) do
    local text = label(flow)
    local row = known[text]
    if not row then
      row = { key = text, label = plain(text), packets = 0, bytes = 0, flows = 0 }
      known[text], rows[#rows + 1] = row, row
    end
    row.packets, row.bytes, row.flows = row.packets + flow.packets, row.bytes + flow.bytes, row.flows + 1
  end
  return rows
end

local samplers = {
  rule = by_rule,
  remote = function(c, run) return by_flow(c, run, function(flow) return flow.addr end) end,
  port = function(c, run)
    local proto = require("lattice.audit.format").proto
    return by_flow(c, run, function(flow) return ("%s %s %d"):format(flow.dir, proto(flow.proto), flow.port or 0) end)
  end,
}

-- Adds rates by the sample before; the busiest first.
local function rank(rows, before, seconds)
  for _, row in ipairs(rows) do
    local was = before and before[row.key]
    row.packets_s = was and math.max(0, row.packets - was.packets) / seconds or nil
    row.bytes_s = was and math.max(0, row.bytes - was.bytes) / seconds or nil
  end
  table.sort(rows, function(a, b)
    local x, y = a.bytes_s or 0, b.bytes_s or 0
    if x ~= y then return x > y end
    if a.bytes ~= b.bytes then return a.bytes > b.bytes end
    return a.key < b.key
  end)
  local index = {}
  for _, row in ipairs(rows) do index[row.key] = row end
  return index
end

local function cut(text, width)
  if not width or utf8.len(text) <= width then return text end
  return text:sub(1, utf8.offset(text, math.max(1, width)) - 1) .. "…"
end

local styles = { allow = "green", audit = "yellow", deny = "red", drop = "red", ask = "red" }

local function table_lines(rows, args, out, width, height)
  local support = require("lattice.cli.support.agent")
  local with_flows = args.by ~= "rule"
  local head = ("%10s %10s %11s %11s  %s%s"):format("packets/s", "packets", "bytes/s", "bytes",
    with_flows and "flows  " or "action ", args.by)
  local lines = { out:paint("bold", head) }
  local count = math.min(#rows, args.lines or height or #rows)
  for i = 1, count do
    local row = rows[i]
    local second = with_flows and ("%-7d"):format(row.flows) or ("%-7s"):format((row.action or "?"):upper())
    lines[#lines + 1] = ("%10s %10d %11s %11s  %s%s"):format(row.packets_s and ("%.0f"):format(row.packets_s) or "-",
      row.packets, row.bytes_s and support.bytes(row.bytes_s) or "-", support.bytes(row.bytes),
      row.action and out:paint(styles[row.action] or "red", second) or second,
      cut(row.label, width and math.max(10, width - 55)))
  end
  if count < #rows then lines[#lines + 1] = ("%d more"):format(#rows - count) end
  if #rows == 0 then lines[#lines + 1] = "nothing yet" end
  return lines
end

local function json_rows(rows)
  local list = {}
  for i, row in ipairs(rows) do
    list[i] = { label = row.label, packets = row.packets, bytes = row.bytes, packets_s = row.packets_s,
      bytes_s = row.bytes_s, flows = row.flows, action = row.action }
  end
  return require("lattice.json").array(list)
end

-- Until q, Ctrl-C or an error.
local function refresh(c, args, out)
  local uv = require("luv")
  local over, problem, before = false, nil, nil
  local last = uv.hrtime()
  local keys = require("lattice.sys").isatty(0) and uv.new_tty(0, true) or nil
  if keys then
    keys:set_mode(1)
    keys:read_start(function(_, bytes)
      if not bytes or bytes:find("[qQ\3\4\27]") then over = true end
    end)
  end
  local screen = uv.new_tty(1, false)
  local ending = { "sigint", "sigterm" }
  for i, name in ipairs(ending) do
    ending[i] = uv.new_signal()
    ending[i]:start(name, function() over = true end)
  end
  local timer = uv.new_timer()
  local due = true
  timer:start(0, math.floor(args.interval * 1000), function() due = true end)
  while not over do
    if due then
      due = false
      local rows, err = samplers[args.by](c, args.run)
      if not rows then
        problem = err
        break
      end
      local now = uv.hrtime()
      before = rank(rows, before, math.max(0.001, (now - last) / 1e9))
      last = now
      local width, height = screen:get_winsize()
      local known = width and width > 0 and height > 0 -- a terminal need not know its size
      local lines = table_lines(rows, args, out, known and width or nil, known and math.max(1, height - 3) or nil)
      io.stdout:write("\27[H\27[J", table.concat(lines, "\r\n"), "\r\n")
      io.stdout:flush()
    end
    uv.run("once")
  end
  timer:close()
  for _, one in ipairs(ending) do one:close() end
  if keys then
    keys:set_mode(0)
    keys:close()
  end
  screen:close()
  return problem
end

function M.run(args, out)
  local support = require("lattice.cli.support.agent")
  if not args.interval or args.interval < 0.1 or args.interval > 3600 then
    out:message("--interval takes seconds from 0.1 to 3600")
    return 2
  end
  local c, code = support.open(args, out)
  if not c then return code end
  local err
  if require("lattice.sys").isatty(1) and not out.as_json then
    err = refresh(c, args, out)
  else
    local rows
    rows, err = samplers[args.by](c, args.run)
    if rows then
      rank(rows)
      if out.as_json then
        out:json("top", { by = args.by, rows = json_rows(rows) })
      else
        for _, line in ipairs(table_lines(rows, args, out)) do out:print(line) end
      end
    end
  end
  c:close()
  return err and support.fail(err, out) or 0
end

return M
