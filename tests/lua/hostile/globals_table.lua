-- expect line 2: '_G' is not available
_G.allow = nil
