-- A policy's generation as iptables rules: chains and their lines, for one family at a time. Pure: nothing is run here.
--
--   LATTICE-OUT, LATTICE-IN   hooked for what leaves and enters a device: what the live generation let pass goes on, the
--                             rest is judged
--   LATTICE-TEMP-O, ...       temporary rules; ends in the tree
--   LATTICE-O1, ...           the tree (tree.lua)
--   LATTICE-N1-O, ...         a run of name rules: the addresses pinned now
--   LATTICE-R000012           what rule 12 does, and its counters; R0-O and R0-I: the default
--   LATTICE-DENY, LATTICE-DROP
--
-- The next generation has the same names, so few chains are added and removed. In which order they stand in a transaction,
-- and why their numbers have a fixed width: M.transaction.
--
-- Trees come in four variants: O and I judge a packet that opens or continues an out or in flow, OR and IR the same flow
-- by a packet of its replies, which is needed once a reload has made an open flow's mark old.
--
-- A judged flow carries the mark of the generation that let it pass, in the top byte of conntrack's mark: the low
-- half for out flows, the high half for in flows; nobody else's bits are touched. Allow is RETURN to the caller's
-- chain: what other people's rules refuse stays refused.
local addr = require("lattice.policy.addr")
local match = require("lattice.enforcer.iptables.match")
local tree = require("lattice.enforcer.iptables.tree")

local M = {}

M.GROUP = 7214            -- NFLOG group of verdict events
M.MARKS = 15              -- mark values, 1..15; 0: not judged
M.MASK = 0xff000000
M.TEMPORARY = 0x80000000  -- LAT_RULE_TEMPORARY of bpf/lattice_abi.h
local BLOCK = 64          -- chains made at once
local LIMIT = "-m limit --limit 50/sec --limit-burst 200 "

local variants = match.variants

-- value/mask of the mark that a direction's flows carry.
local function mark(dir, value)
  local shift = dir == "in" and 28 or 24
  return ("0x%x/0x%x"):format(value << shift, 15 << shift)
end
M.mark = mark

-- ---- chains ----

---@class lattice.iptables.Book  chains in the order in which they were made
local Book = {}
Book.__index = Book

function M.book() return setmetatable({ names = {}, lines = {}, keys = {} }, Book) end

