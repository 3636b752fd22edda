-- expect line 2: string.gmatch
for _ in ("a"):rep(2000):gmatch("a*a*a*b") do local _ = 1 end
