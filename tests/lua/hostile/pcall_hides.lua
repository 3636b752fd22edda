-- expect line 2: 'pcall' is not available
while true do pcall(error) end
