-- expect line 2: 'print' is not available
print("hello")
