-- expect line 2: string.find
local s = ("("):rep(100000):find("%b()")
