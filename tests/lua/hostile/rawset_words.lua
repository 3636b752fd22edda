-- expect line 2: 'rawset' is not available
rawset(_ENV, "allow", nil)
