-- expect line 2: absolute
unix "run/x.sock"
