-- expect line 2: 'loadstring' is not available
loadstring("x = 1")()
