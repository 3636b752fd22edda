-- expect line 2: runs too long
::again:: goto again
