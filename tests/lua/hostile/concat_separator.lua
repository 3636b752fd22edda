-- expect line 4: table.concat
local t = {}
for i = 1, 2000 do t[i] = "x" end
local s = table.concat(t, ("y"):rep(10000))
