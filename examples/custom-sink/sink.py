#!/usr/bin/env python3
"""A sink of one's own: takes audit records as datagrams, sums them up, prints the sums when the run ends.

    sink.py SOCKET
"""
import collections
import json
import os
import socket
import sys

path = sys.argv[1]
if os.path.exists(path):
    os.unlink(path)
sink = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sink.bind(path)
os.chmod(path, 0o600)
print("ready", flush=True)

sums, lost, last = collections.Counter(), 0, 0
while True:
    record = json.loads(sink.recv(65536))
    own = record["unmapped"]["lattice"]
    # Each sink numbers its records; a gap that no loss record tells of means that something was taken away.
    lost += own.get("lost", 0)
    if own["line"] != last + 1 and not own.get("lost"):
        print(f"records {last + 1} to {own['line'] - 1} are missing", flush=True)
    last = own["line"]
    if own["kind"] == "verdict":
        to = record["dst_endpoint"]
        sums[own["action"], f"{to['ip']}:{to.get('port', 0)}", own.get("where", "")] += 1
    elif own["kind"] == "exit":
        break
for (action, to, where), count in sums.most_common():
    print(f"{count:4}  {action:5}  {to:24} {where}")
print(f"{lost} records lost")
