-- "Did you mean": the known word that is nearest to what was written.
local M = {}

--- Edit distance with neighbour swaps, cut off at `limit` + 1.
local function distance(a, b, limit)
  if math.abs(#a - #b) > limit then return limit + 1 end
  local before, row = {}, {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local older = before
    before, row = row, { [0] = i }
    local least = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      local d = math.min(before[j] + 1, row[j - 1] + 1, before[j - 1] + cost)
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        d = math.min(d, older[j - 2] + 1)
      end
      row[j] = d
      if d < least then least = d end
    end
    if least > limit then return limit + 1 end
  end
  return row[#b]
end

--- The nearest of `words` (a list), or nil when none is near enough.
---@param text string
---@param words string[]
---@return string?
function M.nearest(text, words)
  text = text:lower():sub(1, 64)
  local limit = #text <= 3 and 1 or #text <= 8 and 2 or 3
  local best, best_d = nil, limit + 1
  for _, word in ipairs(words) do
    local d = distance(text, word, limit)
    if d < best_d then best, best_d = word, d end
  end
  return best
end

--- The keys of a table, sorted: for error texts and suggestions that never change order.
---@param map table<string, any>
---@return string[]
function M.keys(map)
  local list = {}
  for key in pairs(map) do
    if type(key) == "string" then list[#list + 1] = key end
  end
  table.sort(list)
  return list
end

return M
