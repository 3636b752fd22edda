-- expect: too much memory
local s = "xxxxxxxxxxxxxxxx"
s = s .. s .. s .. s
s = s .. s .. s .. s
s = s .. s .. s .. s
s = s .. s .. s .. s
s = s .. s .. s .. s
s = s .. s .. s .. s
s = s .. s .. s .. s
s = s .. s .. s .. s
s = s .. s .. s .. s
s = s .. s .. s .. s
s = s .. s .. s .. s
s = s .. s .. s .. s
s = s .. s .. s .. s
s = s .. s .. s .. s
s = s .. s .. s .. s
s = s .. s .. s .. s
s = s .. s .. s .. s
s = s .. s .. s .. s
s = s .. s .. s .. s
s = s .. s .. s .. s

