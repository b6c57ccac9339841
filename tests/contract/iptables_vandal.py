"""What our chains and sets may look like when a process starts: after a crash, an older version, or an administrator's hand.

Each act is a call of a program or a message about sets; one that is refused, because something refers to what should go, does
nothing. Rules of others are left alone, and so are the marks of our rules: whoever changes a rule and leaves its mark and the
number of rules as they are is not noticed, which is the price of not comparing texts.
"""

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from backends.iptables.model import TABLES, Table
from backends.iptables.sets import fixed_sets
from backends.kernel import ipset_messages
from backends.kernel.ipset import Ipset
from backends.kernel.ipset_objects import IpSet, Member, SetKind
from backends.kernel.xtables import Refused, Xtables
from backends.kernel.xtables_text import Chain
from proxy.model import FAMILIES, Family
from proxy.netlink.codec import Request

T = TypeVar("T")
MOST_ACTS: Final = 4


class Scene(NamedTuple):
    """The doors to a machine, and chance."""

    ipset: Ipset
    doors: Mapping[Family, Xtables]
    rng: random.Random


class TableNow(NamedTuple):
    """A table of one family, as it is."""

    door: Xtables
    name: Table
    chains: dict[str, Chain]

    @property
    def own(self) -> list[str]:
        return sorted(name for name in self.chains if name.startswith("SLICEPROXY-"))

    def jumps(self) -> list[tuple[str, str]]:
        return [
            (name, rule)
            for name, chain in self.chains.items()
            if chain.policy is not None
            for rule in chain.rules
            if "SLICEPROXY-" in rule
        ]

    def write(self, *lines: str) -> None:
        with contextlib.suppress(Refused):
            self.door.restore(self.name, lines)


Act = Callable[[Scene, Family], None]


def vandalise(scene: Scene, acts: Sequence[Act]) -> None:
    """Do some of these acts in both families, or the only one."""
    for family in FAMILIES:
        count = 1 if len(acts) == 1 else scene.rng.randint(0, MOST_ACTS)
        for act in scene.rng.choices(acts, k=count):
            act(scene, family)


def lose_members(scene: Scene, family: Family) -> None:
    name, members = _a_set(scene, family)
    if name:
        _tell(scene, *[ipset_messages.delete(name, each) for each in _some(scene.rng, members)])


def add_members(scene: Scene, family: Family) -> None:
    name, _ = _a_set(scene, family)
    known = fixed_sets(family).get(name)
    if known is not None:
        members = [_member(scene.rng, family, known.kind) for _ in range(3)]
        _tell(scene, *[ipset_messages.add(name, each) for each in members])


def flush_set(scene: Scene, family: Family) -> None:
    name, _ = _a_set(scene, family)
    if name:
        _tell(scene, ipset_messages.flush(name))


def remove_sets(scene: Scene, family: Family) -> None:
    """Those that rules name stay."""
    _tell(scene, *[ipset_messages.destroy(each.name) for each in _sets(scene, family)])


def add_strange_sets(scene: Scene, family: Family) -> None:
    prefix = f"sliceproxy{family[-1]}-"
    made = [
        IpSet(f"{prefix}of-an-older-version", SetKind.PORT, None),
        IpSet(f"{prefix}a-NOBODYS", SetKind.ADDRESS, family, timeout_s=7),
    ]
    _tell(scene, *[ipset_messages.create(each) for each in made])


def misuse_set(scene: Scene, family: Family) -> None:
    """A set of another shape in place of one of ours, which takes that no rule names it."""
    take_apart(scene, family)
    known = scene.rng.choice(list(fixed_sets(family).values()))
    other = known._replace(kind=SetKind.NETWORK, family=family, max_members=9)
    _tell(scene, ipset_messages.destroy(known.name), ipset_messages.create(other))


def flush_chains(scene: Scene, family: Family) -> None:
    table = _table(scene, family)
    table.write(*[f"-F {name}" for name in _some(scene.rng, table.own)])


def flush_all_chains(scene: Scene, family: Family) -> None:
    for name in TABLES:
        table = _table(scene, family, name)
        table.write(*[f"-F {each}" for each in table.own])


def remove_rules(scene: Scene, family: Family) -> None:
    table = _table(scene, family)
    for name in _some(scene.rng, table.own):
        rules = table.chains[name].rules
        if rules:
            table.write(f"-D {name} {scene.rng.choice(rules)}")