--- The lines of a chain, which is made if it is not there.
function Book:chain(name)
  local lines = self.lines[name]
  if not lines then
    lines = {}
    self.lines[name], self.names[#self.names + 1] = lines, name
  end
  return lines
end

function Book:add(name, text)
  local lines = self:chain(name)
  lines[#lines + 1] = "-A " .. name .. " " .. text
end

-- ---- verdicts ----

local passes = { allow = true, audit = true }
local words = { ask = "deny" }

-- What a rule does. id: of the event's prefix; rate: new flows a second, more are refused.
local function verdict(book, chain, gen, id, rule, dir)
  local function log(name, action)
    if rule.log == false then return end
    book:add(name, ('%s-j NFLOG --nflog-prefix "lattice:%d:%d:%s:%s" --nflog-group %d --nflog-size 128')
      :format(LIMIT, gen.number, id, words[action] or action, dir, M.GROUP))
  end
  if passes[rule.action] and (rule.rate or 0) > 0 then
    local rate = math.min(rule.rate, 1000000)
    book:add(chain, ("-m hashlimit --hashlimit-above %d/sec --hashlimit-burst %d --hashlimit-name lattice-%d-%s -g %s-X")
      :format(rate, rate, gen.number, chain:match("%-(.*)$"):gsub("R0+", "R"), chain)) -- the kernel keeps a name's rate
    log(chain .. "-X", "deny")
    book:add(chain .. "-X", "-g LATTICE-DENY")
  end
  log(chain, rule.action)
  if passes[rule.action] then
    book:add(chain, "-j CONNMARK --set-xmark " .. mark(dir, gen.mark))
  else
    book:add(chain, "-g " .. (rule.action == "drop" and "LATTICE-DROP" or "LATTICE-DENY"))
  end
end

local function refusals(book, family)
  local clear = "-j CONNMARK --set-xmark 0x0/0xff000000"
  for _, chain in ipairs({ "LATTICE-DENY", "LATTICE-DROP" }) do
    if not book.lines[chain] then book:add(chain, clear) end
  end
  -- An answer to what conntrack does not know could end somebody's connection, and would be judged itself.
  book:add("LATTICE-DENY", "-m conntrack --ctstate INVALID,UNTRACKED -j DROP")
  book:add("LATTICE-DENY", "-p tcp -j REJECT --reject-with tcp-reset")
  book:add("LATTICE-DENY", "-j REJECT --reject-with "
    .. (family == 4 and "icmp-admin-prohibited" or "icmp6-adm-prohibited"))
  book:add("LATTICE-DROP", "-j DROP")
end

-- ---- the trees ----

local function rule_chain(rule, dir)
  if rule == 0 then return dir == "in" and "LATTICE-R0-I" or "LATTICE-R0-O" end
  return ("LATTICE-R%06d"):format(rule)
end

-- Makes the chains of one direction's tree, in both its variants; chains are known by their number.
local function emitter(book, gen, family, names, default, tick)
  local count = 0

  local function chain_of(name, number) return ("LATTICE-%s%d"):format(name, number) end

  local function leaf(name, boxes)
    local variant, made = variants[name], chain_of(name, count)
    local keys = {}
    book:chain(made)
    book.keys[made] = keys
    for _, m in ipairs(match.matches(variant, family, boxes)) do
      if m.run then
        book:add(made, ("-j LATTICE-N%d-%s"):format(m.run.id, name))
        book:add(made, ("-m connmark --mark %s -m conntrack --ctdir %s -j RETURN")
          :format(mark(variant.dir, gen.mark), variant.state))
      else
        gen.used[m.rule] = true
        book:add(made, m.text .. "-g " .. rule_chain(m.rule, variant.dir))
        keys[#book.lines[made]] = m.rule
      end
    end
    book:add(made, "-g " .. default)
  end

  local function node(name, kids)
    local variant, made = variants[name], chain_of(name, count)
    book:chain(made)
    for i, kid in ipairs(kids) do
      local r, text = kid.region, ""
      if i == #kids then text = ""
      elseif kid.proto then text = match.protocol(kid.proto, family)
      elseif kid.ports then text = match.ports(variant, r.proto, { { r.from, r.to } })
      elseif r.len > 0 then
        local where = family == 4 and addr.format(4, 0, r.hi >> 32) or addr.format(6, r.hi, r.low)
        text = ("%s %s/%d "):format(variant.addr, where, r.len)
      end
      if text then book:add(made, text .. "-g " .. chain_of(name, kid.target)) end
    end
  end

  local emit = {}
  for what, make in pairs({ leaf = leaf, node = node }) do
    emit[what] = function(list)
      count = count + 1
      for _, name in ipairs(names) do make(name, list) end
      tick()
      return count
    end
  end
  emit.chain_of = chain_of
  return emit
end

local function pinned(book, gen, family, name, run, pins)
  local variant = variants[name]
  local chain = ("LATTICE-N%d-%s"):format(run.id, name)
  book:chain(chain)
  for _, m in ipairs(match.matches(variant, family, match.pinned(run, pins, family, variant.dir))) do
    book:add(chain, m.text .. "-g " .. rule_chain(m.rule, variant.dir))
  end
end

--- The chains that hold pins, for a transaction of their own.
function M.pins(gen, family, pins)
  local book = M.book()
  for _, name in ipairs(match.order) do
    for _, run in ipairs(gen.source[variants[name].dir].runs) do pinned(book, gen, family, name, run, pins) end
  end
  return book
end

--- The chains of temporary rules; each list ends in the tree. roots: by variant.
function M.temporary(gen, family, rules)
  local book = M.book()
  for _, name in ipairs(match.order) do book:chain("LATTICE-TEMP-" .. name) end
  for _, rule in ipairs(rules) do
    local chain, dir = "LATTICE-TEMP-R" .. rule.id, nil
    for _, name in ipairs(match.order) do
      local variant = variants[name]
      for _, m in ipairs(match.matches(variant, family, match.boxes(rule.entries, family, variant.dir))) do
        dir = variant.dir
        book:add("LATTICE-TEMP-" .. name, m.text .. "-g " .. chain)
      end
    end
    if dir then verdict(book, chain, gen, M.TEMPORARY | rule.id, rule, dir) end
  end
  for _, name in ipairs(match.order) do
    book:add("LATTICE-TEMP-" .. name, "-g " .. gen.roots[family][name])
  end
  return book
end

-- ---- the two hooked chains ----

local function neighbours(book, chain, family)
  if family ~= 6 then return end
  for kind = 133, 137 do -- router and neighbour discovery, redirect: never through a router
    book:add(chain, ("-p ipv6-icmp -m icmp6 --icmpv6-type %d -m hl --hl-eq 255 -j RETURN"):format(kind))
  end
end

local function entrance(book, gen, family, chain, own, other)
  local function live(dir, state)
    local marked = gen.keep and "! --mark " .. mark(dir, 0) or "--mark " .. mark(dir, gen.mark)
    book:add(chain, ("-m connmark %s -m conntrack ! --ctstatus EXPECTED --ctdir %s -j RETURN"):format(marked, state))
  end
  local icmp = family == 4 and "-p icmp " or "-p ipv6-icmp "
  book:add(chain, ('-m comment --comment "lattice generation %d mark %d"'):format(gen.number, gen.mark))
  live(own.dir, "ORIGINAL")
  live(other.dir, "REPLY")
  neighbours(book, chain, family)
  if own.dir == "out" then -- what LATTICE-DENY answers: only the kernel makes a reset that is RELATED
    book:add(chain, "-p tcp -m tcp --tcp-flags RST RST -m conntrack --ctstate RELATED -j RETURN")
    book:add(chain, icmp .. (family == 4 and "-m icmp --icmp-type 3/13" or "-m icmp6 --icmpv6-type 1/1")
      .. " -m conntrack --ctstate RELATED -j RETURN")
  end
  -- errors that quote a flow which is not allowed; and what a helper expects is judged by itself, each packet of it
  book:add(chain, icmp .. "-m conntrack --ctstate RELATED -j DROP")
  book:add(chain, "-m conntrack --ctstatus EXPECTED -j CONNMARK --set-xmark 0x0/0xff000000")
  book:add(chain, "-m conntrack --ctstate ESTABLISHED --ctdir REPLY -g LATTICE-TEMP-" .. other.name .. "R")
  book:add(chain, "-g LATTICE-TEMP-" .. own.name)
end

--- Everything refused, before there is a policy.
function M.closed(family)
  local book = M.book()
  for _, chain in ipairs({ "LATTICE-OUT", "LATTICE-IN" }) do
    book:add(chain, '-m comment --comment "lattice no generation"')
    neighbours(book, chain, family)
    book:add(chain, "-j DROP")
  end
  return book
end

local function merge(book, more)
  for _, name in ipairs(more.names) do
    local lines = book:chain(name)
    table.move(more.lines[name], 1, #more.lines[name], #lines + 1, lines)
  end
end

--- A generation as chains. options: mark, temporary (rules), pins; tick may yield.
---@return table gen  { number, mark, keep, source, roots, books = { [4], [6] }, temporary, pins (as its chains have them) }
function M.compile(generation, options, tick)
  local info = generation:info()
  local gen = { number = generation:number(), mark = options.mark, keep = info.keep_established, roots = {},
    source = match.source(generation, tick), books = {},
    temporary = options.temporary, pins = options.pins }
  for _, family in ipairs({ 4, 6 }) do
    local book = M.book()
    gen.used, gen.roots[family], gen.books[family] = {}, {}, book
    local own, other = { name = "O", dir = "out" }, { name = "I", dir = "in" }
    entrance(book, gen, family, "LATTICE-OUT", own, other)
    entrance(book, gen, family, "LATTICE-IN", other, own)
    for _, dir in ipairs({ "out", "in" }) do
      local side = gen.source[dir]
      local boxes = match.weave(match.boxes(side.entries, family, dir), side.runs)
      local names = match.pairs[dir]
      local emit = emitter(book, gen, family, names, rule_chain(0, dir), tick)
      local root = tree.build(boxes, emit, tick)
      for _, name in ipairs(names) do gen.roots[family][name] = emit.chain_of(name, root) end
    end
    for _, dir in ipairs({ "out", "in" }) do
      for _, n in ipairs(gen.source[dir].names) do gen.used[n.rule] = true end
      verdict(book, rule_chain(0, dir), gen, 0, { action = info.default }, dir)
    end
    local used = {}
    for rule in pairs(gen.used) do used[#used + 1] = rule end
    table.sort(used)
    for _, rule in ipairs(used) do
      verdict(book, rule_chain(rule), gen, rule, generation:rule(rule), gen.source.dirs[rule])
      tick()
    end
    refusals(book, family)
    merge(book, M.temporary(gen, family, options.temporary))
    merge(book, M.pins(gen, family, options.pins))
  end
  return gen
end

-- ---- transactions ----

-- The lines of leaves, last first, by the rule that they lead to: they are inserted at the head. 0: the ends of the leaves.
local function by_rule(book, tick)
  local lists = { [0] = {} }
  for _, name in ipairs(book.names) do
    local keys, lines, key = book.keys[name], book.lines[name], 0
    for i = keys and #lines or 0, 1, -1 do
      key = keys[i] or key
      local list = lists[key]
      if not list then
        list = {}
        lists[key] = list
      end
      list[#list + 1] = "-I" .. lines[i]:sub(3)
    end
    tick()
  end
  return lists
end

--- The text of one transaction: `book` replaces the chains it names, `gone` (names) are removed, and the hook lines
--- (-D, -I) done.
---
--- iptables-nft keeps the names that a transaction has mentioned in a sorted list, which it walks from the start for each
--- line's chain and each line's target. So a rule's chain comes with the lines that lead to it, the highest rule first:
--- then few names stand before it in the list. In order of chains, ten thousand rules take twice as long. But
--- iptables-nft-save sorts chains by a quicksort that is slow for sorted ones: they are made in blocks, mixed within each.
---@param book lattice.iptables.Book
---@param gone string[]
---@param hooks string[]
---@param table_name? string  "filter"
---@param tick? fun()
---@return string
function M.transaction(book, gone, hooks, table_name, tick)
  local out, rules = { "*" .. (table_name or "filter") }, {}
  tick = tick or function() end
  local lists = by_rule(book, tick)
  local function content(name)
    local lines = book.lines[name]
    table.move(lines, 1, #lines, #out + 1, out)
  end
  for _, name in ipairs(book.names) do
    local rule = next(book.keys) and name:match("^LATTICE%-R(%d%d%d%d%d%d+)")
    if rule then rules[#rules + 1] = name else out[#out + 1] = ":" .. name .. " - [0:0]" end
  end
  table.move(lists[0], 1, #lists[0], #out + 1, out)
  table.sort(rules, function(a, b) return a > b end) -- what refuses beyond a rate (-X) before the chain that leads there
  for from = 1, #rules, BLOCK do
    for i = 0, BLOCK - 1 do
      local name = rules[from + (i * 29 + BLOCK // 2) % BLOCK]
      if name then out[#out + 1] = ":" .. name .. " - [0:0]" end
    end
    for i = from, math.min(from + BLOCK - 1, #rules) do
      content(rules[i])
      local list = lists[math.tointeger(rules[i]:match("R(%d+)$"))]
      if list then table.move(list, 1, #list, #out + 1, out) end
    end
    tick()
  end
  for _, name in ipairs(book.names) do
    if not book.keys[name] and not (rules[1] and name:find("^LATTICE%-R%d%d%d%d%d%d")) then content(name) end
  end
  for _, line in ipairs(hooks) do out[#out + 1] = line end
  for _, name in ipairs(gone) do out[#out + 1] = "-F " .. name end
  for _, name in ipairs(gone) do out[#out + 1] = "-X " .. name end
  out[#out + 1] = "COMMIT\n"
  return table.concat(out, "\n")
end

return M
