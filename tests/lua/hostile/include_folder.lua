-- expect line 2:
include "/"
