"""Traffic for tests of the node agent (tests/e2e/agent_*_spec.lua).

probe.py serve FAMILY TCPPORT,... UDPPORT,... [ADDRESS,...]   echoes, at these addresses (all); prints "ready", and at SIGTERM datagrams got by UDP port, as JSON
probe.py send ADDRESS PORT RATE                 numbered datagrams, RATE a second; prints "sending" after the first 10; at
                                                SIGTERM { sent, echoed, missing: the first numbers without an echo }
probe.py try tcp|udp|icmp ADDRESS PORT [MS [SOURCE]]   one attempt; prints "open", "refused" or "silent"
probe.py keep ADDRESS PORT                      a TCP connection that sends 20 lines a second; prints "connected", then
                                                "cut" when it ends or an echo takes over a second"""
import errno, json, os, select, signal, socket, struct, sys, time

stop = False


def on_term(*_):
    global stop
    stop = True


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def roomy(s):
    """A test process that waits for a CPU is no lost packet: room for seconds of datagrams."""
    try:
        s.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
    except OSError:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)


def serve(family, tcp, udp, addresses=""):
    family = socket.AF_INET6 if family == "6" else socket.AF_INET
    poller, counts, streams = select.poll(), {}, {}
    def numbers(text):
        return [int(p) for p in text.split(",") if p]
    socks = {}
    pairs = [(a, p) for a in addresses.split(",") for p in numbers(udp)]
    for address, port in pairs:
        s = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        roomy(s)
        s.bind((address, port))
        s.setblocking(False)
        socks[s.fileno()] = ("udp", s, port)
        counts[port] = 0
    for address, port in [(a, p) for a in addresses.split(",") for p in numbers(tcp)]:
        s = socket.socket(family, socket.SOCK_STREAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.bind((address, port))
        s.listen(64)
        s.setblocking(False)
        socks[s.fileno()] = ("listen", s, port)
    for fd in socks:
        poller.register(fd, select.POLLIN)
    print("ready", flush=True)
    while not stop:
        for fd, _ in poller.poll(100):
            kind, s, port = socks[fd]
            try:
                if kind == "udp":
                    data, peer = s.recvfrom(2048)
                    counts[port] += 1
                    s.sendto(data, peer)
                elif kind == "listen":
                    c, _ = s.accept()
                    socks[c.fileno()] = ("stream", c, port)
                    poller.register(c.fileno(), select.POLLIN)
                else:
                    data = s.recv(65536)
                    if data:
                        s.send(data)
                    else:
                        raise OSError(errno.EPIPE, "end")
            except OSError:
                if kind == "stream":
                    poller.unregister(fd)
                    del socks[fd]
                    s.close()
    print(json.dumps({str(k): v for k, v in counts.items()}), flush=True)


def send(address, port, rate):
    s = socket.socket(family_of(address), socket.SOCK_DGRAM)
    roomy(s)
    s.connect((address, port))
    s.setblocking(False)
    seen, sent, began, told = set(), 0, time.monotonic(), False

    def drain():
        while True:
            try:
                seen.add(struct.unpack("!I", s.recv(2048)[:4])[0])
            except BlockingIOError:
                return
            except OSError:
                continue
    while not stop:
        due = began + sent / rate
        now = time.monotonic()
        if now < due:
            select.select([s], [], [], due - now)
        else:
            try:
                s.send(struct.pack("!I", sent) + b"probe")
            except OSError:
                pass
            sent += 1
            if sent == 10 and not told:
                told = True
                print("sending", flush=True)
        drain()
    end = time.monotonic() + 0.5
    while time.monotonic() < end and len(seen) < sent:
        select.select([s], [], [], 0.05)
        drain()
    missing = [n for n in range(sent) if n not in seen]
    print(json.dumps({"sent": sent, "echoed": len(seen), "missing": missing[:20]}), flush=True)


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff


def attempt(proto, address, port, wait, source=None):
    family = family_of(address)
    try:
        if proto == "tcp":
            s = socket.socket(family, socket.SOCK_STREAM)
            s.settimeout(wait)
            if source:
                s.bind((source, 0))
            s.connect((address, port))
            s.send(b"hello")
            return "open" if s.recv(5) else "refused"
        if proto == "udp":
            s = socket.socket(family, socket.SOCK_DGRAM)
            s.settimeout(wait)
            if source:
                s.bind((source, 0))
            s.connect((address, port))
            s.send(b"hello")
            s.recv(5)
            return "open"
        v6 = family == socket.AF_INET6
        s = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP)
        s.settimeout(wait)
        ident = os.getpid() & 0xffff
        head = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, ident, 1) + b"probeprobe"
        if not v6:
            head = head[:2] + struct.pack("!H", checksum(head)) + head[4:]
        if source:
            s.bind((source, 0))
        s.connect((address, 0))
        s.send(head)
        end = time.monotonic() + wait
        while time.monotonic() < end:
            data = s.recv(2048)
            data = data if v6 else data[20:]
            if data[0] == (129 if v6 else 0) and struct.unpack("!H", data[4:6])[0] == ident:
                return "open"
        return "silent"
    except (socket.timeout, TimeoutError):
        return "silent"
    except OSError as e:
        return "refused" if e.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EACCES, errno.EPERM,
                                        errno.ECONNRESET, errno.ENETUNREACH) else "error %s" % e


def keep(address, port):
    s = socket.socket(family_of(address), socket.SOCK_STREAM)
    s.settimeout(3)
    s.connect((address, port))
    s.settimeout(1)
    print("connected", flush=True)
    while not stop:
        try:
            s.send(b"line\n")
            if not s.recv(64):
                break
        except OSError:
            break
        time.sleep(0.05)
    print("cut" if not stop else "kept", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, on_term)
    what, args = sys.argv[1], sys.argv[2:]
    if what == "serve":
        serve(*args)
    elif what == "send":
        send(args[0], int(args[1]), float(args[2]))
    elif what == "try":
        wait = float(args[3]) / 1000 if len(args) > 3 else 1.0
        print(attempt(args[0], args[1], int(args[2]), wait, args[4] if len(args) > 4 else None))
    elif what == "keep":
        keep(args[0], int(args[1]))
