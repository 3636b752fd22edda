-- expect line 2:
local s = string.dump(function() end)
