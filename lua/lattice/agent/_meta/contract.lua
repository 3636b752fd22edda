---@meta
--- The shapes that the parts of the node agent give each other. Callbacks named `done` run on the loop, exactly once:
--- done(result) or done(nil, error text for people, code?).

---@class lattice.agent.Peer
---@field key string            public key, base64
---@field endpoint? string      "192.0.2.1:51820", "[2001:db8::1]:51820"
---@field allowed string[]      prefixes
---@field keepalive? integer    seconds
---@field preshared? string     path of the file with the preshared key

---@class lattice.agent.Device
---@field name string
---@field kind "wireguard"|"tun"|"existing"
---@field address string[]      "10.42.0.1/24", "fd42::1/64"; empty for existing
---@field mtu? integer          1280..65535
---@field wireguard? { key: string, listen?: integer, peers: lattice.agent.Peer[] }  key: path of the key file
---@field where string          "lattice.lua:3"

---@class lattice.agent.Pair
---@field kind "nat"|"forward"
---@field source? string        nat: prefix of the sources
---@field out? string           nat: device
---@field from? string          forward: device
---@field to? string            forward: device
---@field where string

--- What lua/lattice/agent/config.lua makes of lattice.lua. Paths are absolute.
---@class lattice.agent.Config
---@field file string
---@field devices lattice.agent.Device[]
---@field policies string[]     files, in order
---@field enforcer "auto"|"ebpf"|"iptables"
---@field select? function      enforcer(function(candidates) ... end): the operator's own selection
---@field pairs lattice.agent.Pair[]
---@field audit { match?: string[], sink: "file"|"syslog"|"unix", target?: string, rotate?: integer }[]
---@field control string        path of the control socket
---@field group string          group that may connect to it, "lattice"
---@field writers? string[]   users who may use its read-write verbs, beside root: writers { "operator" }
---@field pins string           directory on a bpffs
---@field names? { listen?: string, observe: boolean }  DNS on the node
---@field runs lattice.agent.RunsOf[]  users who may have their commands walled; most: how many at a time, of all; said: the word is there
---@field handlers { flow: lattice.agent.Handler[] }    on("flow", fn), in order; what they raise is logged by the agent
---@field warnings string[]

--- What one user may run, and how.
---@class lattice.agent.RunsOf
---@field user string
---@field uid integer
---@field policies string[]     files: a run is by one of them
---@field limits table<string, number>  the stricter of these and the policy's own holds
---@field network? string       device that all sockets are bound to
---@field most integer          runs at a time
---@field where string

---@class lattice.agent.Handler
---@field name string
---@field before? string        name of a handler that comes after this one
---@field after? string
---@field call fun(batch: lattice.events.Batch)

---@class lattice.agent.Flow
---@field dir "out"|"in"
---@field proto integer
---@field addr string           remote address
---@field port? integer         destination port
---@field sport? integer
---@field names? string[]

---@class lattice.agent.Verdict
---@field verdict "allow"|"deny"
---@field action "allow"|"deny"|"drop"|"ask"|"audit"
---@field rule integer          0: the default
---@field where string          "agent.lua:14", "default"; temporary rules: "temporary:3 (uid 0)"
---@field reason? string
---@field text? string          the rule

--- One loaded policy is a lattice.policies.Generation (C module lattice.policies, stub in lua/lattice/_meta/policies.lua;
--- in C: src/lua/l_policies.h): number, info, rule, entries, names, resolvable, judge.

---@class lattice.enforcer.Options
---@field devices string[]      names; they exist
---@field pins_shown? string     the path of pins for people
---@field pins string
---@field adopt boolean         take over what a dead agent left
---@field log fun(level: "debug"|"info"|"warn"|"error", text: string)
---@field events lattice.events.Source   where verdict events go

