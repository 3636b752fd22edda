-- expect line 2: string.rep
local s = string.rep("", 100000, ("y"):rep(1000))
