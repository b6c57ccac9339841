"""The header that tells an endpoint who its client is: PROXY protocol, version 2 (haproxy's doc/proxy-protocol.txt). Pure."""

import struct
from typing import Final

from proxy.addresses import pack_ip

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_PROXIED: Final = 0x21  # version 2, command PROXY
_STREAM: Final = 0x1
_FAMILIES: Final = {4: 0x10, 16: 0x20}


def proxy_header(client: tuple[str, int], asked: tuple[str, int]) -> bytes:
    """Return the header of a TCP connection from a client to a frontend, both as canonical address and port."""
    source, destination = pack_ip(client[0]), pack_ip(asked[0])
    ports = struct.pack(">HH", client[1], asked[1])
    addresses = source + destination + ports
    kind = _FAMILIES[len(source)] | _STREAM
    return _SIGNATURE + struct.pack(">BBH", _PROXIED, kind, len(addresses)) + addresses
