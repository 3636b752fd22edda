-- expect line 2: too many elements
table.move({}, 1, 1e15, 2)
