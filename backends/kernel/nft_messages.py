"""The messages that make, remove and list nftables tables, chains, rules and sets, and what listing returns. Pure.

Builders return requests without sequence numbers; `backends.kernel.nft` sends them. A family is the kernel's number
(NFPROTO_IPV4, NFPROTO_IPV6). Adding is idempotent where the kernel lets it be: an equal table, chain or set is
no error. Elements of sets are in `nft_elements`, a rule's expressions in `nft_expressions`.
"""

import struct
from typing import Final, NamedTuple

from backends.kernel.nft_numbers import MessageKind, SetFlag
from backends.kernel.nft_userdata import (
    CHAIN_COMMENT,
    RULE_COMMENT,
    TABLE_COMMENT,
    VERDICT_TYPE,
    comment_userdata,
    parse_comment,
)
from proxy.model import Value
from proxy.netlink import codec
from proxy.netlink.codec import Malformed, Request, attr, attr_be32, attr_be64, attr_string, nested

_TABLE_NAME: Final = 1
_TABLE_FLAGS: Final = 2
_TABLE_HANDLE: Final = 4
_TABLE_DORMANT: Final = 0x1
_TABLE_USERDATA: Final = 6

_CHAIN_TABLE: Final = 1
_CHAIN_HANDLE: Final = 2
_CHAIN_NAME: Final = 3
_CHAIN_HOOK: Final = 4
_CHAIN_POLICY: Final = 5
_CHAIN_TYPE: Final = 7
_CHAIN_USERDATA: Final = 12
_HOOK_NUMBER: Final = 1
_HOOK_PRIORITY: Final = 2

_RULE_TABLE: Final = 1
_RULE_CHAIN: Final = 2
_RULE_HANDLE: Final = 3
_RULE_EXPRESSIONS: Final = 4
_RULE_USERDATA: Final = 7

_SET_TABLE: Final = 1
_SET_NAME: Final = 2
_SET_FLAGS: Final = 3
_SET_KEY_TYPE: Final = 4
_SET_KEY_LENGTH: Final = 5
_SET_DATA_TYPE: Final = 6
_SET_DATA_LENGTH: Final = 7
_SET_DESCRIPTION: Final = 9
_SET_ID: Final = 10
_SET_TIMEOUT: Final = 11
_SET_USERDATA: Final = 13
_SET_HANDLE: Final = 16
_DESCRIPTION_SIZE: Final = 1
_DESCRIPTION_CONCAT: Final = 2
_LIST_ELEM: Final = 1
_FIELD_LENGTH: Final = 1

_GENERATION_ID: Final = 1

_NFGENMSG: Final = struct.Struct(">BBH")  # family, version 0, resource
_NFNL_SUBSYS_NFTABLES: Final = 10
_S32: Final = struct.Struct(">i")


class BaseChain(NamedTuple):
    """How a chain is hooked into the packet's path. `policy` is the verdict on what no rule decides about."""

    type: str
    hook: int
    priority: int
    policy: int = 1


class Table(Value, frozen=True):
    family: int
    name: str
    handle: int
    flags: int = 0
    comment: str = ""


class Chain(Value, frozen=True):
    """A chain; `base` is None for one that is only jumped to."""

    family: int
    table: str
    name: str
    handle: int
    base: BaseChain | None = None
    comment: str = ""


class Rule(Value, frozen=True):
    """A rule; `expressions` are for `nft_expressions.parse_expressions`."""

    family: int
    table: str
    chain: str
    handle: int
    comment: str = ""
    expressions: bytes = b""


class Set(Value, frozen=True, kw_only=True):
    """A set or map. Lengths are those given to `new_set`: for verdicts 0, though the kernel returns 16.

    `size` 0 means unlimited; for sets that rules fill, the kernel chooses 65535 itself.
    """

    family: int
    table: str
    name: str
    handle: int
    key_type: int
    key_length: int
    data_type: int | None = None
    data_length: int = 0
    flags: int = 0
    size: int = 0
    timeout_ms: int = 0
    field_lengths: tuple[int, ...] = ()
    userdata: bytes = b""


def batch_begin() -> Request:
    """Start a transaction."""
    return Request(MessageKind.BATCH_BEGIN, 0, _NFGENMSG.pack(0, 0, _NFNL_SUBSYS_NFTABLES))


