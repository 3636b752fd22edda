-- expect line 2: runs too long
while true do end
