-- expect line 2:
local s = ("").dump(function() end)