def batch_end() -> Request:
    """Commit the transaction."""
    return Request(MessageKind.BATCH_END, 0, _NFGENMSG.pack(0, 0, _NFNL_SUBSYS_NFTABLES))


def request(kind: int, family: int, *attrs: bytes, flags: int = 0) -> Request:
    """Return a request to nf_tables with these attributes."""
    return Request(kind, flags, b"".join((_NFGENMSG.pack(family, 0, 0), *attrs)))


def new_table(family: int, name: str, comment: str = "", *, is_dormant: bool = False) -> Request:
    """Make a table. The chains of a dormant one are not hooked in: no packet sees them."""
    flags = _TABLE_DORMANT if is_dormant else 0
    attrs = [attr_string(_TABLE_NAME, name), attr_be32(_TABLE_FLAGS, flags)]
    attrs += _userdata(_TABLE_USERDATA, comment_userdata(TABLE_COMMENT, comment))
    return request(MessageKind.NEWTABLE, family, *attrs, flags=codec.NLM_F_CREATE)


def del_table(family: int, name: str) -> Request:
    """Remove a table with everything in it."""
    return request(MessageKind.DELTABLE, family, attr_string(_TABLE_NAME, name))


def new_chain(
    family: int, table: str, name: str, base: BaseChain | None = None, comment: str = ""
) -> Request:
    attrs = [attr_string(_CHAIN_TABLE, table), attr_string(_CHAIN_NAME, name)]
    if base is not None:
        hook = nested(
            _CHAIN_HOOK,
            attr_be32(_HOOK_NUMBER, base.hook),
            attr_be32(_HOOK_PRIORITY, base.priority),
        )
        attrs += [attr_string(_CHAIN_TYPE, base.type), attr_be32(_CHAIN_POLICY, base.policy), hook]
    attrs += _userdata(_CHAIN_USERDATA, comment_userdata(CHAIN_COMMENT, comment))
    return request(MessageKind.NEWCHAIN, family, *attrs, flags=codec.NLM_F_CREATE)


def flush_chain(family: int, table: str, name: str) -> Request:
    """Remove all rules of a chain."""
    attrs = (attr_string(_RULE_TABLE, table), attr_string(_RULE_CHAIN, name))
    return request(MessageKind.DELRULE, family, *attrs)


def del_chain(family: int, table: str, name: str) -> Request:
    """Remove a chain with its rules. Refused with EBUSY while a rule or an element refers to it."""
    attrs = (attr_string(_CHAIN_TABLE, table), attr_string(_CHAIN_NAME, name))
    return request(MessageKind.DELCHAIN, family, *attrs)


def new_rule(
    family: int, table: str, chain: str, expressions: bytes, comment: str = ""
) -> Request:
    """Append a rule; `expressions` come from `nft_expressions.pack_expressions`."""
    attrs = [
        attr_string(_RULE_TABLE, table),
        attr_string(_RULE_CHAIN, chain),
        nested(_RULE_EXPRESSIONS, expressions),
    ]
    attrs += _userdata(_RULE_USERDATA, comment_userdata(RULE_COMMENT, comment))
    return request(
        MessageKind.NEWRULE, family, *attrs, flags=codec.NLM_F_CREATE | codec.NLM_F_APPEND
    )


def del_rule(family: int, table: str, chain: str, handle: int) -> Request:
    attrs = (
        attr_string(_RULE_TABLE, table),
        attr_string(_RULE_CHAIN, chain),
        attr_be64(_RULE_HANDLE, handle),
    )
    return request(MessageKind.DELRULE, family, *attrs)


