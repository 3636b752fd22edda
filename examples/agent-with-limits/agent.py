"""Stands for an agent whose work got out of hand: it takes memory, processes and a processor, one after the other."""
import os
import signal
import subprocess
import sys
import time

taken = subprocess.run([sys.executable, "-c", "x = bytearray(400 << 20)"], check=False).returncode
print("400 megabytes:", "killed" if taken == -signal.SIGKILL else "taken")

children, refused = [], False
try:
    for _ in range(200):
        pid = os.fork()
        if pid == 0:
            signal.pause()
        children.append(pid)
except BlockingIOError:
    refused = True
print("200 processes:", "refused" if refused and len(children) < 40 else "made")
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

began, used = time.monotonic(), time.process_time()
while time.process_time() - used < 0.5:
    pass
share = (time.process_time() - used) / (time.monotonic() - began)
print("a whole processor:", "half of one" if share < 0.6 else "had")

subprocess.Popen(["setsid", "sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("a daemon: started")
