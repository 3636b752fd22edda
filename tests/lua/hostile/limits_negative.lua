-- expect line 2: limit
limits { memory = -1, pids = 0 }