def add_rules(scene: Scene, family: Family) -> None:
    """More than others take away, so that the number is another."""
    table = _table(scene, family)
    for name in _some(scene.rng, table.own):
        verb = scene.rng.choice("AI")
        table.write(*[f"-{verb} {name} -p tcp -j RETURN"] * (MOST_ACTS + 1))


def delete_chains(scene: Scene, family: Family) -> None:
    table = _table(scene, family)
    for name in _some(scene.rng, table.own):
        table.write(f"-F {name}", f"-X {name}")


def remove_jumps(scene: Scene, family: Family) -> None:
    table = _table(scene, family)
    for chain, rule in _some(scene.rng, table.jumps()):
        table.write(f"-D {chain} {rule}")


def double_jumps(scene: Scene, family: Family) -> None:
    table = _table(scene, family)
    for chain, rule in _some(scene.rng, table.jumps()):
        table.write(f"-A {chain} {rule}")


def add_strangers(scene: Scene, family: Family) -> None:
    """Chains under our names that lead to each other, from a built-in one too, as an older version may have had."""
    table = _table(scene, family)
    first, second = (f"SLICEPROXY-OLD-{letter}" for letter in "AB")
    table.write(
        f":{first} - [0:0]",
        f":{second} - [0:0]",
        f"-A {first} -p tcp -j {second}",
        f"-A {second} -p udp -j RETURN",
        f"-A OUTPUT -p tcp -j {first}",
    )


def take_apart(scene: Scene, family: Family) -> None:
    """All rules are gone; sets are left, some of them empty or gone."""
    for name in TABLES:
        table = _table(scene, family, name)
        table.write(
            *[f"-D {chain} {rule}" for chain, rule in table.jumps()],
            *[f":{each} - [0:0]" for each in table.own],
            *[f"-X {each}" for each in table.own],
        )
    sets = [each.name for each in _sets(scene, family)]
    _tell(scene, *[ipset_messages.destroy(name) for name in _some(scene.rng, sets)])


ACTS: Final[tuple[Act, ...]] = (
    lose_members, lose_members, add_members, add_members, flush_set, remove_sets, add_strange_sets, misuse_set,
    flush_chains, flush_chains, flush_all_chains, remove_rules, remove_rules, add_rules, add_rules, delete_chains,
    remove_jumps, double_jumps, add_strangers, take_apart,
)  # fmt: skip


def _some(rng: random.Random, things: Sequence[T]) -> list[T]:
    return rng.sample(things, min(len(things), rng.randint(1, 4)))


def _tell(scene: Scene, *requests: Request) -> None:
    scene.ipset.carry_out(requests)


def _sets(scene: Scene, family: Family) -> list[IpSet]:
    found = [state.set for state in scene.ipset.list_sets()]
    return sorted(each for each in found if each.name.startswith(f"sliceproxy{family[-1]}-"))


def _a_set(scene: Scene, family: Family) -> tuple[str, list[Member]]:
    found = [each.name for each in _sets(scene, family) if each.timeout_s is None]
    if not found:
        return "", []
    name = scene.rng.choice(found)
    return name, sorted(member for piece in scene.ipset.members(name) for member in piece)


def _member(rng: random.Random, family: Family, kind: str) -> Member:
    address = (
        f"10.9.8.{rng.randint(1, 250)}" if family == "IPv4" else f"fd09::{rng.randint(1, 250)}"
    )
    network = f"10.{rng.randint(1, 99)}.0.0/16" if family == "IPv4" else "fd09::/64"
    match SetKind(kind):
        case SetKind.PORT:
            return Member(port=rng.randint(1, 65535))
        case SetKind.ADDRESS:
            return Member(address)
        case SetKind.NETWORK:
            return Member(network)
        case SetKind.ADDRESS_PORT:
            return Member(address, 6, 80)
        case SetKind.ADDRESS_PORT_ADDRESS:
            return Member(address, 6, 80, address)
        case SetKind.ADDRESS_PORT_NETWORK:
            return Member(address, 6, 80, network)


def _table(scene: Scene, family: Family, name: Table | None = None) -> TableNow:
    door = scene.doors[family]
    chosen = scene.rng.choice(TABLES) if name is None else name
    return TableNow(door, chosen, door.save(chosen))
