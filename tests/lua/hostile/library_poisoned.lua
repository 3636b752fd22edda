-- expect line 3: unexpected 'too'
string.find = function() while true do end end
allow "tcp too any"
