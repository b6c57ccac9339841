"""Elements of our sets and maps in words, much as `nft list` shows them. Pure."""

import ipaddress
import sys
from typing import Final

from backends.nftables.model import CLUSTER_IPS, ENDPOINTS, HAIRPIN, REFUSED, SERVICES, Data
from backends.nftables.rules import PROTOCOL_NUMBERS
from proxy.model import IPV4, Family

_WORD: Final = 4
_PROTOCOLS: Final = {number: name.lower() for name, number in PROTOCOL_NUMBERS.items()}


def element_words(family: Family, set_name: str, key: bytes, data: Data) -> str:
    """Return `services 10.96.0.80 . tcp . 80 : goto pick-tcp-8`; bytes that are not as we make them, in hexadecimal."""
    value = "" if data is None else f" : {_data_words(family, set_name, data)}"
    return f"{set_name} {_key_words(family, set_name, key)}{value}"


def _key_words(family: Family, set_name: str, key: bytes) -> str:
    width = 4 if family == IPV4 else 16
    address, rest = _address(key[:width]), key[width:]
    if not key:
        return "*"
    if set_name in (SERVICES, REFUSED) and len(rest) == 2 * _WORD:
        return f"{address} . {_PROTOCOLS.get(rest[0], rest[0])} . {_port(rest[_WORD:])}"
    if set_name in ENDPOINTS.values() and len(rest) == 2 * _WORD:
        return f"{address} . {_port(rest)} . {int.from_bytes(rest[_WORD:], sys.byteorder)}"
    if set_name == CLUSTER_IPS and not rest:
        return address
    if set_name == HAIRPIN and len(rest) == width:
        return f"{address} . {_address(rest)}"
    return key.hex()


def _data_words(family: Family, set_name: str, data: bytes | str) -> str:
    if isinstance(data, str):
        return data
    width = 4 if family == IPV4 else 16
    if set_name in ENDPOINTS.values() and len(data) == width + _WORD:
        return f"{_address(data[:width])} . {_port(data[width:])}"
    return data.hex()


def _address(packed: bytes) -> str:
    if len(packed) == 4:
        return ".".join(map(str, packed))  # a fifth of the time that ipaddress takes
    return str(ipaddress.IPv6Address(packed)) if len(packed) == 16 else packed.hex()


def _port(packed: bytes) -> int:
    return int.from_bytes(packed[:2], "big")
