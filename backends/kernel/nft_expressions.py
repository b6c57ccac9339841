"""The expressions of nftables rules as values: packed as `nft` packs them, and read back from the kernel. Pure.

A rule is a list of expressions that load packet fields into registers, compare, look up and act. Each value here
stands for one; `pack()` gives the bytes of one list entry in NFTA_RULE_EXPRESSIONS, `parse_expressions` turns what the
kernel returns into equal values, although the kernel spells out defaults. What we do not model becomes `Unknown`
and therefore equals nothing we would write. The kernel requirement is at most 5.6 for each of them.
Which rules are made of them is decided by the backends.
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final, NamedTuple

from backends.kernel.nft_data import pack_value, pack_verdict, parse_value, parse_verdict
from backends.kernel.nft_numbers import REG_1, REG_VERDICT, FibResult
from proxy.model import Value
from proxy.netlink import codec
from proxy.netlink.codec import Malformed

_LIST_ELEM: Final = 1
_EXPR_NAME: Final = 1
_EXPR_DATA: Final = 2
_NAT_FLAGS_IMPLIED: Final = 0x1 | 0x2  # address and port are given: the kernel adds them itself


class _Code(NamedTuple):
    """How a value of one type becomes an attribute, and comes back."""

    pack: Callable[[int, Any], bytes]
    parse: Callable[[memoryview], int | str | bytes]


def _read_u8(payload: memoryview) -> int:
    if len(payload) != 1:
        raise Malformed(f"an 8-bit number of {len(payload)} bytes")
    return payload[0]


def _read_bool(payload: memoryview) -> bool:
    number = codec.read_be32(payload)
    if number > 1:
        raise Malformed(f"flags {number:#x} where only one is known")
    return bool(number)


_U8: Final = _Code(lambda kind, value: codec.attr(kind, bytes([value])), _read_u8)
_U32: Final = _Code(codec.attr_be32, codec.read_be32)
_U64: Final = _Code(codec.attr_be64, codec.read_be64)
_BOOL: Final = _Code(codec.attr_be32, _read_bool)
_NAME: Final = _Code(codec.attr_string, codec.read_string)
_DATA: Final = _Code(pack_value, parse_value)
_NAT_FLAGS: Final = _Code(
    codec.attr_be32, lambda payload: codec.read_be32(payload) & ~_NAT_FLAGS_IMPLIED
)
_REQUIRED: Final = object()


class _Field(NamedTuple):
    """One attribute. A value equal to `absent` is not packed, and is what a missing attribute means."""

    kind: int
    name: str
    code: _Code
    absent: object = _REQUIRED


class Expression(Value, frozen=True):
    """Base of all expressions. `fields` are in the order in which `nft` sends the attributes.

    `mirrors` are attributes that only the kernel sends: they repeat the named field, or are 0 where none is named.
    """

    type_name: ClassVar[str]
    fields: ClassVar[tuple[_Field, ...]]
    mirrors: ClassVar[dict[int, str]] = {}

    def pack(self) -> bytes:
        """Return the bytes of one list entry."""
        attrs = [
            field.code.pack(field.kind, value)
            for field in self.fields
            if (value := getattr(self, field.name)) != field.absent
        ]
        return _entry(self.type_name, b"".join(attrs))


def _entry(name: str, data: bytes) -> bytes:
    return codec.nested(
        _LIST_ELEM, codec.attr_string(_EXPR_NAME, name), codec.nested(_EXPR_DATA, data)
    )


class MetaLoad(Expression, frozen=True):
    """Load something known about the packet. The mark is in host byte order."""

    key: int
    register: int = REG_1

    type_name = "meta"
    fields = (_Field(2, "key", _U32), _Field(1, "register", _U32))


class MetaSet(Expression, frozen=True):
    """Change something known about the packet: its mark."""

    key: int
    register: int = REG_1

    type_name = "meta"
    fields = (_Field(2, "key", _U32), _Field(3, "register", _U32))


class Payload(Expression, frozen=True):
    """Load `length` bytes of a header."""

    header: int
    offset: int
    length: int
    register: int = REG_1

    type_name = "payload"
    fields = (
        _Field(1, "register", _U32),
        _Field(2, "header", _U32),
        _Field(3, "offset", _U32),
        _Field(4, "length", _U32),
    )


class Compare(Expression, frozen=True):
    """End the rule here unless the register compares so with the data."""

    operator: int
    data: bytes
    register: int = REG_1

    type_name = "cmp"
    fields = (_Field(1, "register", _U32), _Field(2, "operator", _U32), _Field(3, "data", _DATA))


class Bitwise(Expression, frozen=True):
    """Replace a register by (register & mask) ^ xor."""

    mask: bytes
    xor: bytes
    register: int = REG_1

    type_name = "bitwise"
    fields = (
        _Field(1, "register", _U32),
        _Field(2, "register", _U32),
        _Field(3, "length", _U32),
        _Field(4, "mask", _DATA),
        _Field(5, "xor", _DATA),
    )
    mirrors: ClassVar[dict[int, str]] = {6: ""}  # the operation; 0 is this one, others shift

    @property
    def length(self) -> int:
        return len(self.mask)


class Lookup(Expression, frozen=True):
    """Look a register up in a set, or in a map whose data go to `data_register`. Ends the rule if there is no element.

    With REG_VERDICT the map's verdict is the rule's. `is_inverted`: end the rule if there is one.
    """

    set_name: str
    register: int = REG_1
    data_register: int | None = None
    is_inverted: bool = False

    type_name = "lookup"
    fields = (
        _Field(2, "register", _U32),
        _Field(3, "data_register", _U32, None),
        _Field(1, "set_name", _NAME),
        _Field(5, "is_inverted", _BOOL, False),
    )


class Immediate(Expression, frozen=True):
    """Put fixed data into a register."""

    data: bytes
    register: int = REG_1

    type_name = "immediate"
    fields = (_Field(1, "register", _U32), _Field(2, "data", _DATA))


class Verdict(Expression, frozen=True):
    """Decide about the packet: accept, drop, return, or go on in `chain`."""

    code: int
    chain: str = ""

    type_name = "immediate"
    fields = ()

    def pack(self) -> bytes:
        return _entry(
            self.type_name,
            codec.attr_be32(1, REG_VERDICT) + codec.nested(2, pack_verdict(self.code, self.chain)),
        )


class Numgen(Expression, frozen=True):
    """Generate `offset` + a number below `modulus`, in host byte order."""

    kind: int
    modulus: int
    register: int = REG_1
    offset: int = 0

    type_name = "numgen"
    fields = (
        _Field(1, "register", _U32),
        _Field(2, "modulus", _U32),
        _Field(3, "kind", _U32),
        _Field(4, "offset", _U32),
    )


class Nat(Expression, frozen=True):
    """Translate source or destination to the address, and the port if given, in these registers."""

    kind: int
    family: int
    address_register: int = REG_1
    port_register: int | None = None
    flags: int = 0

    type_name = "nat"
    fields = (
        _Field(1, "kind", _U32),
        _Field(2, "family", _U32),
        _Field(3, "address_register", _U32),
        _Field(5, "port_register", _U32, None),
        _Field(7, "flags", _NAT_FLAGS, 0),
    )
    mirrors: ClassVar[dict[int, str]] = {4: "address_register", 6: "port_register"}


class Masquerade(Expression, frozen=True):
    """Translate the source to the address of the outgoing interface."""

    flags: int = 0

    type_name = "masq"
    fields = (_Field(1, "flags", _U32, 0),)


class Reject(Expression, frozen=True):
    """Answer with an error: an ICMP code of the rule's family, or (without a code) a TCP reset."""

    kind: int
    code: int | None = None

    type_name = "reject"
    fields = (_Field(1, "kind", _U32), _Field(2, "code", _U8, None))


