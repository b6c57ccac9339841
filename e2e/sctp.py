"""SCTP packets made by hand, for kernels that translate the protocol but have no sockets of it."""

import socket
import struct
from typing import NamedTuple

from e2e.namespace import TopologyError
from e2e.topology import Host

NUMBER = 132
_HEADER = struct.Struct(">HHII")
_INIT = struct.Struct(">BBHIIHHI")


class Heard(NamedTuple):
    """Where a packet came from and to which port it went."""

    source: str
    port: int


def association(source_port: int, port: int) -> bytes:
    """The first packet of an association: an INIT chunk."""
    init = _INIT.pack(1, 0, _INIT.size, 0x01020304, 65535, 1, 1, 1)
    unchecked = _HEADER.pack(source_port, port, 0, 0) + init
    return unchecked[:8] + struct.pack("<I", crc32c(unchecked)) + unchecked[12:]


def crc32c(data: bytes) -> int:
    """The checksum of RFC 9260, appendix A."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def listener(host: Host, family: int) -> socket.socket:
    """A socket that sees every SCTP packet that comes to the host."""
    with host.entered():
        return socket.socket(family, socket.SOCK_RAW, NUMBER)


def send(host: Host, address: str, packet: bytes) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with host.entered(), socket.socket(family, socket.SOCK_RAW, NUMBER) as sender:
        sender.sendto(packet, (address, 0))


def hear(listener: socket.socket, *, within_s: float) -> Heard:
    """The next packet. Raises TimeoutError if there is none, TopologyError if its checksum is wrong."""
    listener.settimeout(within_s)
    packet, sender = listener.recvfrom(4096)
    if listener.family == socket.AF_INET:
        packet = packet[(packet[0] & 15) * 4 :]
    if packet[8:12] != struct.pack("<I", crc32c(packet[:8] + bytes(4) + packet[12:])):
        raise TopologyError("an SCTP packet with a wrong checksum")
    return Heard(sender[0], _HEADER.unpack_from(packet)[1])
