"""What the scripts that make raw packets share: entering a namespace of ip netns, and the Internet checksum (RFC 1071)."""
import ctypes
import struct

libc = ctypes.CDLL(None, use_errno=True)


def enter(name):
    with open("/run/netns/" + name) as f:
        if libc.setns(f.fileno(), 0) != 0:
            raise OSError(ctypes.get_errno(), "setns " + name)


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
