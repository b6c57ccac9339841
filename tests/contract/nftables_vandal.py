"""What our tables may look like when a process starts: after a crash, an older version, or an administrator's hand.

Each act is a transaction; one that the kernel refuses, because something refers to what should go, does nothing.
"""

import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from backends.kernel import nft_elements, nft_messages
from backends.kernel.nft import Nft, Refused
from backends.kernel.nft_elements import Data, Element
from backends.kernel.nft_expressions import Lookup, Verdict, pack_expressions
from backends.kernel.nft_messages import BaseChain, Set
from backends.kernel.nft_node import SERVICE_CIDRS
from backends.kernel.nft_numbers import (
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    REG_VERDICT,
    Hook,
    VerdictCode,
)
from backends.kernel.nft_phrases import destination_in
from backends.kernel.nft_userdata import VERDICT_TYPE
from backends.nftables.model import (
    CLUSTER_IPS,
    FIREWALL,
    GUARDED,
    HAIRPIN,
    REFUSED,
    SERVICES,
    TABLE,
)
from proxy.model import Family
from proxy.netlink.codec import Request

T = TypeVar("T")
Act = Callable[[Nft, random.Random, int], list[Request]]
MOST_ACTS: Final = 4


def vandalise(nft: Nft, rng: random.Random, acts: Sequence[Act]) -> None:
    """Commit some of these acts to the tables of both families, or the only one."""
    for number in (NFPROTO_IPV4, NFPROTO_IPV6):
        count = 1 if len(acts) == 1 else rng.randint(0, MOST_ACTS)
        for act in rng.choices(acts, k=count):
            if nft.find_table(number, TABLE) is None:
                nft.commit([nft_messages.new_table(number, TABLE)])
            with contextlib.suppress(Refused):
                nft.commit(act(nft, rng, number))


def lose_elements(nft: Nft, rng: random.Random, number: int) -> list[Request]:
    found = _set(nft, rng, number)
    return _delete(number, found, _some(rng, _elements(nft, number, found))) if found else []


def add_elements(nft: Nft, rng: random.Random, number: int) -> list[Request]:
    """Elements nobody asked for: some new, some beyond the slots of a pool."""
    found = _set(nft, rng, number)
    if found is None:
        return []
    there = _elements(nft, number, found)
    keys = [rng.randbytes(found.key_length) for _ in range(3)]
    keys += [key[:-4] + bytes([rng.randint(0, 9), 0, 0, 0]) for key in _some(rng, there)]
    data = _data(nft, rng, number, found)
    return _add(number, found, [Element(key, data) for key in keys if key not in there])


def change_elements(nft: Nft, rng: random.Random, number: int) -> list[Request]:
    found = _set(nft, rng, number)
    keys = _some(rng, _elements(nft, number, found)) if found else []
    if found is None or found.data_type is None or not keys:
        return []
    data = _data(nft, rng, number, found)
    return [
        *_delete(number, found, keys),
        *_add(number, found, [Element(key, data) for key in keys]),
    ]


def add_catch_all(nft: Nft, rng: random.Random, number: int) -> list[Request]:
    found = _set(nft, rng, number)
    if found is None or b"" in _elements(nft, number, found):
        return []
    return _add(number, found, [Element(b"", _data(nft, rng, number, found))])


def add_rule(nft: Nft, rng: random.Random, number: int) -> list[Request]:
    name = _chain(nft, rng, number)
    rule = pack_expressions([Verdict(VerdictCode.ACCEPT)])
    return [nft_messages.new_rule(number, TABLE, name, rule, "let it pass")] if name else []


def flush_chain(nft: Nft, rng: random.Random, number: int) -> list[Request]:
    name = _chain(nft, rng, number)
    return [nft_messages.flush_chain(number, TABLE, name)] if name else []


def flush_all_chains(nft: Nft, _rng: random.Random, number: int) -> list[Request]:
    """What `nft flush table` does."""
    chains = nft.list_chains(number, TABLE)
    return [nft_messages.flush_chain(number, TABLE, chain.name) for chain in chains]


def delete_chain(nft: Nft, rng: random.Random, number: int) -> list[Request]:
    name = _chain(nft, rng, number)
    return [nft_messages.del_chain(number, TABLE, name)] if name else []


def delete_half(nft: Nft, rng: random.Random, number: int) -> list[Request]:
    """A table that somebody was taking apart: no rules, and sets or chains missing."""
    sets = _some(rng, [found.name for found in nft.list_sets(number, TABLE)])
    chains = nft.list_chains(number, TABLE)
    gone = _some(rng, [chain.name for chain in chains if chain.base is not None])
    return [
        *flush_all_chains(nft, rng, number),
        *[nft_messages.del_set(number, TABLE, name) for name in sets],
        *[nft_messages.del_chain(number, TABLE, name) for name in gone],
    ]


def delete_table(_nft: Nft, _rng: random.Random, number: int) -> list[Request]:
    return [nft_messages.del_table(number, TABLE)]


def make_dormant(_nft: Nft, _rng: random.Random, number: int) -> list[Request]:
    return [nft_messages.new_table(number, TABLE, is_dormant=True)]


