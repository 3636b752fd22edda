-- expect line 2: arithmetic
local x = nil + 1
