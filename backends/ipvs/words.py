"""Elements of our sets in words, much as `nft list` shows them. Pure."""

from typing import Final

from backends.ipvs.model import ALLOWED, BOUND, ELSEWHERE, HAIRPIN, HEALTH_PORTS, MARKING, PLACES
from backends.ipvs.render import read_mark
from backends.kernel.nft_node import NODEPORT_IPS, SERVICE_CIDRS
from backends.kernel.nft_phrases import PROTOCOL_NUMBERS
from backends.kernel.nft_table import Data
from proxy.addresses import unpack_ip
from proxy.model import IPV4, Family

_PROTOCOLS: Final = {number: name.lower() for name, number in PROTOCOL_NUMBERS.items()}
_ADDRESSES: Final = frozenset([BOUND, ELSEWHERE, NODEPORT_IPS])
_NODE_PORT_LENGTH: Final = 8


def element_words(family: Family, set_name: str, key: bytes, data: Data) -> str:
    """Return `externals 203.0.113.1 . tcp . 80 : mark 0x53000005`; bytes that are not as we make them, in hexadecimal."""
    value = (
        f" : mark {read_mark(data):#x}" if isinstance(data, bytes) and set_name in MARKING else ""
    )
    return f"{set_name} {_key_words(family, set_name, key)}{value}"


def _key_words(family: Family, set_name: str, key: bytes) -> str:
    width = 4 if family == IPV4 else 16
    if set_name in _ADDRESSES and len(key) == width:
        return unpack_ip(key).text
    if set_name == SERVICE_CIDRS and len(key) == width + 1:
        word = "before" if key[-1:] == b"\1" else "from"
        return f"{word} {unpack_ip(key[:-1]).text}"
    if set_name == HAIRPIN and len(key) == 2 * width:
        return f"{unpack_ip(key[:width]).text} . {unpack_ip(key[width:]).text}"
    half = len(key) // 2
    if set_name == ALLOWED and half == 2 * width + _NODE_PORT_LENGTH:
        first, last = key[:width], key[half : half + width]
        sources = f"{unpack_ip(first).text}-{unpack_ip(last).text}"
        return f"{sources} . {_frontend_words(key[width:half])}"
    if set_name == HEALTH_PORTS or any(set_name in places.all for places in PLACES.values()):
        return _frontend_words(key)
    return key.hex()


def _frontend_words(key: bytes) -> str:
    protocol = _PROTOCOLS.get(key[-8], str(key[-8]))
    port = int.from_bytes(key[-4:-2], "big")
    address = f"{unpack_ip(key[:-8]).text} . " if len(key) > _NODE_PORT_LENGTH else ""
    return f"{address}{protocol} . {port}"
