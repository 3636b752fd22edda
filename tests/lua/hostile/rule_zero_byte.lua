-- expect line 2:
allow "tcp to a\0b.example"
