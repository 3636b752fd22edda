-- expect line 2: string.format
local s = ("%s%s%s"):format(("x"):rep(1000000), ("x"):rep(1000000), 1)