class CtLoad(Expression, frozen=True):
    """Load something known about the connection. Numbers are in host byte order, addresses and ports in network order.

    `direction` (0 original, 1 reply) is needed for addresses and ports, and refused for the rest.
    """

    key: int
    register: int = REG_1
    direction: int | None = None

    type_name = "ct"
    fields = (
        _Field(2, "key", _U32),
        _Field(1, "register", _U32),
        _Field(3, "direction", _U8, None),
    )


class Fib(Expression, frozen=True):
    """Look an address up in the routing tables."""

    flags: int
    result: int = FibResult.TYPE
    register: int = REG_1

    type_name = "fib"
    fields = (
        _Field(3, "flags", _U32),
        _Field(2, "result", _U32),
        _Field(1, "register", _U32),
    )


class Counter(Expression, frozen=True):
    """Count packets and bytes. Read back, it holds the counts of that moment."""

    octets: int = 0
    packets: int = 0

    type_name = "counter"
    fields = (_Field(1, "octets", _U64, 0), _Field(2, "packets", _U64, 0))


class Dynset(Expression, frozen=True):
    """Add, renew or delete an element of a dynamic set or map; `timeout_ms` 0 means the set's own."""

    operation: int
    set_name: str
    key_register: int = REG_1
    data_register: int | None = None
    timeout_ms: int = 0

    type_name = "dynset"
    fields = (
        _Field(4, "key_register", _U32),
        _Field(5, "data_register", _U32, None),
        _Field(3, "operation", _U32),
        _Field(6, "timeout_ms", _U64, 0),
        _Field(1, "set_name", _NAME),
    )
    mirrors: ClassVar[dict[int, str]] = {9: ""}  # flags: inverted, or with an expression


