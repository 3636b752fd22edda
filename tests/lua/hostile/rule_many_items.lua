-- expect line 2: unexpected 'y'
allow("tcp to " .. ("10.0.0.1,"):rep(50000) .. "x y")
