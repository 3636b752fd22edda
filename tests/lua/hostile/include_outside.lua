-- expect line 2: stays in the folder
include "../../../etc/passwd.lua"
