-- expect line 2: 'dofile' is not available
dofile("/etc/passwd")
