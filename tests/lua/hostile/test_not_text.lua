-- expect line 2:
test { allow = { {} } }
