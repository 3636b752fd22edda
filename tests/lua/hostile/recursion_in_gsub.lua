-- expect line 2:
local function f() return (("x"):gsub(".", f)) end
f()
