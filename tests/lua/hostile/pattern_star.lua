-- expect line 2: string.match
local s = ("a"):rep(5000):match("a*a*a*a*b")
