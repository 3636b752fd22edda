-- expect line 2:
allow "tcp to a\27[31mb.example"
