-- expect: contains itself
set "a" { "@b" }
set "b" { "@a" }
allow "tcp to @a"
