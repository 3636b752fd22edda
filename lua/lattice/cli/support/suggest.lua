-- "Did you mean": the nearest of some words.
local M = {}

--- Edits (insert, delete, replace, swap of neighbours) between two words.
---@param a string
---@param b string
---@return integer
function M.distance(a, b)
  local rows = { [-1] = {}, [0] = {} }
  for j = 0, #b do rows[0][j] = j end
  for i = 1, #a do
    local row, above, before = { [0] = i }, rows[i - 1], rows[i - 2]
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      local best = math.min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (same and 0 or 1))
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        best = math.min(best, before[j - 2] + 1)
      end
      row[j] = best
    end
    rows[i] = row
  end
  return rows[#a][#b]
end

--- The nearest word, or nil when none is near.
---@param word string
---@param words string[]
---@return string?
function M.nearest(word, words)
  local best, best_distance
  for _, candidate in ipairs(words) do
    local d = M.distance(word, candidate)
    if not best_distance or d < best_distance then best, best_distance = candidate, d end
  end
  return best_distance and best_distance <= math.max(1, #word // 3) and best or nil
end

return M