class Unknown(Value, frozen=True):
    """An expression, or a form of one, that is not modelled here; `data` are its attributes as the kernel sent them."""

    type_name: str
    data: bytes

    def pack(self) -> bytes:
        """Return the bytes of one list entry."""
        return _entry(self.type_name, self.data)


AnyExpression = Expression | Unknown

_MODELLED: Final[tuple[type[Expression], ...]] = (
    MetaLoad, MetaSet, Payload, Compare, Bitwise, Lookup, Immediate, Numgen, Nat, Masquerade, Reject, CtLoad,
    Fib, Counter, Dynset,
)  # fmt: skip


def pack_expressions(expressions: Iterable[AnyExpression]) -> bytes:
    """Return the content of a rule's NFTA_RULE_EXPRESSIONS."""
    return b"".join([expression.pack() for expression in expressions])


def parse_expressions(data: bytes | memoryview) -> tuple[AnyExpression, ...]:
    """Read what `pack_expressions` packs, or what the kernel made of it. Raises Malformed."""
    return tuple([_parse_entry(entry) for _, entry in codec.iter_attrs(data)])


def _parse_entry(entry: memoryview) -> AnyExpression:
    attrs = codec.parse_attrs(entry)
    if _EXPR_NAME not in attrs:
        raise Malformed("an expression without a name")
    name = codec.read_string(attrs[_EXPR_NAME])
    data = bytes(attrs.get(_EXPR_DATA, b""))
    content = codec.parse_attrs(data)
    try:
        if name == Verdict.type_name and codec.read_be32(content.get(1, b"")) == REG_VERDICT:
            return Verdict(*parse_verdict(content.get(2, b"")))
    except Malformed:
        return Unknown(name, data)
    for kind in _MODELLED:
        if kind.type_name == name and (value := _parse_as(kind, content)) is not None:
            return value
    return Unknown(name, data)


def _parse_as(kind: type[Expression], attrs: dict[int, memoryview]) -> Expression | None:
    """Return the expression if it is of this kind and says nothing that the kind cannot express."""
    read: list[tuple[str, object]] = []
    rest = {
        number: payload for number, payload in attrs.items() if payload.nbytes
    }  # others are padding
    try:
        for field in kind.fields:
            payload = rest.pop(field.kind, None)
            if payload is None and field.absent is _REQUIRED:
                return None
            read.append(
                (field.name, field.absent if payload is None else field.code.parse(payload))
            )
        # extra names are derived, like the length of a mask; repeated ones must agree
        values = dict(read)
        make: Callable[..., Expression] = kind
        result = make(*[values[name] for name in kind.__struct_fields__])
        read += [
            (kind.mirrors[number], codec.read_be32(payload)) for number, payload in rest.items()
        ]
    except (Malformed, KeyError):
        return None
    is_same = all((getattr(result, name) if name else 0) == value for name, value in read)
    return result if is_same else None
