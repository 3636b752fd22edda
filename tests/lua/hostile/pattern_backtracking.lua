-- expect line 2: string.find
local s = ("a"):rep(1000):find((".-"):rep(20) .. "b")
