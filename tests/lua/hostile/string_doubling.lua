-- expect line 3: too much memory
local s = "x"
while true do s = s .. s end
