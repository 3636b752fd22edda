-- expect line 2: string.find
local s = ("a"):find(("a"):rep(100000))
