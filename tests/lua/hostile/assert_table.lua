-- expect line 2: table
assert(false, {})
