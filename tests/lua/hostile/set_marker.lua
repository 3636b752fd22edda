-- expect line 2:
allow(file "x")
