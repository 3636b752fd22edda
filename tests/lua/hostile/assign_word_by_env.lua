-- expect line 2: cannot be assigned
_ENV.deny = nil
