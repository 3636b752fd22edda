-- lattice log: reads audit logs: for people, as JSON, or to check that nothing is missing.
local M = {
  name = "log",
  summary = "Read an audit log, or check that it is complete.",
  agent = true,
  examples = {
    "lattice log agent.jsonl --denied --last 20",
    "lattice log agent.jsonl --host '*.example' --host 10.0.0.7 --since 10m",
    "lattice log --check agent.jsonl.1 agent.jsonl",
    "lattice log --json --denied agent.jsonl | jq .dst_endpoint",
    "lattice log --denied --since 10m   # of the agent on this node",
  },
}

function M.args(parser)
  parser:description(table.concat({
    M.summary,
    "",
    "Filters of different kinds must all hold (AND); of one kind given more than once, any may (OR):",
    "--denied --host a.example --host b.example is denied AND (a.example OR b.example).",
    "Exit status: 0; 1 when --check finds something missing, or a line is no record; 2 usage.",
  }, "\n"))
  parser:argument("files", "Audit logs in their order, oldest first; - is stdin. Without any: the one of the agent on "
    .. "this node."):argname("FILE"):args("*")
  parser:flag("--check", "Say \"complete\", or what is missing.")
  parser:flag("--denied", "Only what was refused.")
  parser:option("--kind", "Only these: verdict, close, dns, unix, start, exit, reload, loss, selfcheck, handler, "
    .. "agent, operator, limit.")
    :argname("KIND"):count("*"):target("kinds")
  parser:option("--host", "Only flows to this name or address; * stands for any text."):argname("HOST")
    :count("*"):target("hosts")
  parser:option("--since", "Only what is younger than 90s, 10m, 2h or 1d."):argname("TIME")
  parser:option("--last", "Only the last N."):argname("N")
end

local units = { s = 1, m = 60, h = 3600, d = 86400 }
local kinds = { verdict = true, close = true, dns = true, unix = true, start = true, exit = true, reload = true,
  loss = true, selfcheck = true, handler = true, agent = true, operator = true,
  limit = true }

local function since_ms(text)
  local number, unit = text:match("^(%d+)([smhd])$")
  if not number or #number > 9 then
    return nil, "--since takes a time such as 90s, 10m, 2h or 1d, not '" .. text .. "'"
  end
  return (os.time() - tonumber(number) * units[unit]) * 1000
end

-- "*.example" -> a Lua pattern for the whole text.
local function glob(text)
  return "^" .. text:lower():gsub("[%^%$%(%)%%%.%[%]%+%-%?]", "%%%0"):gsub("%*", ".*") .. "$"
end

local function host_filter(hosts)
  local patterns = {}
  for i, host in ipairs(hosts) do patterns[i] = glob(host) end
  return function(record)
    for _, pattern in ipairs(patterns) do
      if (record.name or ""):lower():find(pattern) or (record.addr or ""):find(pattern) then return true end
    end
    return false
  end
end

local function kind_filter(list)
  local wanted = {}
  for _, kind in ipairs(list) do wanted[kind] = true end
  return function(record) return wanted[record.kind] or false end
end

local judged = { verdict = true, dns = true, unix = true }

