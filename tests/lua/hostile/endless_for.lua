-- expect line 2: runs too long
for i = 1, math.huge do local _ = i end
