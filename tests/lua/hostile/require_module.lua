-- expect line 2: 'require' is not available
local os = require("os")