--- lua/lattice/enforcer/NAME.lua returns { name, probe = fun(done), open = fun(options, done) }. probe does the thing
--- in a place of its own: done(true, detail) or done(nil, reason, code). And remove = fun(options, done): removes what a dead
--- agent left for options.devices (nothing there is fine): lattice down without an agent, and a start with the other enforcer.
---@class lattice.enforcer.Enforcer
---@field name "ebpf"|"iptables"
local Enforcer = {}
--- Pure: what would change from one generation (or nil) to the next.
---@param old lattice.policies.Generation?
---@param new lattice.policies.Generation
---@return { rules_added: integer, rules_removed: integer, text?: string }
function Enforcer:plan(old, new) end
--- Puts the generation in force on every device: all of it or, on error, nothing: then the old one still holds.
--- One call at a time.
---@param new lattice.policies.Generation
---@param done fun(ok: true?, err: string?, code: string?)
function Enforcer:apply(new, done) end
--- The generation number that is in force by the kernel's own account, nil: none (everything is denied).
---@return integer?
function Enforcer:generation() end
--- Packets and bytes by rule since the generation came into force; [0] is the default.
---@param done fun(counters: table<integer, { packets: integer, bytes: integer }>?, err: string?)
function Enforcer:counters(done) end
--- Open flows that it knows, at most `limit`.
---@param limit integer
---@param done fun(flows: { dir: string, proto: integer, local_addr: string, addr: string, port: integer, sport: integer, rule: integer, generation: integer, packets: integer, bytes: integer }[]?, err: string?)
function Enforcer:flows(limit, done) end
--- Cuts the open flows that the generation in force denies; how many.
---@param done fun(cut: integer?, err: string?)
function Enforcer:cut(done) end
--- What the enforcer's own loaded state says of a flow (BPF_PROG_TEST_RUN, or the rules read back): not the source.
---@param flow lattice.agent.Flow
---@param done fun(verdict: lattice.agent.Verdict?, err: string?)
function Enforcer:explain(flow, done) end
--- Replaces the whole list of temporary rules, which come before all others, in order.
--- until_ns (CLOCK_MONOTONIC): the agent takes a rule off the list then; who can should also end it there by itself.
---@param rules { id: integer, action: string, entries: table[], log: boolean, until_ns: integer }[]  entries as Generation:entries gives
---@param done fun(ok: true?, err: string?)
function Enforcer:temporary(rules, done) end
--- The addresses that names stand for now, whole list: a name rule opens an address only while it is pinned.
---@param pins { addr: string, names: string[] }[]
---@param done fun(ok: true?, err: string?)
function Enforcer:pin(pins, done) end
--- For `status`: hook, maps or chains, sizes.
---@return table
function Enforcer:status() end
--- A device is there again under this name (with another ifindex): the generation in force holds on it, too, by then.
---@param name string
---@param done fun(ok: true?, err: string?)
function Enforcer:device(name, done) end
--- Optional, for one without a watch of its own: are its hooks where it put them? false: `device` puts them back.
---@return boolean?
function Enforcer:hooked() end
--- keep: leave it in force (an exit for restart); else remove every trace.
---@param keep boolean
---@param done fun(ok: true?, err: string?)
function Enforcer:close(keep, done) end

--- What Agent:status() gives. Only what JSON can hold: a list that may be empty is marked by json.array.
---@class lattice.agent.Status
---@field started integer       seconds since the epoch
---@field config string         file
---@field enforcer { name: string, reason: string, passed_over: { name: string, reason: string }[], detail: table }
---                             detail: Enforcer:status()
---@field generation integer    0: none, everything is denied
---@field policy { name: string, default: string, rules: integer, files: string[], digest: string, loaded: integer }
---                             Generation:info() and when it came into force
---@field devices lattice.agent.DeviceStatus[]
---@field reloads { ok: integer, refused: integer, last_error: string? }
---@field temporary { id: integer, action: string, text: string, until_s: integer, uid: integer }[]
---@field events { seen: integer, lost: integer, lost_in_kernel: integer, audit_lost: integer }
---@field nat? table            Nat:status()
---@field names? table          Names:status()

--- Device:status(); handshake: seconds since the epoch, 0: none yet.
---@class lattice.agent.DeviceStatus
---@field name string
---@field kind string           "wireguard", "tun", "existing"
---@field up boolean
---@field address string[]
---@field mtu integer
---@field wireguard? { public_key: string, listen: integer?, backend: string?, peers: { key: string, endpoint: string?, allowed: string[], handshake: integer, rx: integer, tx: integer }[] }

