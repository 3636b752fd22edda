-- An SVG of how much a connection costs against the number of rules: both axes logarithmic, a line a system.
local M = {}

local WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 420, 64, 36, 190, 52
local colours = { "#0b6e4f", "#1f9d75", "#74c69d", "#b02a30", "#e07a5f", "#3d5a80", "#8d6cab", "#333333" }

--- value(system, n): the ratio to no rules, or nil.
---@param systems { name: string, id: string }[]
---@param sizes integer[]
---@param value fun(system: table, n: integer): number?
---@return string
function M.svg(systems, sizes, value)
  local out = {}
  local function add(format, ...) out[#out + 1] = format:format(...) end
  local low = math.log(sizes[1], 10)
  local span = math.max(math.log(sizes[#sizes], 10) - low, 1)
  local function x(n) return LEFT + (math.log(n, 10) - low) / span * (WIDTH - LEFT - RIGHT) end
  local function y(ratio) -- 100 times the cost of no rules at the top
    local log = math.min(math.max(math.log(1 / ratio, 10), 0), 2.2)
    return HEIGHT - BOTTOM - log / 2.2 * (HEIGHT - TOP - BOTTOM)
  end
  add('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">', WIDTH, HEIGHT)
  add('<rect width="%d" height="%d" fill="white"/>', WIDTH, HEIGHT)
  add('<text x="%d" y="20" font-size="14">Time of connect + request + reply + close, times that without rules</text>', LEFT)
  for _, times in ipairs({ 1, 2, 5, 10, 20, 50, 100 }) do
    add('<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%dx</text>', LEFT, y(1 / times),
      WIDTH - RIGHT, LEFT - 8, y(1 / times) + 4, times)
  end
  for _, n in ipairs(sizes) do
    add('<text x="%.1f" y="%d" text-anchor="middle">%d</text>', x(n), HEIGHT - BOTTOM + 18, n)
  end
  add('<text x="%d" y="%d" text-anchor="middle">rules</text>', (LEFT + WIDTH - RIGHT) // 2, HEIGHT - 14)
  local ends = {}
  for i, system in ipairs(systems) do
    local points = {}
    for _, n in ipairs(sizes) do
      local ratio = value(system, n)
      if ratio then points[#points + 1] = ("%.1f,%.1f"):format(x(n), y(ratio)) end
    end
    if #points > 0 and system.id ~= "none" then
      local colour = colours[(i - 1) % #colours + 1]
      local at_x, at_y = points[#points]:match("([^,]+),([^,]+)")
      add('<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>', table.concat(points, " "), colour)
      ends[#ends + 1] = { name = system.name, colour = colour, x = tonumber(at_x), y = tonumber(at_y) }
    end
  end
  table.sort(ends, function(a, b) return a.y < b.y end)
  local last = TOP
  for _, e in ipairs(ends) do
    last = math.max(e.y, last + 15)
    e.at = last
  end
  for i = #ends, 1, -1 do -- the labels that were pushed below the axis come up again
    local most = ends[i + 1] and ends[i + 1].at - 15 or HEIGHT - BOTTOM + 6
    ends[i].at = math.min(ends[i].at, most)
    add('<path d="M%.1f %.1fL%d %.1f" stroke="%s" stroke-opacity="0.4"/>', ends[i].x, ends[i].y, WIDTH - RIGHT + 12,
      ends[i].at, ends[i].colour)
    add('<text x="%d" y="%.1f" fill="%s">%s</text>', WIDTH - RIGHT + 16, ends[i].at + 4, ends[i].colour, ends[i].name)
  end
  add("</svg>")
  return table.concat(out, "\n") .. "\n"
end

return M
