-- Chooses the mode of `lattice run`: tries by doing what each needs of this host and this caller, takes the strongest
-- that works, and says why each stronger one was passed over. A mode that the caller forces is taken, or nothing runs.
local choice = require("lattice.choice")
local userns = require("lattice.sandbox.userns")

local M = {}

-- A probe ends by itself; one that does not must not hold a run for ever. Many at once on a slow machine take seconds.
local PATIENCE_MS = 20000

-- The strongest first. docs/modes.md says what each one holds.
M.order = { "kernel", "user", "gvisor", "preload" }

---@class lattice.sandbox.Host  what a mode asks
---@field edition string
---@field has_capability fun(name: string): boolean
---@field try fun(probe: string): lattice.caps.Result   each probe once
---@field full boolean  try everything, not only what tells the modes apart
---@field host_user_namespace boolean
---@field root boolean  uid 0
---@field agent? fun(): table?, string?  what the agent would wall for this caller, or why it would not

-- What each mode is made of, by the names of lattice.caps: `first` tells the modes apart in a few milliseconds; the rest
-- is tried by the run itself, whose own check fails closed and names what is missing, and by doctor.
M.needs = {
  kernel = { first = { "user_namespace", "bpf_cgroup" },
    rest = { "mount_namespace", "pid_namespace", "nested_user_namespace", "seccomp_notify", "pidfd_getfd", "sock_diag",
      "bpf_ring", "bpf_lpm", "bpf_swap" } },
  user = { first = { "user_namespace" },
    rest = { "net_namespace", "mount_namespace", "pid_namespace", "nested_user_namespace", "seccomp_notify", "pidfd_getfd",
      "sock_diag", "nf_tables", "queue", "tproxy" } },
}

-- Where a setting may be the cause.
local in_namespace = { user_namespace = true, net_namespace = true }

-- Either way of queueing serves.
local function try(host, name)
  if name ~= "queue" then return host.try(name) end
  local native = host.try("nfqueue")
  return native.ok and native or host.try("nfqueue_compat")
end

