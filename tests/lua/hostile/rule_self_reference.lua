-- expect:
local t = {}
t.to = t
t.proto = t
allow(t)
