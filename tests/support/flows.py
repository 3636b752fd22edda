"""The two ends of tests/e2e/flows_spec.lua.  flows.py serve | flows.py TEST ADDRESS...

A test prints what it saw, the same in a sandbox and outside of it: the spec compares. It ends with an error, or prints
something else, when what must hold does not."""
import asyncio, errno, hashlib, os, resource, select, socket, struct, sys, time

ECHO, DIGEST, RESETS, WATCH, URGENT, STALL, RELEASE, UDP, CLOSED = 7000, 7001, 7002, 7003, 7004, 7005, 7006, 7007, 7099
MEGABYTE = bytes(range(256)) * 4096
LINGER0 = struct.pack("ii", 1, 0)


def more_files():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# ---- server ----

async def echo(reader, writer):
    """Echoes; at the end of what comes, says how much it was, then closes."""
    total = 0
    while data := await reader.read(65536):
        total += len(data)
        writer.write(data)
        await writer.drain()
    writer.write(b"end after %d" % total)
    writer.close()


async def digest(reader, writer):
    """Sends 100 MB and takes what comes at the same time; then the digests of both."""
    sent = hashlib.sha256()

    async def send():
        for i in range(100):
            chunk = struct.pack("!I", i) + MEGABYTE[4:]
            sent.update(chunk)
            writer.write(chunk)
            await writer.drain()
    sending = asyncio.create_task(send())
    got = hashlib.sha256()
    while data := await reader.read(1 << 18):
        got.update(data)
    await sending
    writer.write(sent.digest() + got.digest())
    writer.close()


async def resets(reader, writer):
    await reader.read(1)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER0)
    writer.transport.abort()


async def watch(reader, writer):
    """Prints how the client ended."""
    try:
        while await reader.read(65536):
            pass
        print("client closed", flush=True)
    except ConnectionResetError:
        print("client reset", flush=True)
    writer.close()


released = asyncio.Event()


async def stall(reader, writer):
    """Reads nothing until released."""
    writer.transport.pause_reading()
    await released.wait()
    writer.transport.resume_reading()
    total = 0
    while data := await reader.read(1 << 18):
        total += len(data)
    writer.write(b"%d" % total)
    writer.close()


async def release(reader, writer):
    released.set()
    writer.close()


async def urgent(reader, writer):
    """Answers with what came, an urgent byte in its place among the others, then sends an urgent byte itself."""
    writer.write(await reader.readuntil(b"."))
    await writer.drain()
    sock = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
    sock.send(b"!", socket.MSG_OOB)
    sock.close()
    await reader.read()
    writer.close()


def echo_datagrams(address):
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, UDP))

    def ready():
        data, peer = sock.recvfrom(70000)
        sock.sendto(data, peer)
    asyncio.get_running_loop().add_reader(sock, ready)


async def serve():
    more_files()
    for port, what in {ECHO: echo, DIGEST: digest, RESETS: resets, WATCH: watch, STALL: stall, RELEASE: release,
                       URGENT: urgent}.items():
        server = await asyncio.start_server(what, ["0.0.0.0", "::"], port, backlog=4096)
        for listener in server.sockets:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    for address in "203.0.113.9", "203.0.113.10", "2001:db8::9":
        echo_datagrams(address)
    print("ready", flush=True)
    await asyncio.Event().wait()


# ---- client ----

def dial(address, port, timeout=20):
    return socket.create_connection((address, port), timeout)


def read_all(s):
    parts = []
    while data := s.recv(1 << 18):
        parts.append(data)
    return b"".join(parts)


def half_close(address):
    """The far side still answers after we have said that we are done, and we after it."""
    s = dial(address, ECHO)
    s.sendall(b"hello ")
    s.shutdown(socket.SHUT_WR)
    print(read_all(s).decode())
    s = dial(address, DIGEST)
    s.shutdown(socket.SHUT_WR)
    print(len(read_all(s)))


def reset_by_server(address):
    s = dial(address, RESETS)
    s.send(b"x")
    try:
        print("data", s.recv(1))
    except ConnectionResetError:
        print("reset")


def reset_by_client(address):
    s = dial(address, WATCH)
    s.send(b"x")
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER0)
    s.close()


def close_by_client(address):
    dial(address, WATCH).close()


def urgent_data(address):
    """No byte is lost out there, and one that is sent out of line arrives here as one."""
    s = dial(address, URGENT)
    s.send(b"abc")
    s.send(b"d", socket.MSG_OOB)
    s.send(b"ef.")
    print(b"".join(iter(lambda: s.recv(1), b".")).decode())
    print(len(select.select([], [], [s], 10)[2]))
    s.setblocking(True)
    print(s.recv(1, socket.MSG_OOB).decode())