def misuse_names(_nft: Nft, rng: random.Random, number: int) -> list[Request]:
    """Another layout under our names: sets of another shape, chains at other hooks."""
    name = rng.choice(
        [SERVICES, CLUSTER_IPS, HAIRPIN, REFUSED, SERVICE_CIDRS, GUARDED, FIREWALL, "ranges-24"]
    )
    hooked = rng.choice(["prerouting", "pick-tcp-2", "cluster-ip"])
    where = rng.choice(
        [
            BaseChain("nat", Hook.PREROUTING, -90),
            BaseChain("nat", Hook.INPUT, 100),
            BaseChain("filter", Hook.PREROUTING, -100, 0),
        ]
    )
    return [
        nft_messages.del_table(number, TABLE),
        nft_messages.new_table(number, TABLE),
        nft_messages.new_set(
            number, TABLE, name, key_type=7, key_length=rng.choice([4, 8]), size=rng.choice([0, 9])
        ),
        nft_messages.new_chain(number, TABLE, hooked, where),
    ]


def limit_set(nft: Nft, rng: random.Random, number: int) -> list[Request]:
    """A set that takes no more, where the kernel lets that be changed."""
    found = _set(nft, rng, number)
    if found is None:
        return []
    return [
        nft_messages.new_set(
            number,
            TABLE,
            found.name,
            key_type=found.key_type,
            key_length=found.key_length,
            data_type=found.data_type,
            data_length=found.data_length,
            flags=found.flags,
            size=len(_elements(nft, number, found)) or 1,
        )
    ]


def set_policy(_nft: Nft, _rng: random.Random, number: int) -> list[Request]:
    base = BaseChain("nat", Hook.PREROUTING, -100, 0)
    return [nft_messages.new_chain(number, TABLE, "prerouting", base)]


def add_strangers(_nft: Nft, rng: random.Random, number: int) -> list[Request]:
    """Chains and sets of somebody else in our table, which refer to each other in every way."""
    names = ["stranger", "pick-tcp-3", "pick-udp-64"]
    rng.shuffle(names)
    first, second, third = names
    family: Family = "IPv4" if number == NFPROTO_IPV4 else "IPv6"
    address = 4 if number == NFPROTO_IPV4 else 16
    key = rng.randbytes(address)
    to_third = Element(key, (VerdictCode.GOTO, third))
    look_up = [destination_in(family, CLUSTER_IPS)[0], Lookup("crowd", data_register=REG_VERDICT)]
    return [
        *[nft_messages.new_chain(number, TABLE, name) for name in names],
        nft_messages.new_set(
            number, TABLE, "crowd", key_type=7, key_length=address, data_type=VERDICT_TYPE
        ),
        *nft_elements.new_elements(number, TABLE, "crowd", [nft_elements.pack_element(to_third)]),
        nft_messages.new_rule(
            number, TABLE, first, pack_expressions([Verdict(VerdictCode.JUMP, second)])
        ),
        nft_messages.new_rule(number, TABLE, second, pack_expressions(look_up)),
    ]


ACTS: Final[tuple[Act, ...]] = (
    lose_elements, lose_elements, lose_elements, add_elements, add_elements, change_elements, change_elements,
    add_catch_all, add_rule, flush_chain, flush_all_chains, delete_chain, delete_half, delete_table, make_dormant,
    misuse_names, limit_set, set_policy, add_strangers, add_strangers,
)  # fmt: skip


def _some(rng: random.Random, things: list[T]) -> list[T]:
    return rng.sample(things, min(len(things), rng.randint(1, 4)))


def _set(nft: Nft, rng: random.Random, number: int) -> Set | None:
    found = sorted(nft.list_sets(number, TABLE), key=lambda one: one.name)
    return rng.choice(found) if found else None


def _chain(nft: Nft, rng: random.Random, number: int) -> str:
    names = sorted([chain.name for chain in nft.list_chains(number, TABLE)])
    return rng.choice(names) if names else ""


def _elements(nft: Nft, number: int, found: Set) -> list[bytes]:
    parts = nft.list_elements(number, TABLE, found.name)
    return sorted([key for part in parts for key, _ in part])


def _data(nft: Nft, rng: random.Random, number: int, found: Set) -> Data:
    if found.data_type is None:
        return None
    if found.data_type != VERDICT_TYPE:
        return rng.randbytes(found.data_length)
    chains = [chain.name for chain in nft.list_chains(number, TABLE) if chain.base is None]
    if not chains or rng.random() < 0.3:
        return (VerdictCode.DROP, "")
    return (VerdictCode.GOTO, rng.choice(sorted(chains)))


def _add(number: int, found: Set, elements: list[Element]) -> list[Request]:
    packed = [nft_elements.pack_element(element) for element in elements]
    return nft_elements.new_elements(number, TABLE, found.name, packed)


def _delete(number: int, found: Set, keys: list[bytes]) -> list[Request]:
    packed = [nft_elements.pack_key_element(key) for key in keys]
    return nft_elements.del_elements(number, TABLE, found.name, packed)
