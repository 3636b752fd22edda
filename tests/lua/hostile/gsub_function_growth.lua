-- expect line 2: string.gsub
local s = ("x"):rep(1000):gsub("x", function() return ("y"):rep(100000) end)
