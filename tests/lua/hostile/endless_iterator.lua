-- expect line 2: runs too long
for _ in function() return 1 end do end
