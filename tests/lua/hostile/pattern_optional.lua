-- expect line 2: string.match
local s = ("a"):rep(40):match(("a?"):rep(40) .. ("a"):rep(40))
