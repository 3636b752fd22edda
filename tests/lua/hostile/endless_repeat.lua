-- expect line 2: runs too long
repeat local x = 1 until not x
