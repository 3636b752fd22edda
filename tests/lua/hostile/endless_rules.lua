-- expect line 2:
for i = 1, math.huge do allow("tcp to 10.0.0.1 port " .. 1 + i % 65535) end
