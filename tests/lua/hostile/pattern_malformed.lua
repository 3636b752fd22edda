-- expect line 2: malformed pattern
local s = ("a"):find("[a")
