-- expect line 3:
local _ENV = nil
x = 1