--- The agent as the control socket and the REPL see it (lua/lattice/agent/init.lua makes it).
---@class lattice.agent.Agent
---@field config lattice.agent.Config
---@field events lattice.events.Source
---@field started integer       seconds since the epoch
local Agent = {}
--- For `status` and `status --json`.
---@return lattice.agent.Status
function Agent:status() end
---@return lattice.policies.Generation
function Agent:generation() end
---@return lattice.enforcer.Enforcer
function Agent:enforcer() end
--- opts.preview: nothing changes; the result says what would. A refused reload: done(nil, text with file:line, "policy").
---@param opts { preview?: boolean, by?: string }
---@param done fun(result: { generation: integer, rules_added: integer, rules_removed: integer, flows_cut: integer, text?: string, ms: number }?, err: string?, code: string?)
function Agent:reload(opts, done) end
--- Removes everything and stops.
---@param done fun()
function Agent:down(done) end
--- Rule text as in a policy ("tcp to 10.0.0.7 port 80"); id of the new rule.
---@param action "allow"|"deny"|"drop"
---@param text string
---@param opts { ttl: integer, reason?: string, uid: integer }
---@param done fun(id: integer?, err: string?)
function Agent:temporary_add(action, text, opts, done) end
---@param id integer
---@param done fun(ok: true?, err: string?)
function Agent:temporary_remove(id, done) end
---@return { id: integer, action: string, text: string, until_s: integer, uid: integer }[]
function Agent:temporary_list() end
--- The verdict of the enforcer's loaded state, with the rule's text and place.
---@param flow lattice.agent.Flow
---@param done fun(verdict: lattice.agent.Verdict?, err: string?)
function Agent:explain(flow, done) end
--- Writes to the audit: kind "operator" (a change by the control socket or the REPL) with who and what.
---@param uid integer
---@param text string
function Agent:note(uid, text) end

--- Verdict events of one enforcer: lattice.events.Source (C module lattice.events, stub in lua/lattice/_meta/events.lua; its
--- parts: src/lua/events.h): ring, nflog, push, on, off, watch, generation (at each flip), names (at
--- each pin), routes, record, counters. A handler gets a lattice.events.Batch: count, fields(i), addresses(i), event(i).

--- What the agent (lua/lattice/agent/init.lua) calls of the parts; each opens an object and gives it to done.
---
--- require("lattice.agent.device").open(device: lattice.agent.Device, options, done): makes the device, still down (kind
---   "existing": it must be there). options: { adopt = boolean, log = fun(level, text), gone = fun(name), back = fun(name) }:
---   gone when the device goes away under us, back when it is there again under this name (wireguard-go started anew
---   included: it is down then, and the agent enforces first and calls raise).
--- require("lattice.enforcer.nat").open(pairs: lattice.agent.Pair[], { log }, done)
--- require("lattice.agent.names").open(options, done): options: { config, log, pin = fun(pins, done) (Enforcer:pin),
---   devices = names }. clear(): takes away the rules of a killed agent (a start without names, `down` without an agent).
--- require("lattice.events").open(options) -> Source, or nil, error, code (a sink that cannot be opened): options: { routes =
---   lattice.generation's routes(config.audit), run_name = the node's name (default: the host's), policy = name }.
--- require("lattice.control.server").open(agent, { path, group, writers }, done): lattice.control.Server, with close(done)
---   and verb(name, spec).

---@class lattice.agent.device.Handle
---@field adopted boolean  it was left by an earlier agent and taken over as it is: up, if it was
local Device = {}
--- Addresses and up; the policy is in force by then. Nothing to do for kind "existing".
---@param done fun(ok: true?, err: string?)
function Device:raise(done) end
--- Down, at once: nothing passes. For a device that is up and not guarded.
---@param done fun(ok: true?, err: string?)
function Device:lower(done) end
--- A reload changed the config of this device. What cannot be taken live: done(nil, "... needs a restart").
---@param device lattice.agent.Device
---@param done fun(ok: true?, err: string?)
function Device:change(device, done) end
--- For `status`: kind, up, address, mtu, peers with their last handshake.
---@return table
function Device:status() end
--- keep: leave it as it is for the next agent (as far as it can outlive us), else remove what was made.
---@param keep boolean
---@param done fun(ok: true?, err: string?)
function Device:close(keep, done) end

---@class lattice.enforcer.Nat
local Nat = {}
---@param pairs lattice.agent.Pair[]
---@param done fun(ok: true?, err: string?)
function Nat:change(pairs, done) end
---@return table
function Nat:status() end
---@param keep boolean
---@param done fun(ok: true?, err: string?)
function Nat:close(keep, done) end

---@class lattice.agent.Names
local Names = {}
--- The rules of names are those of this generation from now on.
---@param generation lattice.policies.Generation
function Names:generation(generation) end
---@return table
function Names:status() end
---@param done fun(ok: true?)
function Names:close(done) end
