"""IP addresses and CIDRs as the API states them: read leniently, printed canonically.

Pure. Objects written years ago hold `010.000.000.001` or `1.2.3.4/28` and still have to work, because the API
server accepts them from old storage. Kubernetes therefore reads leading zeros as decimal, allows host bits in
a CIDR and takes an IPv4-mapped IPv6 address for the IPv4 address inside it; so does this module (the standard
`ipaddress` module refuses the first two and prints the third as IPv6). What comes out is the one canonical
text of a value: dotted decimal without leading zeros, or RFC 5952.

White space is never part of an address; fields in which the API tolerates padding are stripped by the caller.
"""

import re
import struct
from functools import lru_cache
from typing import Final, NamedTuple

from proxy.model import IPV4, IPV6, Family

_OCTET: Final = {str(value): bytes([value]) for value in range(256)}
# Any number of leading zeros is legal; the bound only keeps int() from reading novels.
_DOTTED: Final = re.compile(r"[0-9]{1,32}(?:\.[0-9]{1,32}){3}").fullmatch
_HEXADECIMAL: Final = re.compile(r"[0-9A-Fa-f:]{2,256}").fullmatch
_PREFIX_LENGTH: Final = re.compile(r"[0-9]{1,32}").fullmatch
_MAPPED: Final = bytes(10) + b"\xff\xff"
_GROUPS: Final = struct.Struct(">8H")
_ZERO_RUNS: Final = re.compile(r"\b0(?::0)+\b").finditer


class Address(NamedTuple):
    """An IP address. `packed` is in network byte order, 4 or 16 bytes."""

    text: str
    packed: bytes
    family: Family


class Cidr(NamedTuple):
    """An address range. `text` has its host bits cleared; a zero `prefix_length` means every address of the family."""

    text: str
    family: Family
    prefix_length: int


def parse_ip(text: str) -> Address | None:
    """Return the address that `text` means, or None if it is none."""
    if ":" in text:
        packed = _pack_ipv6(text)
    else:
        packed = pack_canonical_ipv4(text)
        if packed is not None:
            return Address(text, packed, IPV4)
        packed = _pack_ipv4(text)
    return None if packed is None else unpack_ip(packed)


def pack_canonical_ipv4(text: str) -> bytes | None:
    """Return the four bytes of an IPv4 address in its usual spelling; None says nothing about any other text.

    Nearly every address of a cluster passes here at start, and those of pods on one node mostly begin alike.
    """
    network, _, host = text.rpartition(".")
    try:
        return _pack_network(network) + _OCTET[host]
    except (ValueError, KeyError):
        return None


@lru_cache(maxsize=8192)
def _pack_network(text: str) -> bytes:
    """Return the first three bytes of IPv4 addresses that begin so. Raises ValueError or KeyError."""
    a, b, c = text.split(".")
    return _OCTET[a] + _OCTET[b] + _OCTET[c]


def pack_ip(canonical: str) -> bytes:
    """Return the bytes of an address as this module prints it. Raises ValueError for what is none."""
    packed = pack_canonical_ipv4(canonical)
    if packed is None:
        address = parse_ip(canonical)
        if address is None:
            raise ValueError(f"not an address: {canonical}")
        packed = address.packed
    return packed


def unpack_ip(packed: bytes) -> Address:
    """Return the address whose 4 or 16 bytes in network byte order these are; an IPv4-mapped one is IPv4, as above."""
    if len(packed) == 16 and not packed.startswith(_MAPPED):
        return Address(_format_ipv6(packed), packed, IPV6)
    packed = packed[-4:]
    return Address("{}.{}.{}.{}".format(*packed), packed, IPV4)


def parse_cidr(text: str) -> Cidr | None:
    """Return the range that `text` means, or None if it is none: an address without `/length` is no range."""
    host, slash, length_text = text.partition("/")
    if not slash or not _PREFIX_LENGTH(length_text):
        return None
    packed = _pack_ipv6(host) if ":" in host else pack_canonical_ipv4(host) or _pack_ipv4(host)
    length = int(length_text)
    if packed is None or length > 8 * len(packed):
        return None
    network = _mask(packed, length)
    address = unpack_ip(network)
    if address.family is IPV4 and len(network) == 16:
        length -= 96
    return Cidr(f"{address.text}/{length}", address.family, length)


@lru_cache(maxsize=4096)
def bounds_of(cidr: str) -> tuple[int, int]:
    """Return the first address of a canonical CIDR and the one beyond its last, as numbers. Raises ValueError."""
    host, _, length = cidr.partition("/")
    packed = pack_ip(host)
    start = int.from_bytes(packed)
    return start, start + (1 << (8 * len(packed) - int(length)))


def join_host_port(ip: str, port: int) -> str:
    """Return `ip:port`, with IPv6 in brackets."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _mask(packed: bytes, length: int) -> bytes:
    host_bits = 8 * len(packed) - length
    return (int.from_bytes(packed) >> host_bits << host_bits).to_bytes(len(packed))


def _pack_ipv4(text: str) -> bytes | None:
    if not _DOTTED(text):
        return None
    try:
        return bytes(map(int, text.split(".")))
    except ValueError:
        return None


def _pack_ipv6(text: str) -> bytes | None:
    if "." in text:
        text, _, dotted = text.rpartition(":")
        packed = _pack_ipv4(dotted)
        if packed is None:
            return None
        text = f"{text}:{packed[:2].hex()}:{packed[2:].hex()}"
    if not _HEXADECIMAL(text):
        return None
    left, elision, right = text.partition("::")
    groups = left.split(":") if left else []
    if elision:
        tail = right.split(":") if right else []
        missing = 8 - len(groups) - len(tail)
        if missing < 1:
            return None
        groups += ["0"] * missing + tail
    # Twice as fast as reading numbers, and good for all but groups with more zeros than they need.
    digits = "".join([group.zfill(4) for group in groups])
    if len(digits) == 32 and len(groups) == 8 and "" not in groups:
        return bytes.fromhex(digits)
    try:
        return _GROUPS.pack(*[int(group, 16) for group in groups])
    except (ValueError, struct.error):  # empty, too many, too few, or above ffff
        return None


def _format_ipv6(packed: bytes) -> str:
    """Format as RFC 5952 says: lower case, and `::` for the first of the longest runs of two or more zero groups."""
    # Formatting in the new style takes twice as long.
    text = "%x:%x:%x:%x:%x:%x:%x:%x" % _GROUPS.unpack(packed)  # noqa: UP031
    if "0:0" not in text:
        return text
    longest = max(_ZERO_RUNS(text), key=_length, default=None)  # of equal ones the first
    if longest is None:
        return text
    start, end = longest.span()
    return f"{text[: start - 1] if start else ''}::{text[end + 1 :]}"


def _length(match: re.Match[str]) -> int:
    return match.end() - match.start()
