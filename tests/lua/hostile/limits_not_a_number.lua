-- expect line 2: limit cpu
limits { cpu = 0 / 0 }