def both_ways(address):
    """100 MB each way at once, nothing lost, doubled or mixed."""
    s = dial(address, DIGEST, 120)
    s.setblocking(False)
    sent, got, data, outgoing, todo = hashlib.sha256(), hashlib.sha256(), b"", b"", list(range(100))
    total, tail = 0, b""
    waiting = select.POLLIN | select.POLLOUT
    poll = select.poll()
    poll.register(s, waiting)
    while True:
        for _, ready in poll.poll(60000) or sys.exit("stalled"):
            if ready & select.POLLOUT:
                if not outgoing and todo:
                    outgoing = memoryview(struct.pack("!I", 99 - todo.pop(0)) + MEGABYTE[4:])
                    sent.update(outgoing)
                if outgoing:
                    outgoing = outgoing[s.send(outgoing):]
                if not outgoing and not todo:
                    s.shutdown(socket.SHUT_WR)
                    poll.modify(s, select.POLLIN)
            if ready & (select.POLLIN | select.POLLHUP):
                data = s.recv(1 << 18)
                total += len(data)
                tail += data
                got.update(tail[:-64])
                tail = tail[-64:]
                if not data:
                    print(total, tail[:32] == got.digest(), tail[32:] == sent.digest())
                    return


def concurrent(address, count="1000"):
    """All open at once, and each gets its own bytes back."""
    more_files()
    flows, left = [], set()
    for i in range(int(count)):
        s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        s.setblocking(False)
        s.connect_ex((address, ECHO))
        flows.append(s)
        left.add(s.fileno())
    poll, said, right = select.poll(), {}, 0
    for s in flows:
        poll.register(s, select.POLLOUT)
    byfd = {s.fileno(): (i, s) for i, s in enumerate(flows)}
    while left:
        for fd, ready in poll.poll(30000) or sys.exit("stalled with %d left" % len(left)):
            i, s = byfd[fd]
            if ready & select.POLLOUT:
                s.send(b"flow %d" % i)
                poll.modify(s, select.POLLIN)
            elif ready:
                said[fd] = said.get(fd, b"") + s.recv(100)
                if len(said[fd]) >= len(b"flow %d" % i):
                    right += said[fd] == b"flow %d" % i
                    left.discard(fd)
                    poll.unregister(fd)
    print(len(flows), "open,", right, "right")


def tiny_writes(address):
    s = dial(address, ECHO)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for i in range(3000):
        s.send(bytes([i % 256]))
    s.shutdown(socket.SHUT_WR)
    data = read_all(s)
    print(data[:3000] == bytes(i % 256 for i in range(3000)), data[3000:].decode())


def stalled_reader(address):
    """Fills a connection whose far end reads nothing, says so, and goes on at a line on stdin."""
    s = dial(address, STALL)
    s.setblocking(False)
    poll = select.poll()
    poll.register(s, select.POLLOUT)
    total = 0
    while poll.poll(1000):
        try:
            total += s.send(MEGABYTE)
        except BlockingIOError:
            pass
    print("full", total < 200e6, flush=True)
    sys.stdin.readline()
    dial(address, RELEASE).close()
    s.setblocking(True)
    s.shutdown(socket.SHUT_WR)
    print(int(read_all(s)) == total)


def datagrams(address):
    """Of every size that UDP has; each comes back whole."""
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(10)
    s.connect((address, UDP))
    for size in 1, 0, 1400, 1473, 8000, 40000, 65487, 65507:
        s.send(os.urandom(size) if size < 65487 else MEGABYTE[:size])
        print(size, len(s.recv(70000)))
    free = socket.socket(s.family, socket.SOCK_DGRAM)
    free.settimeout(10)
    for i in range(20):
        free.sendto(b"%d" % i, (address, UDP))
        data, peer = free.recvfrom(100)
        assert data == b"%d" % i and peer[:2] == (address, UDP), (data, peer)
    print("peer is who was asked")


def errors(*addresses):
    """The errno of a connect: blocking, not blocking, and by UDP (where the first datagram may have to tell)."""
    for address in addresses:
        host, _, port = address.partition("/")
        port = int(port or ECHO)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        said = []
        for how in "blocking", "nonblocking", "udp":
            s = socket.socket(family, socket.SOCK_DGRAM if how == "udp" else socket.SOCK_STREAM)
            s.settimeout(20)
            if how == "nonblocking":
                s.setblocking(False)
            e = s.connect_ex((host, port))
            if e == errno.EINPROGRESS:
                select.select([], [s], [], 20)
                e = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if how == "udp" and not e:
                try:
                    s.send(b"x")
                    s.recv(1)
                except OSError as error:
                    e = error.errno
            said.append(errno.errorcode.get(e, str(e)))
        print(address, *said)


def beside_silence(silent, address):
    """Destinations that never answer delay nobody."""
    pending = []
    for port in range(50):
        s = socket.socket()
        s.setblocking(False)
        assert s.connect_ex((silent, 7000 + port)) == errno.EINPROGRESS
        pending.append(s)
    start = time.monotonic()
    for _ in range(20):
        s = dial(address, ECHO)
        s.sendall(b"x")
        assert s.recv(1) == b"x"
    took = time.monotonic() - start
    still = select.select([], pending, [], 0)[1]
    print("soon" if took < 2 else took, "pending" if not still else "answered")


def keepalive(address):
    """A connection that keeps itself alive is not taken for a dead one."""
    s = dial(address, ECHO)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT:
        s.setsockopt(socket.IPPROTO_TCP, option, 1)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1500)
    quiet = not select.select([s], [], [], 3)[0]
    s.sendall(b"still here")
    print(quiet, s.recv(100).decode())


if sys.argv[1] == "serve":
    asyncio.run(serve())
else:
    globals()[sys.argv[1]](*sys.argv[2:])
