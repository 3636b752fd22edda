-- expect line 2: runs too long
on("connect", (function() while true do end end)())
