-- expect line 2: string.rep
local s = string.rep("abcdefgh", 1e8)