--- What of a list does not work, as words.
---@param host lattice.sandbox.Host
---@param names string[]
---@return string? reason, string? code
local function lacking(host, names)
  local words, first = {}, nil
  for _, name in ipairs(names) do
    local result = try(host, name)
    if not result.ok then
      local why = result.detail ~= "" and result.detail or result.error or "it failed"
      local cause = in_namespace[name] and userns.cause()
      if cause then why = why .. ": " .. cause end
      words[#words + 1] = ("%s: %s"):format(name == "queue" and "nfqueue" or name, why)
      first = first or result.code or "unavailable"
    end
  end
  if #words > 0 then return table.concat(words, ", "), first end
end

local function tried(host, mode)
  local needs = M.needs[mode]
  local reason, code = lacking(host, needs.first)
  if not reason and host.full then reason, code = lacking(host, needs.rest) end
  if reason then return { ok = false, reason = reason, code = code } end
  return { ok = true }
end

local modes = {}

-- Those that this build has code for.
M.built = { user = true, kernel = true, preload = true }

function modes.kernel(host)
  if host.edition ~= "pro" then
    return { ok = false, code = 402, reason = "Pro feature: this is the " .. host.edition .. " edition" }
  end
  local has, missing = host.has_capability, {}
  if not has("bpf") and not has("sys_admin") then missing[1] = "CAP_BPF" end -- the latter has what the former has
  if not has("net_admin") then missing[#missing + 1] = "CAP_NET_ADMIN" end
  local why
  if #missing > 0 then
    why = table.concat(missing, " and ") .. " missing (root has them)"
  elseif not host.host_user_namespace then
    why = "CAP_BPF and CAP_NET_ADMIN are a user namespace's here: the host's own are needed"
  end
  if why then
    local offer, refused
    if host.agent and M.built.kernel then offer, refused = host.agent() end
    if offer then return { ok = true, detail = "walled by the agent", agent = offer } end
    return { ok = false, code = "EPERM", reason = refused and why .. "; " .. refused or why }
  end
  if not M.built.kernel then return { ok = false, code = "ENOENT", reason = "it is not in this build" } end
  -- Linux 5.12 on: who maps uid 0 into a user namespace must have it
  if host.root and not has("setfcap") then
    return { ok = false, code = "EPERM", reason = "CAP_SETFCAP missing, which root's user namespace needs" }
  end
  return tried(host, "kernel")
end

function modes.user(host) return tried(host, "user") end

function modes.gvisor(host)
  if host.edition ~= "pro" then
    return { ok = false, code = 402, reason = "Pro feature: this is the " .. host.edition .. " edition" }
  end
  return { ok = false, code = "ENOENT", reason = "it is not in this build" }
end

function modes.preload(host)
  if not M.built.preload then return { ok = false, code = "ENOENT", reason = "it is not in this build" } end
  local result = host.try("preload")
  if not result.ok then
    return { ok = false, code = result.code, reason = result.detail ~= "" and result.detail or result.error }
  end
  local found = { ok = true, detail = "advisory" }
  for _, name in ipairs({ "user_namespace", "seccomp_notify" }) do
    if not found.only_forced and host.try(name).ok then
      found.only_forced = "advisory, and this host has better: " .. name
    end
  end
  return found
end

local function initial_user_namespace()
  local file = io.open("/proc/self/uid_map", "r")
  local map = file and file:read("a") or ""
  if file then file:close() end
  return map:match("^%s*0%s+0%s+4294967295%s*$") ~= nil
end

--- This host and this caller.
---@param full boolean
---@param known? table<string, lattice.caps.Result>  probes that were made already
---@return lattice.sandbox.Host
function M.host(full, known)
  local caps, sys = require("lattice.caps"), require("lattice.sys")
  local results = setmetatable({}, { __index = known })
  return {
    full = full, root = sys.uid() == 0, edition = sys.version().edition, host_user_namespace = initial_user_namespace(),
    has_capability = function(name) return sys.has_capability(name) == true end,
    try = function(name)
      if not results[name] then
        local result, why, code = caps.probe(name, PATIENCE_MS)
        results[name] = result or { ok = false, detail = "", error = why, code = code }
      end
      return results[name]
    end,
  }
end

--- Asks the modes of this list, in order.
---@param host lattice.sandbox.Host
---@param names? string[]
---@return lattice.choice.Candidate[]
function M.probe(host, names)
  local candidates = {}
  for i, name in ipairs(names or M.order) do
    candidates[i] = modes[name](host)
    candidates[i].name = name
  end
  return candidates
end

--- A function from a file of the caller's: gets the candidates, returns a mode's name, or nil for the strongest.
---@param path string
---@return function?
---@return string? error
function M.script(path)
  local chunk, why = loadfile(path, "t", { ipairs = ipairs, pairs = pairs, tostring = tostring, string = string,
    table = table, print = print, error = error, os = { getenv = os.getenv } })
  if not chunk then return nil, why end
  return function(candidates) return chunk(candidates) end
end

--- Pure.
---@param wish lattice.choice.Wish
---@param candidates lattice.choice.Candidate[]
---@return lattice.choice.Choice?
---@return string? error
---@return any code
function M.choose(wish, candidates)
  local words = { noun = "mode", by = "--mode", script = "the script of --mode-script" }
  return choice.choose(words, M.order, wish, candidates)
end

--- Asks what the wish lets come into question, and chooses. The weaker ones are not asked once a stronger one works.
---@param wish lattice.choice.Wish
---@param host? lattice.sandbox.Host
---@return lattice.choice.Choice?
---@return string? error
---@return any code
function M.select(wish, host)
  if wish.script then return M.choose(wish, M.probe(host or M.host(true))) end
  host = host or M.host(false)
  if wish.name ~= "auto" then
    if not modes[wish.name] then return nil, "there is no mode " .. wish.name, "unavailable" end
    return M.choose(wish, M.probe(host, { wish.name }))
  end
  local candidates = {}
  for i, name in ipairs(M.order) do
    candidates[i] = M.probe(host, { name })[1]
    if candidates[i].ok and not candidates[i].only_forced then break end
  end
  return M.choose(wish, candidates)
end

--- "kernel: CAP_BPF missing; ...": why each stronger mode was passed over, for the audit and for people.
---@param chosen lattice.choice.Choice
---@return string
function M.reasons(chosen)
  local lines = {}
  for i, one in ipairs(chosen.passed_over) do lines[i] = ("%s: %s"):format(one.name, one.reason) end
  return table.concat(lines, "; "):sub(1, 1024)
end

return M
