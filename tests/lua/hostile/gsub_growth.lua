-- expect line 2: string.gsub
local s = ("x"):rep(100000):gsub("", ("y"):rep(10000))
