"""First packets of flows, sent as they are, and which of them passed: for the agreement of an enforcer on a device.

    packets.py NODE PEER < FLOWS        lines "INDEX DIR PROTO ADDR PORT"; prints the INDEX of each that passed

NODE and PEER are network namespaces (names of ip netns) joined by a veth, wf0 and eth0. An out flow is a packet that NODE
sends to ADDR, and it passed when PEER's device sees it; an in flow is a packet from ADDR that PEER sends to NODE, and it
passed when a raw socket of NODE gets it. NODE is 192.0.2.1 and 2001:db8:ffff::1. A frame of a protocol of our own, behind
all the others, ends the wait: packets of one sender on one CPU arrive in order.
"""
import os
import select
import socket
import struct
import sys

from rawnet import checksum, enter

NODE4, NODE6 = "192.0.2.1", "2001:db8:ffff::1"
BARRIER = 0x88B5


def pseudo(src, dst, proto, length):
    if len(src) == 4:
        return src + dst + struct.pack("!BBH", 0, proto, length)
    return src + dst + struct.pack("!IBBBB", length, 0, 0, 0, proto)


def transport(src, dst, proto, own, port, index):
    if proto == 6:
        body = struct.pack("!HHIIBBHHH", own, port, index, 0, 0x50, 2, 1024, 0, 0)
        at = 16
    elif proto == 17:
        body = struct.pack("!HHHHI", own, port, 12, 0, index)
        at = 6
    elif proto == 1 and len(src) == 4 or proto == 58 and len(src) == 16:
        body = struct.pack("!BBHHHI", 8 if proto == 1 else 128, 0, 0, own, 1, index)
        at = 2
    else:
        return struct.pack("!IIQ", 0, index, 0)
    value = checksum(body if proto == 1 else pseudo(src, dst, proto, len(body)) + body)
    if proto == 17 and value == 0:
        value = 0xFFFF
    return body[:at] + struct.pack("!H", value) + body[at + 2:]


def packet(src, dst, proto, body):
    if len(src) == 4:
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, proto, 0, src, dst)
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body
    return struct.pack("!IHBB16s16s", 6 << 28, len(body), proto, 64, src, dst) + body


def index_of(proto, family, body):
    try:
        if proto == 6:
            flags = body[13]
            return struct.unpack_from("!I", body, 4)[0] if flags == 2 else None
        if proto == 17:
            return struct.unpack_from("!I", body, 8)[0]
        if proto == 1 and family == 4 or proto == 58 and family == 6:
            return struct.unpack_from("!I", body, 8)[0] if body[0] in (8, 128) else None
        return struct.unpack_from("!I", body, 4)[0]
    except (struct.error, IndexError):
        return None


def main():
    node, peer = sys.argv[1:3]
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    flows = [line.split() for line in sys.stdin]
    raw = {}
    enter(peer)
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    wire.bind(("eth0", 3))
    peer_mac = wire.getsockname()[4]
    enter(node)
    device = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(BARRIER))
    device.bind(("wf0", BARRIER))
    node_mac = device.getsockname()[4]
    out = {4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
           6: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)}
    for _, _, proto, addr, _ in flows:
        family = 6 if ":" in addr else 4
        if (family, proto) not in raw:
            s = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_RAW, int(proto))
            s.setblocking(False)
            raw[family, proto] = s
    for s in [wire] + list(raw.values()):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    passed = set()
    for number, direction, proto, addr, port in flows:
        family = 6 if ":" in addr else 4
        af = socket.AF_INET6 if family == 6 else socket.AF_INET
        local, remote = socket.inet_pton(af, NODE6 if family == 6 else NODE4), socket.inet_pton(af, addr)
        index, proto, port = int(number), int(proto), int(port)
        if direction == "out":
            body = transport(local, remote, proto, 20000 + index, port, index)
            try:
                out[family].sendto(packet(local, remote, proto, body), (addr, 0))
            except OSError as e:
                if e.errno not in (1, 13, 111, 113):  # a refusal comes back at once
                    raise
        else:
            body = transport(remote, local, proto, 40000 + index, port, index)
            wire.send(node_mac + peer_mac + struct.pack("!H", 0x86DD if family == 6 else 0x0800)
                      + packet(remote, local, proto, body))
    device.send(peer_mac + node_mac + struct.pack("!H", BARRIER) + b"\0" * 46)
    wire.send(node_mac + peer_mac + struct.pack("!H", BARRIER) + b"\0" * 46)
    left = 2
    while left:
        ready, _, _ = select.select([wire, device], [], [], 10)
        if not ready:
            sys.exit("the last frame did not arrive")
        for s in ready:
            data, where = s.recvfrom(65536)
            if where[2] == socket.PACKET_OUTGOING:
                continue
            kind = struct.unpack_from("!H", data, 12)[0]
            if kind == BARRIER:
                left -= 1
            elif s is wire and kind == 0x0800:
                size = (data[14] & 15) * 4
                passed.add(("out", index_of(data[23], 4, data[14 + size:])))
            elif s is wire and kind == 0x86DD:
                passed.add(("out", index_of(data[20], 6, data[54:])))
    for (family, proto), s in raw.items():
        while True:
            try:
                data = s.recv(65536)
            except BlockingIOError:
                break
            body = data[(data[0] & 15) * 4:] if family == 4 else data
            passed.add(("in", index_of(int(proto), family, body)))
    for number, direction, *_ in flows:
        if (direction, int(number)) in passed:
            print(number)


main()
