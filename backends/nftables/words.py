"""Elements of our sets and maps in words, much as `nft list` shows them. Pure."""

import ipaddress
import sys
from collections.abc import Sequence
from typing import Final, Literal

from backends.kernel.nft_node import NODEPORT_IPS
from backends.kernel.nft_phrases import PROTOCOL_NUMBERS
from backends.kernel.nft_table import Data
from backends.nftables.model import (
    AFFINITY_ENDPOINTS,
    AFFINITY_ENDPOINTS_LOCAL,
    AFFINITY_NODEPORTS,
    AFFINITY_SERVICES,
    AFFINITY_SLOTS,
    CLUSTER_IPS,
    ENDPOINTS,
    EXTERNAL_IPS,
    GUARDED,
    HAIRPIN,
    NODEPORT_ENDPOINTS,
    PLACES,
)
from backends.nftables.names import form_of
from backends.nftables.ranges import LENGTHS
from proxy.model import IPV4, IPV6, Family

_WORD: Final = 4
_PROTOCOLS: Final = {number: name.lower() for name, number in PROTOCOL_NUMBERS.items()}
_Part = Literal["address", "protocol", "port", "number", "priority"]
_FRONTEND: Final[tuple[_Part, ...]] = ("address", "protocol", "port")
_KEYS: Final[dict[str, tuple[_Part, ...]]] = {
    **{
        name: ("protocol", "port") if kind == "node-port" else _FRONTEND
        for kind, places in PLACES.items()
        for name in (places.verdicts, places.refused)
    },
    **dict.fromkeys(ENDPOINTS.values(), ("address", "port", "number")),
    **dict.fromkeys(NODEPORT_ENDPOINTS.values(), ("port", "number")),
    **dict.fromkeys((CLUSTER_IPS, EXTERNAL_IPS, NODEPORT_IPS), ("address",)),
    HAIRPIN: ("address", "address"),
    GUARDED: _FRONTEND,
    **dict.fromkeys(LENGTHS[IPV6], (*_FRONTEND, "address")),
    AFFINITY_SERVICES: _FRONTEND,
    AFFINITY_NODEPORTS: ("protocol", "port"),
    AFFINITY_SLOTS: ("priority", "number"),
    **dict.fromkeys((AFFINITY_ENDPOINTS, AFFINITY_ENDPOINTS_LOCAL), ("priority",)),
}
_NUMBERS: Final = (AFFINITY_SERVICES, AFFINITY_NODEPORTS, AFFINITY_SLOTS)
_ENDPOINT: Final[tuple[_Part, ...]] = ("address", "port")


def element_words(family: Family, set_name: str, key: bytes, data: Data) -> str:
    """Return `services 10.96.0.80 . tcp . 80 : goto pick-tcp-8`; bytes that are not as we make them, in hexadecimal."""
    value = "" if data is None else f" : {_data_words(family, set_name, data)}"
    return f"{set_name} {_key_words(family, set_name, key)}{value}"


def _key_words(family: Family, set_name: str, key: bytes) -> str:
    if not key:
        return "*"
    if form_of(set_name).is_interval:
        word = "before" if key[-1:] == b"\1" else "from"
        return f"{word} {_address(key[:-1])}"
    return _concatenation(family, _KEYS.get(set_name, ()), key)


def _data_words(family: Family, set_name: str, data: bytes | str) -> str:
    if isinstance(data, str):
        return data
    if set_name in _NUMBERS:
        return _concatenation(family, ("priority",), data)
    is_endpoint = "endpoints" in set_name
    return _concatenation(family, _ENDPOINT if is_endpoint else (), data)


def _concatenation(family: Family, parts: Sequence[_Part], packed: bytes) -> str:
    width = 4 if family == IPV4 else 16
    lengths = [width if part == "address" else _WORD for part in parts]
    if not parts or len(packed) != sum(lengths):
        return packed.hex()
    words, at = [], 0
    for part, length in zip(parts, lengths, strict=True):
        words.append(_word(part, packed[at : at + length]))
        at += length
    return " . ".join(words)


def _word(part: _Part, packed: bytes) -> str:
    match part:
        case "address":
            return _address(packed)
        case "protocol":
            return _PROTOCOLS.get(packed[0], str(packed[0]))
        case "port":
            return str(int.from_bytes(packed[:2], "big"))
        case "priority":
            number = int.from_bytes(packed, sys.byteorder)
            return f"{number >> 16:x}:{number & 0xFFFF:x}"
        case _:
            return str(int.from_bytes(packed, sys.byteorder))


def _address(packed: bytes) -> str:
    if len(packed) == 4:
        return ".".join(map(str, packed))  # a fifth of the time that ipaddress takes
    return str(ipaddress.IPv6Address(packed)) if len(packed) == 16 else packed.hex()
