-- lattice explain: which rule decides a flow, why those before it did not, and which line would change the verdict.
local M = {
  name = "explain",
  summary = "Tell which rule decides a flow, and what would change it.",
  agent = true,
  examples = {
    'lattice explain agent.lua "tcp to 10.0.0.7 port 5432"',
    'lattice explain coding-agent "tcp to api.example.com port 443"',
    'lattice explain lan-only "tcp to nas.lan at 192.168.1.10 port 443"',
    'lattice explain --live "in tcp from 10.42.0.2 port 22"',
  },
}

local SHOWN = 20 -- rules passed over, unless --all

function M.args(parser)
  parser:usage('Usage: lattice explain [--all] FILE FLOW...\n       lattice explain --live FLOW...')
  parser:argument("words", "Policy file, or the name of a shipped policy (not with --live), and the flow: rule text "
    .. 'without an action, such as "tcp to 10.0.0.7 port 5432".'):args("+"):argname("FILE|FLOW")
  parser:flag("--live", "Ask the agent on this node what its enforcer has loaded (also with --socket).")
  parser:flag("--all", "Show every rule that was passed over.")
end

--- The line that turns the verdict for this flow, and where it belongs.
local function change(policy, flow, verdict)
  local print_ = require("lattice.policy.print")
  local action = verdict.verdict == "allow" and "deny" or "allow"
  local family, hi, lo
  if flow.addr then family, hi, lo = policy.addr.parse_flat(flow.addr) end
  local name = flow.names and flow.names[1]
  local rest = { dir = flow.dir, proto = flow.proto, port = flow.port, names = flow.names, addr = nil }
  if not name then rest.addr = flow.addr end
  local text = print_.flow(rest)
  local loopback = family == 4 and lo >> 24 == 127 or family == 6 and hi == 0 and lo == 1
  if loopback and not name then text = text:gsub(" to [^ ]+", " to host", 1) end
  if name and family and action == "allow" and policy.addr.is_private(family, hi, lo) then
    return ('allow("%s", { private = true })'):format(text)
  end
  return ('%s "%s"'):format(action, text)
end

local function print_human(result, args, out)
  local support = require("lattice.cli.support.policies")
  out:print(("%s  %s"):format(support.word(result.action, out), result.flow))
  local by = result.rule == 0 and ("default \"%s\" of %s"):format(result.action, result.policy)
    or ("%s  %s  (rule %d)"):format(result.where, result.text, result.rule)
  out:print("  by    " .. by .. (result.reason and ": " .. result.reason or ""))
  if result.handler then
    out:print(("  note  in a run, on(\"%s\") is asked first, and can say otherwise"):format(result.handler))
  elseif result.action == "ask" then
    out:print("  note  the policy has no on(\"ask\") handler, so this is always refused")
  end
  if #result.passed_over > 0 then
    out:print("  passed over:")
    local shown = args.all and #result.passed_over or math.min(#result.passed_over, SHOWN)
    for i = 1, shown do
      local one = result.passed_over[i]
      out:print(("    %s  %s: %s"):format(one.where, one.text, out:paint("dim", one.why)))
    end
    if shown < #result.passed_over then
      out:print(("    and %d more (--all)"):format(#result.passed_over - shown))
    end
  end
  local place = result.rule == 0 and "add" or "before " .. result.where
  if result.included then place = "above the include of " .. result.included end
  out:print(("  to change it, %s:  %s"):format(place, out:paint("bold", result.change)))
end

-- What the enforcer of a running agent has loaded, not what some file says.
local function live(args, out)
  local agent = require("lattice.cli.support.agent")
  local result, code = agent.call(args, out, "explain", { flow = table.concat(args.words, " ") })
  if not result then return code end
  if out.as_json then
    out:json("explain", result)
    return 0
  end
  local plain = require("lattice.audit.format").plain
  local word = require("lattice.cli.support.policies").word(result.action or result.verdict, out)
  out:print(("%s  %s"):format(word, plain(result.flow)))
  local text = result.text and "  " .. plain(result.text) or ""
  out:print(("  by    %s%s  (rule %d, generation %d)%s"):format(plain(result.where or "?"), text, result.rule or 0,
    result.generation or 0, result.reason and ": " .. plain(result.reason) or ""))
  out:print(("  as    %s has it loaded"):format(plain(result.enforcer or "the enforcer")))
  return 0
end

function M.run(args, out)
  if args.live or args.socket then return live(args, out) end
  args.file = args.file or table.remove(args.words, 1)
  args.flow = args.flow or args.words
  if #args.flow == 0 then
    out:message("explain takes a policy file and a flow; for the agent of this node: lattice explain --live FLOW")
    return 2
  end
  local support = require("lattice.cli.support.policies")
  local policy = require("lattice.policy")
  local flow = support.flow(args.flow, out)
  if not flow then return 2 end
  local loaded = support.load({ args.file }, out)
  if not loaded then return 3 end
  local verdict, passed = policy.eval.explain(loaded, flow)
  local rule = loaded.rules[verdict.rule]
  local result = {
    verdict = verdict.verdict, action = verdict.action, rule = verdict.rule, where = verdict.where,
    policy = loaded.name, reason = verdict.reason, text = rule and rule.text,
    handler = verdict.action == "ask" and loaded.handlers.ask and "ask"
      or verdict.rule == 0 and loaded.handlers.connect and "connect" or nil,
    included = rule and rule.file ~= loaded.files[1] and rule.file or nil,
    flow = policy.print.flow(flow), change = change(policy, flow, verdict), passed_over = {},
  }
  for i, one in ipairs(passed) do
    result.passed_over[i] = {
      rule = one.rule.id, where = one.rule.where, text = one.rule.text, why = one.why,
    }
  end
  if out.as_json then
    support.array(result.passed_over)
    out:json("explain", result)
  else
    print_human(result, args, out)
  end
  return 0
end

return M
