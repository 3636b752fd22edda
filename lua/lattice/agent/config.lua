-- lattice.lua, the agent's configuration: runs it in the restricted environment of policies (lattice.policy.loader) with
-- words of its own (words.lua) and checks the whole. Nothing is touched; the disk is only looked at.
local errors = require("lattice.policy.errors")
local loader = require("lattice.policy.loader")
local suggest = require("lattice.policy.suggest")
local trust = require("lattice.agent.trust")
local words = require("lattice.agent.words")
local words_runs = require("lattice.agent.words_runs")

local M = {}

M.FILE = "/etc/lattice/lattice.lua"
M.CONTROL = "/run/lattice/control.sock"
M.PINS = "/sys/fs/bpf/lattice"

local MAX_FILES = 256
-- One batch for a handler, one selection (THREATS: no script of the config can stop the loop).
local HANDLER_LIMITS = { instructions = 10000000, ms = 200, memory = 64 << 20 }

--- stat and list of the real disk.
local function disk()
  local uv = require("luv")
  return {
    stat = function(path)
      local stat, why = uv.fs_stat(path)
      return stat, why and why:gsub("^(%u+): (.-):.*$", "%2")
    end,
    list = function(folder)
      local scan, names = uv.fs_scandir(folder), {}
      if not scan then return {} end
      for name in function() return (uv.fs_scandir_next(scan)) end do names[#names + 1] = name end
      return names
    end,
  }
end

local function user_id(name)
  local found, peer = pcall(require, "lattice.peer")
  if not found then return nil, "users are not known here" end
  return peer.user(name)
end

local function pattern_of(glob)
  local text = glob:gsub("[%^%$%(%)%%%.%[%]%+%-]", "%%%0"):gsub("%*", "[^/]*"):gsub("%?", "[^/]")
  return "^" .. text .. "$"
end

--- The files of one pattern, in lexical order.
local function expand(fs, path)
  local found = { "" }
  for part in path:gmatch("[^/]+") do
    local after = {}
    for _, at in ipairs(found) do
      if not part:find("[*?]") then
        after[#after + 1] = at .. "/" .. part
      else
        local names = fs.list(at == "" and "/" or at)
        table.sort(names)
        for _, name in ipairs(names) do
          local hidden = name:sub(1, 1) == "." and part:sub(1, 1) ~= "."
          if not hidden and name:find(pattern_of(part)) then after[#after + 1] = at .. "/" .. name end
        end
      end
    end
    found = after
  end
  local files = {}
  for _, file in ipairs(found) do
    local stat = fs.stat(file)
    if stat and stat.type == "file" then files[#files + 1] = file end
  end
  return files
end

local function policy_files(self, fs)
  local files, seen = {}, {}
  for _, glob in ipairs(self.globs) do
    local found = expand(fs, glob.path)
    if #found == 0 then
      self:problem(glob.source, glob.line, ("policy: there is no file '%s'"):format(glob.said),
        "at least one; relative names stand beside the config")
    end
    for _, file in ipairs(found) do
      local doubt, expected = trust.doubt(fs.stat, file, self.who)
      if doubt then self:problem(glob.source, glob.line, "policy: " .. doubt, expected) end
      if not seen[file] then files[#files + 1] = file end
      seen[file] = true
    end
  end
  if #files > MAX_FILES then
    self:problem(self.globs[1].source, self.globs[1].line, ("policy: %d files, at most %d"):format(#files, MAX_FILES))
  end
  return files
end

--- Handlers in the order of their before and after; those that say nothing keep the order of the config.
local function order_handlers(self)
  local list, by_name = self.config.handlers.flow, {}
  for _, handler in ipairs(list) do by_name[handler.name] = handler end
  local waits = {}
  for _, handler in ipairs(list) do waits[handler] = {} end
  for _, handler in ipairs(list) do
    for _, key in ipairs({ "before", "after" }) do
      local other = handler[key] and by_name[handler[key]]
      if handler[key] and not other then
        self:problem(handler.source, handler.line, ("%s: there is no handler '%s'"):format(key, handler[key]), nil,
          suggest.nearest(handler[key], suggest.keys(by_name)))
      elseif other then
        local first, second = handler, other
        if key == "after" then first, second = other, handler end
        waits[second][first] = true
      end
    end
  end
  local ordered, placed = {}, {}
  while #ordered < #list do
    local progress = false
    for _, handler in ipairs(list) do
      local ready = not placed[handler]
      for first in pairs(waits[handler]) do ready = ready and placed[first] end
      if ready then
        ordered[#ordered + 1], placed[handler], progress = handler, true, true
        break
      end
    end
    if not progress then
      local handler = list[1]
      for _, one in ipairs(list) do
        if not placed[one] then handler = one break end
      end
      return self:problem(handler.source, handler.line, "the handlers' before and after contradict each other")
    end
  end
  self.config.handlers.flow = ordered
end

-- A call of the config's own code: over a limit it is stopped and says so, whatever it catches.
local function limited(fn)
  local found, sys = pcall(require, "lattice.sys")
  if not found then return fn end
  return function(...) return select(2, assert(sys.limited(HANDLER_LIMITS, fn, ...))) end
end

local function warnings(self)
  local config, list = self.config, {}
  for _, pair in ipairs(config.pairs) do
    for _, name in ipairs({ pair.out or pair.from, pair.to }) do
      if not self.devices[name] and not self.fs.stat("/sys/class/net/" .. name) then
        list[#list + 1] = ("%s: %s: there is no device '%s' now"):format(pair.where, pair.kind, name)
      end
    end
  end
  if #config.policies == 0 then
    list[#list + 1] = config.file .. ": no policy: everything on the devices is denied"
  end
  return list
end

--- Reads and checks a config. opts (for tests): text, fs { stat, list }, log.
---@param path string
---@param opts? { text?: string, fs?: table, log?: fun(text: string), user_id?: fun(name: string): integer?, string? }
---@return lattice.agent.Config?
---@return string error  lines "file:line:col: ..."
function M.load(path, opts)
  opts = opts or {}
  local fs = opts.fs or disk()
  local folder = path:match("^(.*/)[^/]*$") or "./"
  if folder:sub(1, 1) ~= "/" then folder = (opts.cwd or require("luv").cwd()) .. "/" .. folder end
  folder = folder:gsub("/%./", "/")
  local source = opts.text and { { name = path, text = opts.text } }
  local self = loader.new({ files = not source and { path } or nil, sources = source, language = "config",
    words = function(ctx)
      ctx.config = { file = path, devices = {}, policies = {}, enforcer = "auto", pairs = {}, audit = ctx.routes,
        control = M.CONTROL, group = "lattice", pins = M.PINS, handlers = { flow = {} },
        runs = { most = words_runs.MOST } }
      ctx.globs, ctx.devices, ctx.said, ctx.folder, ctx.fs = {}, {}, {}, folder, fs
      ctx.stat, ctx.log, ctx.user_id = fs.stat, opts.log or function() end, opts.user_id or user_id
      return words.new(ctx)
    end })
  self:run()
  local config, problems = self.config, self.problems
  if #problems.list == 0 then
    self.who = trust.self()
    config.policies = policy_files(self, fs)
    if not source then
      local doubt, expected = trust.doubt(fs.stat, path, self.who)
      if doubt then problems:report({ name = path, text = "" }, nil, { message = doubt, expected = expected }) end
    end
    order_handlers(self)
    if #config.devices == 0 then
      problems:report({ name = path, text = "" }, nil,
        { message = "there is no device to guard", expected = "device \"wf0\" { ... }" })
    end
  end
  if #problems.list > 0 then
    problems:sort(self.files)
    local lines = {}
    for i, problem in ipairs(problems.list) do lines[i] = errors.format(problem) end
    return nil, table.concat(lines, "\n")
  end
  for _, handler in ipairs(config.handlers.flow) do
    handler.call, handler.source, handler.line = limited(handler.call), nil, nil
  end
  if config.select then config.select = limited(config.select) end
  config.warnings = warnings(self)
  return config, ""
end

--- What the mesh word of policies means on this node: what is routed over the devices that it makes.
---@param config lattice.agent.Config
---@return string[]
function M.mesh(config)
  local addr, list, seen = require("lattice.policy.addr"), {}, {}
  local function add(text)
    if not seen[text] then list[#list + 1] = text end
    seen[text] = true
  end
  for _, device in ipairs(config.devices) do
    for _, address in ipairs(device.address) do
      local family, what, fixed = addr.parse_prefix(address)
      add(family and address or what == "host" and fixed --[[@as string]] or address)
    end
    for _, peer in ipairs(device.wireguard and device.wireguard.peers or {}) do
      for _, prefix in ipairs(peer.allowed) do add(prefix) end
    end
  end
  return list
end

return M