def new_set(
    family: int,
    table: str,
    name: str,
    *,
    key_type: int,
    key_length: int,
    data_type: int | None = None,
    data_length: int = 0,
    flags: int = 0,
    size: int = 0,
    timeout_ms: int = 0,
    field_lengths: tuple[int, ...] = (),
    userdata: bytes = b"",
) -> Request:
    """Make a set, or with a data type a map. Types, lengths and userdata come from `nft_userdata.declare`.

    `field_lengths` are sent only where the kernel uses them: ranges in every part of a concatenation.
    """
    if data_type is not None:
        flags |= SetFlag.MAP
    is_concatenated_interval = bool(flags & SetFlag.INTERVAL) and len(field_lengths) > 1
    if is_concatenated_interval:
        flags |= SetFlag.CONCAT
    attrs = [
        attr_string(_SET_TABLE, table),
        attr_string(_SET_NAME, name),
        attr_be32(_SET_FLAGS, flags),
        attr_be32(_SET_KEY_TYPE, key_type),
        attr_be32(_SET_KEY_LENGTH, key_length),
    ]
    if data_type is not None:
        attrs += [attr_be32(_SET_DATA_TYPE, data_type), attr_be32(_SET_DATA_LENGTH, data_length)]
    # Obligatory. It would name the set within its transaction; we name sets by their names.
    attrs.append(attr_be32(_SET_ID, 1))
    description = [attr_be32(_DESCRIPTION_SIZE, size)] if size else []
    if is_concatenated_interval:
        fields = [nested(_LIST_ELEM, attr_be32(_FIELD_LENGTH, length)) for length in field_lengths]
        description.append(nested(_DESCRIPTION_CONCAT, *fields))
    if description:
        attrs.append(nested(_SET_DESCRIPTION, *description))
    if timeout_ms:
        attrs.append(attr_be64(_SET_TIMEOUT, timeout_ms))
    attrs += _userdata(_SET_USERDATA, userdata)
    return request(MessageKind.NEWSET, family, *attrs, flags=codec.NLM_F_CREATE)


def del_set(family: int, table: str, name: str) -> Request:
    """Remove a set with its elements. Refused with EBUSY while a rule looks it up."""
    attrs = (attr_string(_SET_TABLE, table), attr_string(_SET_NAME, name))
    return request(MessageKind.DELSET, family, *attrs)


def list_tables(family: int) -> Request:
    """Ask for all tables of a family (a dump, like all `list_` requests)."""
    return request(MessageKind.GETTABLE, family)


def list_chains(family: int) -> Request:
    """Ask for the chains of all tables of a family: the kernel has no filter for them."""
    return request(MessageKind.GETCHAIN, family)


def list_sets(family: int, table: str) -> Request:
    """Ask for the sets of a table. Refused with ENOENT if there is no such table."""
    return request(MessageKind.GETSET, family, attr_string(_SET_TABLE, table))


def list_rules(family: int, table: str, chain: str | None = None) -> Request:
    """Ask for the rules of a table, or of one chain. There are none where the table or chain is missing."""
    attrs = [attr_string(_RULE_TABLE, table)]
    if chain is not None:
        attrs.append(attr_string(_RULE_CHAIN, chain))
    return request(MessageKind.GETRULE, family, *attrs)


def get_table(family: int, name: str) -> Request:
    """Ask for one table; one reply, or ENOENT (like all `get_` requests)."""
    return request(MessageKind.GETTABLE, family, attr_string(_TABLE_NAME, name))


def get_chain(family: int, table: str, name: str) -> Request:
    attrs = (attr_string(_CHAIN_TABLE, table), attr_string(_CHAIN_NAME, name))
    return request(MessageKind.GETCHAIN, family, *attrs)


def get_set(family: int, table: str, name: str) -> Request:
    attrs = (attr_string(_SET_TABLE, table), attr_string(_SET_NAME, name))
    return request(MessageKind.GETSET, family, *attrs)


def get_generation() -> Request:
    """Ask for the number that every transaction in the network namespace increases."""
    return request(MessageKind.GETGEN, 0)


def parse_table(payload: bytes | memoryview) -> Table:
    """Read a listed table. Raises Malformed."""
    family, attrs = _parse(payload, _TABLE_NAME, _TABLE_HANDLE)
    return Table(
        family,
        codec.read_string(attrs[_TABLE_NAME]),
        codec.read_be64(attrs[_TABLE_HANDLE]),
        _be32(attrs, _TABLE_FLAGS),
        parse_comment(attrs.get(_TABLE_USERDATA, b""), TABLE_COMMENT),
    )


