-- expect line 4:
local function f(a, b)
  local t = { 3, 2, 1 }
  table.sort(t, f)
  return a < b
end
f(1, 2)
