-- expect line 2:
allow("tcp to " .. ("a."):rep(100000) .. "example")
