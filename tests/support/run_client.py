"""A supervisor as the agent sees one, for tests/e2e/agent_runs_spec.lua: asks for a run over the control socket, with a child as
the run's init, and does what stdin says.

run_client.py SOCKET JSON        the args of the verb `run`; "pid": "child" (the default), "other" (a grandchild) or a number;
                                 "dns": true: binds a port of 127.0.0.1 and gives it as dns_port
run_client.py -                  no agent: tries, listens, spawns and keeps itself, for tests/e2e/bindings_spec.lua
stdin, a line each:
  try tcp|udp ADDRESS PORT [MS]  the child tries; prints "try open|refused|denied|silent"
  listen PORT                    the child listens on 127.0.0.1, prints "listen ok"
  keep ADDRESS PORT              the child connects and stays so; prints "keep open|..."; "use" sends by it: "use open|..."
  spawn                          the child makes a grandchild that stays; prints "spawn PID"
  ask VERB JSON                  another verb on the connection; prints its answer
  hang                           stops reading the connection
  cut                            closes the connection; prints "cut"
  end                            ends
Prints every frame of the agent as one line, "item JSON", "answer JSON"; and "closed" when the agent closes."""
import ctypes, json, os, select, signal, socket, struct, sys, time

libc = ctypes.CDLL(None)


def attempt(words):
    proto, address, port = words[0], words[1], int(words[2])
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
    s.settimeout((int(words[3]) if len(words) > 3 else 1500) / 1000)
    try:
        if proto == "tcp":
            s.connect((address, port))
            return "open"
        s.sendto(b"?", (address, port))
        s.recv(16)
        return "open"
    except socket.timeout:
        return "silent"
    except ConnectionRefusedError:
        return "refused"
    except OSError as e:
        return "denied %d" % e.errno
    finally:
        s.close()


def child(commands, answers):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kept = []
    for line in os.fdopen(commands):
        words = line.split()
        if words[0] == "try":
            said = "try " + attempt(words[1:])
        elif words[0] == "listen":
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", int(words[1])))
            s.listen()
            kept.append(s)
            said = "listen ok"
        elif words[0] == "keep":
            s = socket.socket(socket.AF_INET6 if ":" in words[1] else socket.AF_INET)
            s.settimeout(1.5)
            said = "keep open"
            try:
                s.connect((words[1], int(words[2])))
            except OSError as e:
                said = "keep %s" % e
            kept.append(s)
        elif words[0] == "use":
            said = "use open"
            try:
                kept[-1].send(b"?")
                kept[-1].recv(16)
            except OSError as e:
                said = "use %s" % e
        else:
            pid = os.fork()
            if pid == 0:
                os.setsid()
                while True:
                    time.sleep(1000)
            said = "spawn %d" % pid
        os.write(answers, (said + "\n").encode())
    os._exit(0)


def main():
    if sys.argv[1] == "-":
        print("init %d" % os.getpid(), flush=True)
        child(0, 1)
    path, args = sys.argv[1], json.loads(sys.argv[2]) or {}
    if args.pop("dns", False):
        for _ in range(50):
            u, t = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
            u.bind(("127.0.0.1", 0))
            try:
                t.bind(u.getsockname())
                t.listen()
                break
            except OSError:
                continue
        args["dns_port"] = u.getsockname()[1]
    down, up = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        libc.prctl(1, signal.SIGKILL)
        os.close(down[1])
        os.close(up[0])
        if args.get("pid") == "other":
            inner = os.fork()
            if inner:
                os.write(up[1], b"%d\n" % inner)
                os.waitpid(inner, 0)
                os._exit(0)
        child(down[0], up[1])
    os.close(down[0])
    os.close(up[1])
    if args.get("pid", "child") == "child":
        args["pid"] = pid
    elif args["pid"] == "other":
        args["pid"] = int(os.read(up[0], 100))
    conn = socket.socket(socket.AF_UNIX)
    conn.connect(path)
    number = 1

    def send(verb, what):
        nonlocal number
        text = json.dumps({"v": 1, "id": number, "verb": verb, "args": what}).encode()
        number += 1
        try:
            conn.sendall(struct.pack(">I", len(text)) + text)
        except BrokenPipeError:
            pass  # what it said before is read

    send("run", args)
    print("init %s" % args["pid"], flush=True)
    buffers = {conn.fileno(): b"", 0: b"", up[0]: b""}
    watched = list(buffers)
    while True:
        for fd in select.select(watched, [], [])[0]:
            data = os.read(fd, 1 << 20)
            if not data:
                if fd == 0:
                    return
                watched.remove(fd)
                print("closed" if fd == conn.fileno() else "init ended", flush=True)
                continue
            buffers[fd] += data
            if fd == conn.fileno():
                while len(buffers[fd]) >= 4:
                    size = struct.unpack(">I", buffers[fd][:4])[0]
                    if len(buffers[fd]) < 4 + size:
                        break
                    frame = json.loads(buffers[fd][4:4 + size])
                    buffers[fd] = buffers[fd][4 + size:]
                    if frame.get("more"):
                        print("item", json.dumps(frame["result"]), flush=True)
                    else:
                        print("answer", json.dumps(frame), flush=True)
                continue
            while b"\n" in buffers[fd]:
                line, buffers[fd] = buffers[fd].split(b"\n", 1)
                line = line.decode()
                words = line.split(None, 2)
                if fd == up[0]:
                    print(line, flush=True)
                elif words[0] in ("try", "listen", "spawn", "keep", "use"):
                    os.write(down[1], (line + "\n").encode())
                elif words[0] == "ask":
                    send(words[1], json.loads(words[2]) if len(words) > 2 else {})
                elif words[0] == "hang":
                    watched.remove(conn.fileno())
                elif words[0] == "cut":
                    if conn.fileno() in watched:
                        watched.remove(conn.fileno())
                    conn.close()
                    print("cut", flush=True)
                else:
                    return


main()
