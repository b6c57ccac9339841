"""Random nftables transactions for property tests: what planners send, and what they must never send.

Tables, chains, sets and keys are few, so that messages meet: much of it is refused. There are no loops of chains, and
nothing at a hook that may not be there; the fake knows nothing of those.
"""

from typing import Final

from hypothesis import strategies as st

from backends.kernel import nft_elements, nft_messages
from backends.kernel.nft_expressions import Expression, Lookup, Payload, Verdict, pack_expressions
from backends.kernel.nft_messages import BaseChain
from backends.kernel.nft_numbers import (
    NFPROTO_IPV4,
    REG_VERDICT,
    Hook,
    PayloadBase,
    VerdictCode,
)
from backends.kernel.nft_userdata import VERDICT_TYPE
from proxy.netlink.codec import Request

TABLES: Final = ("t", "u")
CHAINS: Final = ("a", "b", "c")
"""Each may lead only to later ones."""
BASE_CHAIN: Final = "hook"
SETS: Final = ("members", "data", "verdicts")
MISSING: Final = "missing"
_BASE: Final = BaseChain("nat", Hook.PREROUTING, -100)
_OTHER_BASES: Final = (
    BaseChain("nat", Hook.PREROUTING, -90),
    BaseChain("nat", Hook.OUTPUT, -100),
    BaseChain("filter", Hook.PREROUTING, -100),
    _BASE._replace(policy=0),
)
_DESTINATION: Final = Payload(header=PayloadBase.NETWORK, offset=16, length=4)
_FAMILY: Final = NFPROTO_IPV4

_tables: Final = st.sampled_from([*["t"] * 20, "u"])
_chains: Final = st.sampled_from([*CHAINS * 5, BASE_CHAIN, BASE_CHAIN, MISSING])
_sets: Final = st.sampled_from([*SETS * 5, MISSING])
_KEYS: Final = tuple([number.to_bytes(4, "big") for number in range(6)])
_keys: Final = st.sampled_from(_KEYS)
_MISFITS: Final = (
    nft_elements.pack_data_element(_KEYS[0], bytes(8)),
    nft_elements.pack_key_element(bytes(8)),
    nft_elements.pack_data_element(bytes(2), bytes(4)),
    nft_elements.pack_key_element(b""),
)


def _chain(table: str, name: str, base: BaseChain | None) -> Request:
    return nft_messages.new_chain(_FAMILY, table, name, base)


def _set(table: str, name: str, key_length: int = 4) -> Request:
    data = {"data": (7, 4), "verdicts": (VERDICT_TYPE, 0)}.get(name, (None, 0))
    return nft_messages.new_set(
        _FAMILY,
        table,
        name,
        key_type=7,
        key_length=key_length,
        data_type=data[0],
        data_length=data[1],
    )


FURNISHED: Final[list[Request]] = [
    nft_messages.new_table(_FAMILY, "t"),
    *[_chain("t", name, None) for name in CHAINS],
    _chain("t", BASE_CHAIN, _BASE),
    *[_set("t", name) for name in SETS],
    *nft_elements.new_elements(
        _FAMILY, "t", "members", [nft_elements.pack_key_element(key) for key in _KEYS[:4]]
    ),
    *nft_elements.new_elements(
        _FAMILY, "t", "data", [nft_elements.pack_data_element(key, bytes(4)) for key in _KEYS[:4]]
    ),
    *nft_elements.new_elements(
        _FAMILY, "t", "verdicts", [nft_elements.pack_verdict_element(_KEYS[0], "b")]
    ),
]
"""What most transactions presuppose."""


@st.composite
def _chain_messages(draw: st.DrawFn) -> Request:
    table, name = draw(_tables), draw(_chains)
    make = draw(st.sampled_from(["new", "new", "other", "flush", "del", "del", "del"]))
    if make == "flush":
        return nft_messages.flush_chain(_FAMILY, table, name)
    if make == "del":
        return nft_messages.del_chain(_FAMILY, table, name)
    base = _BASE if name == BASE_CHAIN else None
    return _chain(table, name, draw(st.sampled_from(_OTHER_BASES)) if make == "other" else base)


@st.composite
def _rules(draw: st.DrawFn) -> Request:
    table, name = draw(_tables), draw(_chains)
    later = CHAINS[CHAINS.index(name) + 1 :] if name in CHAINS else CHAINS
    expressions: list[Expression] = []
    if draw(st.booleans()):
        looked_up = draw(st.sampled_from(["members", "members", "data", "data", MISSING]))
        expressions += [_DESTINATION, Lookup(looked_up)]
    if name in (BASE_CHAIN, "a") and draw(st.booleans()):
        expressions += [_DESTINATION, Lookup("verdicts", data_register=REG_VERDICT)]
    elif draw(st.booleans()):
        to = draw(st.sampled_from([*later * 5, BASE_CHAIN, MISSING]))
        expressions.append(
            Verdict(draw(st.sampled_from([VerdictCode.JUMP, VerdictCode.GOTO])), to)
        )
    return nft_messages.new_rule(
        _FAMILY, table, name, pack_expressions(expressions), draw(st.sampled_from(["", "why"]))
    )


@st.composite
def _set_messages(draw: st.DrawFn) -> Request:
    table, name = draw(_tables), draw(_sets)
    if draw(st.booleans()):
        return nft_messages.del_set(_FAMILY, table, name)
    return _set(table, name, draw(st.sampled_from([4, 4, 4, 8])))


@st.composite
def _element_messages(draw: st.DrawFn) -> Request:
    table, name = draw(_tables), draw(_sets)
    keys = draw(st.lists(_keys, min_size=1, max_size=3))
    if draw(st.booleans()):
        packed = [nft_elements.pack_key_element(key) for key in keys]
        return nft_elements.del_elements(_FAMILY, table, name, packed)[0]
    packed = [draw(_elements(name, key)) for key in keys]
    return nft_elements.new_elements(_FAMILY, table, name, packed)[0]


@st.composite
def _elements(draw: st.DrawFn, set_name: str, key: bytes) -> bytes:
    """Return an element for such a set, now and then one that does not belong there."""
    kind = draw(st.sampled_from([*[set_name] * 12, *SETS, "wrong"]))
    if kind == "data":
        value = draw(st.sampled_from([bytes(4), bytes(4), b"\1\1\1\1"]))
        return nft_elements.pack_data_element(key, value)
    if kind == "verdicts":
        chain = draw(st.sampled_from([*["b"] * 5, *["c"] * 5, BASE_CHAIN, MISSING]))
        return nft_elements.pack_verdict_element(key, chain)
    if kind == "wrong":
        return draw(st.sampled_from(_MISFITS))
    return nft_elements.pack_key_element(key)


@st.composite
def _table_messages(draw: st.DrawFn) -> Request:
    name = draw(st.sampled_from(TABLES))
    if draw(st.sampled_from([False, False, True])):
        return nft_messages.del_table(_FAMILY, name)
    return nft_messages.new_table(_FAMILY, name, is_dormant=draw(st.booleans()))


_KINDS: Final = (
    *[_element_messages()] * 10,
    *[_chain_messages()] * 4,
    *[_rules()] * 3,
    *[_set_messages()] * 2,
    _table_messages(),
)
_messages: Final = st.sampled_from(_KINDS).flatmap(lambda kind: kind)


def transactions() -> st.SearchStrategy[list[list[Request]]]:
    """Return transactions to be carried out one after the other; the first makes what the others presuppose."""
    later = st.lists(st.lists(_messages, min_size=1, max_size=3), min_size=1, max_size=8)
    return later.map(lambda some: [FURNISHED, *some])
