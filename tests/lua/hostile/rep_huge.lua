-- expect line 2: string.rep
local s = ("x"):rep(2 ^ 31)
