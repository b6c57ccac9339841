"""What nftables stores in registers, keys and map elements: raw bytes or a verdict. Pure.

Used by the expressions of rules and by the elements of sets alike.
"""

from typing import Final

from proxy.netlink import codec
from proxy.netlink.codec import Malformed

_DATA_VALUE: Final = 1
_DATA_VERDICT: Final = 2
_VERDICT_CODE: Final = 1
_VERDICT_CHAIN: Final = 2


def pack_verdict(code: int, chain: str = "") -> bytes:
    """Pack the content of a data attribute that is a verdict."""
    target = codec.attr_string(_VERDICT_CHAIN, chain) if chain else b""
    return codec.nested(_DATA_VERDICT, codec.attr_be32(_VERDICT_CODE, code), target)


def parse_verdict(data: bytes | memoryview) -> tuple[int, str]:
    """Read what `pack_verdict` packs. Raises Malformed when it is no verdict."""
    attrs = codec.parse_attrs(data)
    if _DATA_VERDICT not in attrs:
        raise Malformed("not a verdict")
    verdict = codec.parse_attrs(attrs[_DATA_VERDICT])
    if _VERDICT_CODE not in verdict:
        raise Malformed("a verdict without a code")
    code = codec.read_be32(verdict[_VERDICT_CODE])
    chain = codec.read_string(verdict[_VERDICT_CHAIN]) if _VERDICT_CHAIN in verdict else ""
    return code - (1 << 32) if code >= 1 << 31 else code, chain


def pack_value(kind: int, data: bytes) -> bytes:
    """Pack raw data as an attribute of the given kind: keys, masks, values to compare with."""
    return codec.nested(kind, codec.attr(_DATA_VALUE, data))


def parse_value(data: bytes | memoryview) -> bytes:
    """Read what `pack_value` packs, given the attribute's payload. Raises Malformed."""
    attrs = codec.parse_attrs(data)
    if _DATA_VALUE not in attrs:
        raise Malformed("data without a value")
    return bytes(attrs[_DATA_VALUE])
