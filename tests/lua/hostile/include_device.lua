-- expect line 2:
include "/dev/zero"
