-- expect line 2: 107
unix("/" .. ("x"):rep(200))
