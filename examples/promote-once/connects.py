#!/usr/bin/env python3
"""server: listens on a free port of the loopback, prints it. PORT: 100 connections, and one more after three seconds."""
import socket
import sys
import time

if sys.argv[1] == "server":
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listener.getsockname()[1], flush=True)
    while True:
        listener.accept()[0].close()
for i in range(101):
    if i == 100:
        time.sleep(3)
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10).close()
