-- expect line 2:
for i = 1, 1e9 do local s = ("a"):rep(200):find("a*a*b") end
