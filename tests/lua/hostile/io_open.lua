-- expect line 2: 'io' is not available
io.open("/etc/passwd")
