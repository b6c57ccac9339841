"""The header of the PROXY protocol."""

import socket

from backends.userspace.proxy_header import proxy_header


def test_an_ipv4_client_is_told_as_the_specification_has_it() -> None:
    assert proxy_header(("192.0.2.1", 4660), ("10.96.0.1", 80)) == (
        b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"
        b"\x21\x11\x00\x0c" + b"\xc0\x00\x02\x01" + b"\x0a\x60\x00\x01" + b"\x12\x34\x00\x50"
    )


def test_an_ipv6_client_has_longer_addresses() -> None:
    header = proxy_header(("2001:db8::1", 1), ("fd00::1", 2))

    assert header[12:16] == b"\x21\x21\x00\x24"
    assert header[16:32] == socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    assert header[32:48] == socket.inet_pton(socket.AF_INET6, "fd00::1")
    assert header[48:] == b"\0\1\0\2"
