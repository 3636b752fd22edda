-- expect line 2: 'debug' is not available
debug.sethook()
