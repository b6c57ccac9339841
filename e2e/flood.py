"""A program that begins new UDP flows as fast as it can: one datagram from each address and port, no answer awaited.

    flood.py SOURCE-PREFIX ADDRESS PORT

The source is the prefix with a number after it. Prints `ready`, waits for a line, and ends when stdin closes, printing
how many it has sent. Packets are made by hand, so that no socket has to be opened for each flow.

Only the standard library, and little of it: the program runs isolated and should start at once.
"""

import ipaddress
import itertools
import os
import select
import socket
import struct
import sys
from collections.abc import Iterator

_IPV6_HDRINCL = 36  # <linux/in6.h>
_UDP = 17
_BURST = 64
_PORTS = range(1024, 65536)
_HOSTS = range(128, 256)


def checksum(data: bytes) -> int:
    """The internet checksum of an even number of bytes, before it is inverted."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def packets(prefix: str, address: str, port: int) -> Iterator[bytes]:
    """One datagram for each flow, with its headers."""
    target = ipaddress.ip_address(address)
    for host in _HOSTS:
        number = f"{host:x}" if target.version == 6 else str(host)
        source = ipaddress.ip_address(prefix + number).packed
        if target.version == 6:
            head = struct.pack(">IHBB", 6 << 28, 8, _UDP, 64) + source + target.packed
        else:
            head = (
                struct.pack(">BBHHHBBH", 0x45, 0, 28, 0, 0, 64, _UDP, 0) + source + target.packed
            )
        pseudo = source + target.packed + struct.pack(">HHHHH", 0, _UDP, 8, port, 8)
        constant = checksum(pseudo)
        for source_port in _PORTS:
            total = constant + source_port
            total = (total & 0xFFFF) + (total >> 16)
            yield head + struct.pack(">HHHH", source_port, port, 8, (~total & 0xFFFF) or 0xFFFF)


def main(prefix: str, address: str, port: str) -> None:
    """Send until stdin closes."""
    if ":" in address:
        sender = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
        sender.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
        target: tuple[object, ...] = (address, 0, 0, 0)
    else:
        sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        target = (address, 0)
    flows = packets(prefix, address, int(port))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    os.read(0, 4096)
    sent = 0
    while not select.select([0], [], [], 0)[0]:
        for packet in itertools.islice(flows, _BURST):
            sender.sendto(packet, target)
            sent += 1
    sys.stdout.write(f"{sent}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
