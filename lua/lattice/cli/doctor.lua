-- lattice doctor: what this host can do, each thing tried, and what to do where it cannot.
local facts = require "lattice.cli.support.doctor_facts"

local M = {
  name = "doctor",
  summary = "Try what this host can do, and say how to fix what is missing.",
  examples = { "lattice doctor", "lattice doctor --json | python3 -m json.tool" },
}

function M.args(parser)
  parser:option("--timeout", "Milliseconds that one probe may take."):argname("MS"):default("3000")
    :convert(math.tointeger)
end

---@class lattice.doctor.Finding
---@field name string
---@field ok boolean
---@field detail string
---@field code string?
---@field how string
---@field needed_for string
---@field required boolean
---@field fix string?

--- Probe everything.
---@param timeout_ms integer
---@return lattice.doctor.Finding[]
local function examine(timeout_ms)
  local caps = require "lattice.caps"
  local findings = {}
  for _, name in ipairs(caps.names()) do
    local fact = facts.facts[name] or {}
    local result, why, code = caps.probe(name, timeout_ms)
    result = result or { ok = false, detail = "", error = why, code = code }
    findings[#findings + 1] = {
      name = name, ok = result.ok, detail = result.detail, code = result.code, error = result.error,
      how = fact.how or "", needed_for = fact.needed_for or "", required = fact.required or false,
      fix = not result.ok and facts.fix(name, result.code) or nil,
    }
  end
  -- Either way of queueing serves.
  local by_name = {}
  for _, f in ipairs(findings) do by_name[f.name] = f end
  for name in pairs(facts.in_user_namespace) do
    local f = by_name[name]
    if not by_name.user_namespace.ok and not f.ok then f.detail, f.fix = "see user_namespace", nil end
  end
  if by_name.nfqueue_compat.ok and not by_name.nfqueue.ok then
    by_name.nfqueue.detail, by_name.nfqueue.fix = "nfqueue_compat serves instead", nil
  end
  return findings
end

--- What user mode, which asks least of its caller, still lacks. Of two queue expressions one is enough.
---@param findings lattice.doctor.Finding[]
---@return string[] missing
function M.missing(findings)
  local by_name, missing = {}, {}
  for _, f in ipairs(findings) do
    by_name[f.name] = f.ok
    if f.required and not f.ok then missing[#missing + 1] = f.name end
  end
  if not by_name.nfqueue and not by_name.nfqueue_compat then missing[#missing + 1] = "nfqueue" end
  return missing
end

local function wrap(text, indent)
  local lines, line = {}, ""
  for word in text:gmatch("%S+") do
    if #line + #word > 88 - #indent then
      lines[#lines + 1] = line
      line = word
    else
      line = line == "" and word or line .. " " .. word
    end
  end
  lines[#lines + 1] = line
  return indent .. table.concat(lines, "\n" .. indent)
end

local function print_finding(f, out)
  local mark = f.ok and out:paint("green", "yes")
    or out:paint(f.required and "red" or "yellow", "no ")
  local what = f.detail
  if f.code then what = f.code .. (what ~= "" and ", " .. what or "") end
  out:print(("%s  %-24s %s"):format(mark, f.name, what):match("^(.-)%s*$"))
  if f.fix then
    io.stdout:write(wrap("tried: " .. f.how .. "; needed for: " .. f.needed_for, "       "), "\n",
      wrap("fix: " .. f.fix, "       "), "\n")
  end
end

-- Nothing is known to be missing: then the whole of it is tried.
local function try_run(findings, timeout_ms)
  local ok, why = require("lattice.cli.support.doctor_run").probe(math.max(10000, timeout_ms))
  findings[#findings + 1] = {
    name = "run", ok = ok, detail = ok and "" or why, required = true, how = "lattice run -- true",
    needed_for = "everything", fix = not ok and "see what it said" or nil,
  }
  return ok
end

local function print_node(node, out)
  local parts = { #node.enforcers > 0 and "latticed could enforce by " .. table.concat(node.enforcers, ", else ")
    or "latticed could not enforce anything" }
  for _, why in ipairs(node.without) do parts[#parts + 1] = why end
  parts[#parts + 1] = node.wireguard and "wf0 by " .. node.wireguard or "no WireGuard for wf0"
  out:print(table.concat(parts, "; ") .. ".")
end

--- What each mode of `lattice run` says of this host, from the probes that were made.
---@param findings lattice.doctor.Finding[]
---@return lattice.choice.Candidate[] modes
---@return string? chosen  by --mode auto
local function examine_modes(findings)
  local select_ = require("lattice.sandbox.select")
  local known = {}
  for _, f in ipairs(findings) do known[f.name] = f end
  local modes = select_.probe(select_.host(true, known))
  local chosen = select_.choose({ name = "auto" }, modes)
  return modes, chosen and chosen.name
end

local function print_modes(modes, chosen, out)
  for _, mode in ipairs(modes) do
    local mark = mode.ok and out:paint("green", "yes") or out:paint("yellow", "no ")
    local what = mode.reason or mode.only_forced or mode.detail or ""
    out:print(("%s  mode %-19s %s"):format(mark, mode.name, what):match("^(.-)%s*$"))
  end
  out:print(chosen and ("`lattice run` takes mode %s."):format(chosen) or "`lattice run` finds no mode that works.")
end

function M.run(args, out)
  if not args.timeout or args.timeout < 1 or args.timeout > 60000 then
    out:message("--timeout takes 1 to 60000 milliseconds")
    return 2
  end
  local findings = examine(args.timeout)
  local modes, chosen = examine_modes(findings)
  local missing = chosen and {} or M.missing(findings)
  if chosen and not try_run(findings, args.timeout) then missing[1] = "run" end
  local can_run = #missing == 0
  local ok = {}
  for _, f in ipairs(findings) do ok[f.name] = f.ok end
  local node = facts.node(ok, require("lattice.sys").version().edition)
  if args.json then
    local json = require "lattice.json"
    out:json("doctor", { run = can_run, missing = json.array(missing), features = findings,
      modes = modes, mode = chosen,
      node = { enforcers = json.array(node.enforcers), without = json.array(node.without), wireguard = node.wireguard } })
  else
    for _, f in ipairs(findings) do print_finding(f, out) end
    out:print("")
    print_modes(modes, chosen, out)
    out:print(can_run and out:paint("green", "lattice run works here.")
      or out:paint("red", "lattice run cannot work here: ") .. table.concat(missing, ", "))
    print_node(node, out)
  end
  return can_run and 0 or 5
end

return M
