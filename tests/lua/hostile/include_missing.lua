-- expect line 2: no shipped policy
include "not-there"
