-- expect line 2: 'os' is not available
os.execute("true")
