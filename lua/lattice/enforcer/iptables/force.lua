-- What the enforcer does to the tables: puts chains in force in both families or in none, hooks them, and looks after them.
-- Steps of tasks; an error ends the task.
local held = require("lattice.enforcer.iptables.held")
local read = require("lattice.enforcer.iptables.read")
local task = require("lattice.enforcer.iptables.task")
local text = require("lattice.enforcer.iptables.text")

local LARGE = 100000 -- bytes of a transaction of which the guard wants no news

local M = { TARGETS = { ["LATTICE-IN"] = true, ["LATTICE-OUT"] = true } }

---@class lattice.enforcer.Iptables
local Methods = {}
M.Methods = Methods

function M.must(value, err, code)
  if value == nil then task.fail(err, code) end
  return value
end

-- Reads the tables of all families, each in a child, while the caller goes on; see swap.
function Methods:start_saves()
  local saves = {}
  for _, family in ipairs(self.families) do
    saves[family] = task.start(function(done) return self.tables:save(family, "filter", done) end)
  end
  return saves
end

function Methods:save(family, saving)
  saving = saving or task.start(function(done) return self.tables:save(family, "filter", done) end)
  local saved = M.must(saving())
  local now = read.parse(saved, task.ticker())
  if self.events then
    self.held = self.held or {}
    held.tell(self.held, family, now, self.events)
  end
  return now
end

function Methods:restore(family, book, gone, hooks)
  local made = text.transaction(book, gone, hooks or {}, nil, task.ticker())
  local large = self.guard and #made > LARGE
  if large then self.guard:pause() end
  local ok, err, code = task.wait(function(done) return self.tables:apply(family, made, done) end)
  if large then self.guard:resume() end
  return ok, err, code
end

function Methods:hooks(now)
  local wanted = { INPUT = {}, FORWARD = {}, OUTPUT = {} }
  local function add(chain, flag, device, target)
    local list = wanted[chain]
    list[#list + 1] = ("%s %s -m comment --comment lattice -j %s"):format(flag, device, target)
  end
  for _, device in ipairs(self.devices) do
    add("INPUT", "-i", device, "LATTICE-IN")
    add("FORWARD", "-i", device, "LATTICE-IN")
    add("FORWARD", "-o", device, "LATTICE-OUT")
    add("OUTPUT", "-o", device, "LATTICE-OUT")
  end
  for chain, list in pairs(wanted) do
    if not now.chains[chain] then -- nft makes the tables' own chains when they are first needed
      now.names[#now.names + 1], now.chains[chain] = chain, {}
    end
    wanted[chain] = list
  end
  return read.hooks(now, wanted, M.TARGETS)
end

-- What is ours in `now` and not in `book`.
local function gone(now, book)
  local list = {}
  for _, name in ipairs(read.ours(now)) do
    if not book.lines[name] then list[#list + 1] = name end
  end
  return list
end

-- Our chains as they were read: to put them back.
local function book_of(now)
  local book, tick = text.book(), task.ticker()
  for _, name in ipairs(read.ours(now)) do
    book:chain(name)
    for _, rule in ipairs(now.chains[name]) do book:add(name, rule.text) end
    tick()
  end
  return book
end

-- Puts `books` in force in all families, or nothing: what was there is put back. saves: of start_saves.
function Methods:swap(books, saves)
  local before = {}
  saves = saves or self:start_saves()
  for _, family in ipairs(self.families) do before[family] = self:save(family, saves[family]) end
  local done = {}
  for _, family in ipairs(self.families) do
    local ok, err, code = self:restore(family, books[family], gone(before[family], books[family]),
      self:hooks(before[family]))
    if not ok then
      for _, other in ipairs(done) do self:put_back(other, before[other], books[other]) end
      task.fail(err, code)
    end
    done[#done + 1] = family
    if self.held then self.held[family] = {} end -- the chains count from nothing again
  end
end

function Methods:put_back(family, before, book)
  local old, extra = book_of(before), {}
  for _, name in ipairs(book.names) do
    if not old.lines[name] then extra[#extra + 1] = name end
  end
  if not old.lines["LATTICE-OUT"] then old, extra = text.closed(family), gone(book, text.closed(family)) end
  local ok, err = self:restore(family, old, extra)
  if not ok then
    self.log("error", ("IPv%d: the rules from before cannot be put back: %s; all is refused"):format(family, err))
    self:restore(family, text.closed(family), {})
  end
end

-- The chains that decide whether ours are in force at all, without the rest.
function Methods:heads(family)
  local now = { names = {}, chains = {} }
  for _, chain in ipairs({ "INPUT", "FORWARD", "OUTPUT", "LATTICE-IN", "LATTICE-OUT" }) do
    local list = task.wait(function(done) return self.tables:list(family, chain, done) end)
    now.names[#now.names + 1], now.chains[chain] = chain, {}
    for line in (list or ""):gmatch("[^\n]+") do
      local rules, rule = now.chains[chain], line:match("^%-A %S+ ?(.*)$")
      if rule then rules[#rules + 1] = { text = rule } end
    end
  end
  return now
end

-- What others did to our rules is undone: hooks that are gone or no longer first, chains that were flushed.
function Methods:check(done)
  local changed = false
  self:turn(function()
    if self.closing then return true end
    for _, family in ipairs(self.families) do
      local now = self:heads(family)
      local whole = #now.chains["LATTICE-IN"] > 0 and read.generation(now) == self.number
      local lines = self:hooks(now)
      changed = changed or not whole or #lines > 0
      if not whole and self.policy then
        self.log("warn", ("IPv%d: the rules of generation %d were flushed by another program: made anew"):format(family,
          self.number))
        local made = self:compile(self.policy)
        self:swap(made.books)
        self.gen.temporary, self.gen.pins = made.temporary, made.pins
      elseif not whole then
        self:swap({ [4] = text.closed(4), [6] = text.closed(6) })
      elseif #lines > 0 then
        self.log("warn", ("IPv%d: another program changed the hooks: put right"):format(family))
        M.must(self:restore(family, text.book(), {}, lines))
      end
    end
    return true
  end, function(ok, err)
    if not ok and not self.closing then self.log("error", "iptables: cannot look after the rules: " .. tostring(err)) end
    done(changed)
  end)
end

return M
