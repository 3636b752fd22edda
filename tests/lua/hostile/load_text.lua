-- expect line 2: 'load' is not available
load("while true do end")()
