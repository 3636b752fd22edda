---@meta
-- The words of a policy, for editors (LuaLS: workspace.library). A test holds them to what a policy really sees.

---@alias lattice.Action "allow"|"deny"|"drop"|"ask"|"audit"

---What a rule matches and how. `to`, `from`, `proto` and `port` may be texts with commas or lists.
---@class lattice.Rule
---@field proto string|integer|(string|integer)[]  "tcp", "udp", "icmp", "icmpv6", "any" or a number
---@field to? string|string[]  any, host, mesh, address, prefix, range, name, *.name, set
---@field from? string|string[]  instead of `to`, for flows that come in
---@field port? integer|string|(integer|string)[]  443, "8000-8999", "https"
---@field dir? "out"|"in"
---@field reason? string  shown to the program's user and in the audit
---@field log? boolean  false: what the rule lets pass makes no record
---@field rate? integer|string  new flows a second: 20 or "20/s"
---@field ttl? integer|string  "30s", "10m", "1h"
---@field private? boolean  a name of this rule may lead to a private address
---@field errno? "EACCES"|"ECONNREFUSED"|"EHOSTUNREACH"|"ENETUNREACH"|"EPERM"
---@field for? string  a sandbox's name
---@field uid? integer
---@field cgroup? string
---@field exe? string

---Options of a rule that is given as text.
---@class lattice.RuleOptions
---@field reason? string
---@field log? boolean
---@field rate? integer|string
---@field ttl? integer|string
---@field private? boolean
---@field errno? string

---@class lattice.Flow
---@field dir "out"|"in"
---@field proto string
---@field addr string
---@field port integer
---@field name? string  the name that was answered with this address
---@field rule? integer
---@field pid? integer
---@field uid? integer
---@field exe? string

---@class lattice.Sink

---The policy's name.
---@param name string
function policy(name) end

---What decides when no rule matches; "deny" unless said.
---@param action lattice.Action
function default(action) end

---The rules of a shipped policy, or of a file below this one's folder, in this place.
---@param name string
function include(name) end

---Names a list of addresses, prefixes, ranges, names and other sets: set "db" { "10.0.0.7" }
---@param name string
---@param elements? string[]
---@return fun(elements: string[])
function set(name, elements) end

---Lets pass.
---@param rule string|lattice.Rule  "tcp to host.example port 443"
---@param options? lattice.RuleOptions
function allow(rule, options) end

---Refuses at once.
---@param rule string|lattice.Rule
---@param options? lattice.RuleOptions
function deny(rule, options) end

---Refuses without an answer.
---@param rule string|lattice.Rule
---@param options? lattice.RuleOptions
function drop(rule, options) end

---Holds the flow and asks the on("ask") handler.
---@param rule string|lattice.Rule
---@param options? lattice.RuleOptions
function ask(rule, options) end

---A rule that lets pass and records; or, with a sink, where records go: audit { "deny", to = file "x.jsonl" }
---@param rule string|lattice.Rule|{ to: lattice.Sink, rotate?: string|integer }
---@param options? lattice.RuleOptions
function audit(rule, options) end

---A handler: returns "allow" or "deny", and may add { scope = "once"|"process"|"run"|"everyone", ttl = seconds, reason = text }.
---@param event "ask"|"connect"|"dns"
---@param handler fun(flow: lattice.Flow): string?, table?
---@param options? { on_error: "allow"|"deny" }
function on(event, handler, options) end

---@param limits { memory?: string, swap?: string|integer, io?: string, cpu?: number, pids?: integer, files?: integer, cpu_time?: string, file_size?: string, stack?: string, core?: string|integer }
function limits(limits) end

---Flows with the verdict they must have; a policy whose tests fail is not loaded.
---@param expected { allow?: string|string[], deny?: string|string[] }
function test(expected) end

---Audit records to a file.
---@param path string
---@return lattice.Sink
function file(path) end

---Audit records to syslog.
---@return lattice.Sink
function syslog() end

---Unix sockets of the host that may be connected to; as a sink, a datagram socket for audit records.
---@param path string|string[]
---@return lattice.Sink
function unix(path) end

---A reload leaves open connections that the new policy denies.
---@param keep? boolean
function keep_established(keep) end
