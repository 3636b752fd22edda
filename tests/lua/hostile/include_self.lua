-- expect line 2: includes itself
include "include_self.lua"