-- The filters of the arguments; nil and a message when one is wrong.
local function filters(args)
  local list = {}
  for _, kind in ipairs(args.kinds) do
    if not kinds[kind] then return nil, ("no kind '%s'; see lattice help log"):format(kind) end
  end
  if args.denied then
    list[#list + 1] = function(record) return judged[record.kind] and not record.passed end
  end
  if #args.kinds > 0 then list[#list + 1] = kind_filter(args.kinds) end
  if #args.hosts > 0 then list[#list + 1] = host_filter(args.hosts) end
  if args.since then
    local after, why = since_ms(args.since)
    if not after then return nil, why end
    list[#list + 1] = function(record) return record.time >= after end
  end
  return list
end

local function wanted(record, list)
  for _, filter in ipairs(list) do
    if not filter(record) then return false end
  end
  return true
end

-- Calls each(record, path) for every record of the files, and bad(problem, path) for what is none. On failure nil, why.
local function scan(files, each, bad)
  local reader = require("lattice.audit.reader")
  for _, path in ipairs(files) do
    local name = type(path) == "table" and path.name or path
    local function on_problem(problem) bad(problem, name) end
    local ok, why = pcall(function()
      local source = type(path) == "table" and reader.each(path, on_problem)
      if not source then source = reader.records(path, on_problem) end
      for record in source do each(record, name) end
    end)
    if not ok then return nil, tostring(why) end
  end
  return true
end

local function check(args, out)
  local check_ = require("lattice.audit.check")
  local checker = check_.new()
  local ok, why = scan(args.files, function(record, path) checker:add(record, path) end,
    function(problem, path) checker:garbage(problem, path) end)
  if not ok then
    out:message(why)
    return 1
  end
  local result = checker:result()
  if out.as_json then
    local json = require("lattice.json")
    for _, key in ipairs({ "runs", "gaps", "problems", "open" }) do json.array(result[key]) end
    out:json("log-check", result)
  else
    for _, line in ipairs(check_.describe(result)) do out:print(line) end
  end
  return result.complete and 0 or 1
end

-- Prints at once, or keeps the last N.
local function printer(out, last)
  local format = require("lattice.audit.format")
  local function paint(style, text) return out:paint(style, text) end
  local function show(record) out:print(out.as_json and record.raw or format.line(record, paint)) end
  local kept, count = {}, 0
  if not last then return show, function() end end
  return function(record)
    count = count + 1
    kept[(count - 1) % last + 1] = record
  end, function()
    for i = math.max(1, count - last + 1), count do show(kept[(i - 1) % last + 1]) end
  end
end

-- The agent's audit file, read by the agent: who may ask it need not be able to open the file.
local function from_agent(args, out)
  local support = require("lattice.cli.support.agent")
  local c, code = support.open(args, out)
  if not c then return nil, code end
  local first, err = c:call("log", { bytes = 0 })
  if not first then
    c:close()
    return nil, support.fail(err, out)
  end
  local at = 0
  return { {
    name = first.path,
    read = function()
      if at >= first.size then return nil end -- what was there when we began: it grows under us
      local piece, why = c:call("log", { offset = at, bytes = math.min(1 << 20, first.size - at) })
      if not piece then error(why.text, 0) end
      if piece.text == "" then return nil end
      at = at + #piece.text
      return piece.text
    end,
  }, client = c }
end

local function records(args, out)
  local list, why = filters(args)
  local last = args.last and math.tointeger(tonumber(args.last))
  if args.last and (not last or last < 1) then list, why = nil, "--last takes a number from 1" end
  if args.check and (args.denied or args.last or args.since or #args.kinds > 0 or #args.hosts > 0) then
    list, why = nil, "--check looks at every record: it takes no filter"
  end
  if not list then
    out:message(why)
    return 2
  end
  if args.check then return check(args, out) end
  local show, finish = printer(out, last)
  local status = 0
  local ok, trouble = scan(args.files, function(record)
    if wanted(record, list) then show(record) end
  end, function(problem, path)
    out:message(("%s:%d: %s"):format(path, problem.at, problem.torn and "the last line is cut off" or problem.what))
    if not problem.torn then status = 1 end
  end)
  finish()
  if ok then return status end
  out:message(trouble)
  return 1
end

function M.run(args, out)
  if #args.files > 0 and not args.socket then return records(args, out) end
  if #args.files > 0 then
    out:message("log takes files, or the agent's (--socket), not both")
    return 2
  end
  local files, code = from_agent(args, out)
  if not files then return code end
  args.files = files
  local status = records(args, out)
  files.client:close()
  return status
end

return M