def parse_chain(payload: bytes | memoryview) -> Chain:
    """Read a listed chain. Raises Malformed."""
    family, attrs = _parse(payload, _CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HANDLE)
    base = None
    if _CHAIN_HOOK in attrs:
        hook = codec.parse_attrs(attrs[_CHAIN_HOOK])
        priority = hook.get(_HOOK_PRIORITY, b"")
        if len(priority) != _S32.size:
            raise Malformed("a hook without a priority")
        base = BaseChain(
            codec.read_string(attrs.get(_CHAIN_TYPE, b"")),
            _be32(hook, _HOOK_NUMBER),
            _S32.unpack(priority)[0],
            _be32(attrs, _CHAIN_POLICY),
        )
    return Chain(
        family,
        codec.read_string(attrs[_CHAIN_TABLE]),
        codec.read_string(attrs[_CHAIN_NAME]),
        codec.read_be64(attrs[_CHAIN_HANDLE]),
        base,
        parse_comment(attrs.get(_CHAIN_USERDATA, b""), CHAIN_COMMENT),
    )


def parse_rule(payload: bytes | memoryview) -> Rule:
    """Read a listed rule. Raises Malformed."""
    family, attrs = _parse(payload, _RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE)
    return Rule(
        family,
        codec.read_string(attrs[_RULE_TABLE]),
        codec.read_string(attrs[_RULE_CHAIN]),
        codec.read_be64(attrs[_RULE_HANDLE]),
        parse_comment(attrs.get(_RULE_USERDATA, b""), RULE_COMMENT),
        bytes(attrs.get(_RULE_EXPRESSIONS, b"")),
    )


def parse_set(payload: bytes | memoryview) -> Set:
    """Read a listed set or map. Raises Malformed."""
    family, attrs = _parse(payload, _SET_TABLE, _SET_NAME, _SET_HANDLE)
    description = codec.parse_attrs(attrs.get(_SET_DESCRIPTION, b""))
    fields = codec.iter_attrs(description.get(_DESCRIPTION_CONCAT, b""))
    data_type = _be32(attrs, _SET_DATA_TYPE) if _SET_DATA_TYPE in attrs else None
    return Set(
        family=family,
        table=codec.read_string(attrs[_SET_TABLE]),
        name=codec.read_string(attrs[_SET_NAME]),
        handle=codec.read_be64(attrs[_SET_HANDLE]),
        key_type=_be32(attrs, _SET_KEY_TYPE),
        key_length=_be32(attrs, _SET_KEY_LENGTH),
        data_type=data_type,
        data_length=0 if data_type == VERDICT_TYPE else _be32(attrs, _SET_DATA_LENGTH),
        flags=_be32(attrs, _SET_FLAGS),
        size=_be32(description, _DESCRIPTION_SIZE),
        timeout_ms=codec.read_be64(attrs[_SET_TIMEOUT]) if _SET_TIMEOUT in attrs else 0,
        field_lengths=tuple([_be32(codec.parse_attrs(f), _FIELD_LENGTH) for _, f in fields]),
        userdata=bytes(attrs.get(_SET_USERDATA, b"")),
    )


def parse_generation(payload: bytes | memoryview) -> int:
    """Read the answer to `get_generation`. Raises Malformed."""
    _, attrs = _parse(payload, _GENERATION_ID)
    return codec.read_be32(attrs[_GENERATION_ID])


def parse_generation_stamp(payload: bytes | memoryview) -> int:
    """Return the lower 16 bits of the generation an answer belongs to; every answer carries them. Raises Malformed."""
    if len(payload) < _NFGENMSG.size:
        raise Malformed(f"an answer of {len(payload)} bytes")
    return int.from_bytes(payload[2:4], "big")


def attributes(payload: bytes | memoryview) -> dict[int, memoryview]:
    """Return the attributes of a request or an answer. Raises Malformed."""
    return codec.parse_attrs(payload, _NFGENMSG.size)


def _parse(payload: bytes | memoryview, *required: int) -> tuple[int, dict[int, memoryview]]:
    attrs = attributes(payload)
    if len(payload) < _NFGENMSG.size or any(kind not in attrs for kind in required):
        raise Malformed(f"an answer without attributes {sorted(set(required) - attrs.keys())}")
    return payload[0], attrs


def _be32(attrs: dict[int, memoryview], kind: int) -> int:
    """Return a number the kernel leaves out when it is 0."""
    return codec.read_be32(attrs[kind]) if kind in attrs else 0


def _userdata(kind: int, userdata: bytes) -> list[bytes]:
    return [attr(kind, userdata)] if userdata else []
