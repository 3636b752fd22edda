-- expect line 4: table.concat
local t = {}
for i = 1, 1000 do t[i] = ("x"):rep(10000) end
local s = table.concat(t)
