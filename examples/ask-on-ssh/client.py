#!/usr/bin/env python3
"""ADDRESS SECONDS: what an ssh client would see there, tried again for so long."""
import socket
import sys
import time

address, until = sys.argv[1], time.monotonic() + float(sys.argv[2])
refused = 0
while True:
    try:
        with socket.create_connection((address, 22), 5) as s:
            print(f"{address}: {s.recv(64).decode().strip()}" + (" after an answer" if refused else ""))
            break
    except OSError as e:
        refused += 1
        if time.monotonic() > until:
            print(f"{address}: {e.strerror}")
            break
        time.sleep(0.1)
