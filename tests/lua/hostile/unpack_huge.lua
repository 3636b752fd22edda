-- expect line 2: too many elements
local a = { table.unpack({}, 1, 1e8) }
