"""Raw packets against a guarded device, and which of them the other end got.

    attacks.py NODE PEER in|out [raw|frames]    prints the name of each attack that the receiver saw

NODE and PEER are network namespaces (names of ip netns) joined by eth0 (203.0.113.1 and .2, 2001:db8::1 and ::2). Each
attack carries a mark of its own, which raw sockets of the receiver look for: what its stack delivered, not what the wire
had. "plain" packets end the wait: the policy lets UDP from port 4000 to port 53 pass.
"""
import os
import select
import socket
import struct
import sys
import time

from rawnet import checksum, enter

NODE4, PEER4, NODE6, PEER6 = (socket.inet_pton(f, a) for f, a in (
    (socket.AF_INET, "203.0.113.1"), (socket.AF_INET, "203.0.113.2"),
    (socket.AF_INET6, "2001:db8::1"), (socket.AF_INET6, "2001:db8::2")))
ALLOWED, DENIED = 53, 9999


class Maker:
    def __init__(self, six, src, dst):
        self.six, self.src, self.dst, self.id = six, src, dst, 1

    def sum(self, proto, body, at):
        if proto != 1:
            head = self.src + self.dst + (struct.pack("!II", len(body), proto) if self.six
                                          else struct.pack("!HH", proto, len(body)))
        else:
            head = b""
        return body[:at] + struct.pack("!H", checksum(head + body) or 0xFFFF) + body[at + 2:]

    def udp(self, data, port=DENIED, own=4000):
        return self.sum(17, struct.pack("!4H", own, port, 8 + len(data), 0) + data, 6)

    def tcp(self, data, flags=2, port=DENIED, own=4000):
        return self.sum(6, struct.pack("!HHIIBBHHH", own, port, 7, 9, 0x50, flags, 1024, 0, 0) + data, 16)

    def icmp(self, kind, code, rest, data):
        return self.sum(58 if self.six else 1, struct.pack("!BBH", kind, code, 0) + rest + data, 2)

    def ip(self, proto, body, options=b"", where=0, number=None, total=None, hops=64, src=None, tail=b""):
        """where: the fragment field of IPv4."""
        src = src or self.src
        number = self.id if number is None else number
        if self.six:
            return struct.pack("!IHBB", 6 << 28, len(body) if total is None else total, proto, hops) + src + self.dst + body + tail
        size = 20 + len(options)
        head = struct.pack("!BBHHHBBH", 0x40 | size // 4, 0, size + len(body) if total is None else total, number, where,
                           hops, proto, 0) + src + self.dst + options
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body + tail

    def fragment(self, proto, offset, more, body, number=None):
        """offset in bytes."""
        number = self.id if number is None else number
        if self.six:
            return self.ip(44, struct.pack("!BBHI", proto, 0, offset | more, number) + body)
        return self.ip(proto, body, where=(0x2000 if more else 0) | offset // 8, number=number)


def common(m):
    """What both families have: a name, and the packets around the bytes that the receiver looks for."""
    icmp, error = (58, 1) if m.six else (1, 3)
    echo = 128 if m.six else 8
    yield "udp", lambda d: [m.ip(17, m.udp(d))]
    yield "udp from an allowed port", lambda d: [m.ip(17, m.udp(d, own=53))]
    for name, flags in (("syn", 2), ("syn and ack", 18), ("ack", 16), ("rst", 4), ("fin", 1), ("nothing", 0), ("all", 63)):
        yield "tcp " + name, lambda d, flags=flags: [m.ip(6, m.tcp(d, flags))]
        yield "tcp %s from an allowed port" % name, lambda d, flags=flags: [m.ip(6, m.tcp(d, flags, own=53))]
    yield "echo", lambda d: [m.ip(icmp, m.icmp(echo, 0, b"\0\1\0\1", d))]
    yield "echo reply to nothing", lambda d: [m.ip(icmp, m.icmp(129 if m.six else 0, 0, b"\0\1\0\1", d))]
    quoted = Maker(m.six, m.dst, m.src)
    for kind in (1, 3, 4) if m.six else (3, 11, 12):
        yield "error %d of no flow" % kind, lambda d, kind=kind: [
            m.ip(icmp, m.icmp(kind, 0, bytes(4), quoted.ip(17, quoted.udp(bytes(8), port=7, own=9)) + d))]
        yield "error %d of garbage" % kind, lambda d, kind=kind: [m.ip(icmp, m.icmp(kind, 0, bytes(4), bytes(64) + d))]
    yield "ipip", lambda d: [m.ip(4, Maker(False, b"\1\1\1\1", b"\2\2\2\2").ip(17, m.udp(d, port=ALLOWED)))]
    yield "gre", lambda d: [m.ip(47, struct.pack("!HH", 0, 0x0800) + d)]
    yield "six in four", lambda d: [m.ip(41, Maker(True, NODE6, PEER6).ip(17, m.udp(d, port=ALLOWED)))]
    yield "a protocol without a number", lambda d: [m.ip(253, m.udp(d, port=ALLOWED))]
    yield "udp lite", lambda d: [m.ip(136, m.udp(d, port=ALLOWED))]

    def two(d, order=1, proto=17, first=24):
        body = (m.udp if proto == 17 else m.tcp)(bytes(24) + d)
        return [m.fragment(proto, 0, 1, body[:first]), m.fragment(proto, first, 0, body[first:])][::order]
    yield "udp in fragments", lambda d: two(d)
    yield "udp in fragments, the last one first", lambda d: two(d, -1)
    yield "udp, a tiny first fragment", lambda d: two(d, first=8)
    yield "udp, a tiny first fragment, the last one first", lambda d: two(d, -1, first=8)
    yield "tcp in fragments", lambda d: two(d, proto=6)


def four(m):
    yield from common(m)
    yield "options: nothing", lambda d: [m.ip(17, m.udp(d), options=b"\1" * 40)]
    yield "options: an end, then bytes", lambda d: [m.ip(17, m.udp(d), options=bytes(20) + b"\0\x35" * 10)]
    yield "options: router alert", lambda d: [m.ip(17, m.udp(d), options=b"\x94\4\0\0")]
    yield "options: record route", lambda d: [m.ip(17, m.udp(d), options=b"\7\7\4\0\0\0\0\0")]
    yield "options in which an allowed header lies", lambda d: [
        m.ip(17, m.udp(d), options=b"\x44\x28\x29\0" + struct.pack("!HH", 4000, ALLOWED) * 9)]
    yield "padding behind", lambda d: [m.ip(17, m.udp(d), tail=m.udp(bytes(20), port=ALLOWED))]
    yield "timestamp", lambda d: [m.ip(1, m.icmp(13, 0, b"\0\1\0\1", bytes(12) + d))]
    yield "redirect", lambda d: [m.ip(1, m.icmp(5, 0, bytes(4), m.ip(17, m.udp(bytes(8)))[:28] + d))]
    yield "igmp", lambda d: [m.ip(2, struct.pack("!BBH", 0x11, 0, 0) + bytes(4) + d)]


def six(m):
    yield from common(m)

    def chain(kinds, last, body):
        out = b""
        for i, kind in enumerate(kinds):
            after = kinds[i + 1] if i + 1 < len(kinds) else last
            out += struct.pack("!BB", after, 0) + (bytes(2) + bytes(4) if kind in (43, 44) else b"\1\4\0\0\0\0")
        return kinds[0], out + body
    for name, kinds in (("hop by hop", [0]), ("destination", [60]), ("routing, at its end", [43]),
                        ("an only fragment", [44]), ("destination twice", [60, 60]), ("all", [0, 60, 43, 44, 60]),
                        ("eight", [60] * 8), ("two only fragments", [44, 44])):
        yield "headers: " + name, lambda d, kinds=kinds: [m.ip(*chain(kinds, 17, m.udp(d)))]
    yield "a destination header in the first fragment", lambda d: [
        m.fragment(60, 0, 1, chain([60], 17, m.udp(bytes(24) + d))[1][:40]),
        m.fragment(60, 40, 0, chain([60], 17, m.udp(bytes(24) + d))[1][40:])]
    yield "neighbour discovery of a router away", lambda d: [
        m.ip(58, m.icmp(136, 0, bytes(4) + m.src, d), hops=64)]
    yield "redirect of a router away", lambda d: [m.ip(58, m.icmp(137, 0, bytes(4) + m.src + m.dst, d), hops=64)]
    yield "neighbour discovery in fragments", lambda d: [
        m.ip(44, struct.pack("!BBHI", 58, 0, 1, 99) + m.icmp(136, 0, bytes(4) + m.src, d)[:32], hops=255),
        m.ip(44, struct.pack("!BBHI", 58, 0, 32, 99) + m.icmp(136, 0, bytes(4) + m.src, d)[32:], hops=255)]
    yield "a listener report", lambda d: [m.ip(58, m.icmp(131, 0, bytes(4) + m.src, d), hops=1)]


def tagged(m):
    for name, tags in (("a priority tag", b"\x81\0\0\0"), ("an 802.1ad tag", b"\x88\xa8\0\0"),
                       ("two tags", b"\x88\xa8\0\0\x81\0\0\0")):
        yield "%s, %s" % ("six" if m.six else "four", name), tags, lambda d: m.ip(17, m.udp(d))


def main():
    node, peer, way = sys.argv[1:4]
    frames = way == "in" or sys.argv[4:] == ["frames"]
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    ends = ((PEER4, NODE4), (PEER6, NODE6)) if way == "in" else ((NODE4, PEER4), (NODE6, PEER6))
    enter(peer if way == "out" else node)
    ears = []
    for family, protos in ((socket.AF_INET, (1, 2, 4, 6, 17, 41, 47, 136, 253)), (socket.AF_INET6, (4, 6, 17, 41, 47, 58, 136, 253))):
        for proto in protos:
            s = socket.socket(family, socket.SOCK_RAW, proto)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            s.setblocking(False)
            ears.append(s)
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    ear.bind(("eth0", 0))
    far = ear.getsockname()[4]
    ear.close()
    enter(node if way == "out" else peer)
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    wire.bind(("eth0", 0))
    own = wire.getsockname()[4]
    raw = {4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
           6: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)}
    names, seen = [], set()

    def send(m, packet, tags=b""):
        if frames:
            try:
                wire.send(far + own + tags + (b"\x86\xdd" if m.six else b"\x08\0") + packet)
            except OSError as e:
                if e.errno != 105:  # ENOBUFS: dropped
                    raise
            return
        try:
            raw[6 if m.six else 4].sendto(packet, (socket.inet_ntop(*((socket.AF_INET6, m.dst) if m.six else (socket.AF_INET, m.dst))), 0))
        except OSError as e:
            if e.errno not in (1, 13, 22, 111, 113):  # a refusal comes back at once; EINVAL: not by this way
                raise

    def mark(name):
        names.append(name)
        return b"<lat%04d>" % (len(names) - 1)

    for kind, label, (src, dst) in ((four, "four, ", ends[0]), (six, "six, ", ends[1])):
        m = Maker(kind is six, src, dst)
        for name, make in kind(m):
            m.id += 1
            for packet in make(mark(label + name)):
                send(m, packet)
        if frames:
            for name, tags, make in tagged(m):
                send(m, make(mark(name)), tags)
    m = Maker(False, *ends[0])
    m.id = 4000
    end = b"<last one>"
    until = time.monotonic() + 10
    done = False
    again = 0
    while not done:
        if time.monotonic() > until:
            sys.exit("the last packet did not arrive")
        if time.monotonic() > again:
            send(m, m.ip(17, m.udp(end, port=ALLOWED)))
            again = time.monotonic() + 0.2
        ready, _, _ = select.select(ears, [], [], 0.2)
        for s in ready:
            try:
                data = s.recv(65536)
            except BlockingIOError:
                continue
            done = done or end in data
            at = data.find(b"<lat")
            if at >= 0 and data[at + 8:at + 9] == b">":
                seen.add(int(data[at + 4:at + 8]))
    for s in ears:  # what lies in other sockets
        while True:
            try:
                data = s.recv(65536)
            except BlockingIOError:
                break
            at = data.find(b"<lat")
            if at >= 0 and data[at + 8:at + 9] == b">":
                seen.add(int(data[at + 4:at + 8]))
    for i in sorted(seen):
        print(names[i])


if __name__ == "__main__":
    main()
