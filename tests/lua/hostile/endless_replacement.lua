-- expect line 2: runs too long
local s = ("x"):gsub(".", function() while true do end end)
return s
