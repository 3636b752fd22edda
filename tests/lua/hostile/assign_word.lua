-- expect line 2: cannot be assigned
allow = function() end
