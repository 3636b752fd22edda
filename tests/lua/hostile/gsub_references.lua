-- expect line 2: string.gsub
local s = ("x"):rep(100000):gsub(".*", ("%0"):rep(1000))
