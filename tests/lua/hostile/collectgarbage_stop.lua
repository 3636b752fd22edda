-- expect line 2: 'collectgarbage' is not available
collectgarbage("stop")
