-- expect line 2: 'getmetatable' is not available
getmetatable("").__index = nil
