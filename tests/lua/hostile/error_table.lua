-- expect line 2: 'setmetatable' is not available
error(setmetatable)
