-- expect line 2: 'xpcall' is not available
xpcall(function() while true do end end, error)
