-- expect: recurses too deeply
local f, g
function f(n) return 1 + g(n) end
function g(n) return 1 + f(n) end
f(1)
