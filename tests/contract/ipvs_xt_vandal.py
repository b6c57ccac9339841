"""What a crash, an older version or an administrator may have done to our chains of iptables and sets of ipset."""

import random
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from backends.kernel import ipset_messages
from backends.kernel.ipset import Ipset
from backends.kernel.ipset_objects import IpSet, Member, SetKind
from backends.kernel.xtables import Xtables
from proxy.model import FAMILIES, Family
from tests.contract import ipvs_vandal
from tests.contract.ipvs_vandal import Scene

CHAINS: Final = "SLICE-IPVS-"
SETS: Final = ("slice-ipvs4-", "slice-ipvs6-")
TABLES: Final = ("mangle", "filter", "nat")


class XtScene(NamedTuple):
    """What the vandal works with."""

    ipset: Ipset
    doors: Mapping[Family, Xtables]
    rest: Scene

    @property
    def rng(self) -> random.Random:
        return self.rest.rng

    def sets(self) -> list[IpSet]:
        found = [state.set for state in self.ipset.list_sets()]
        return sorted([each for each in found if each.name.startswith(SETS)])

    def some_sets(self) -> list[IpSet]:
        there = self.sets()
        return self.rng.sample(there, min(len(there), 4))

    def members(self, name: str) -> list[Member]:
        return sorted([m for piece in self.ipset.members(name) for m in piece], key=str)


Act = Callable[[XtScene], None]


def vandalise(scene: XtScene, acts: tuple[Act, ...]) -> None:
    """Do some of that. What the kernel would not have is left out by the acts themselves."""
    for act in scene.rng.sample(acts, min(len(acts), scene.rng.randint(1, 3))):
        act(scene)


def lose_members(scene: XtScene) -> None:
    for held in scene.some_sets():
        there = scene.members(held.name)
        gone = scene.rng.sample(there, min(len(there), 2))
        requests = [ipset_messages.delete(held.name, each._replace(mark=None)) for each in gone]
        assert scene.ipset.carry_out(requests) == []


def change_marks(scene: XtScene) -> None:
    for held in scene.sets():
        if held.has_marks:
            there = scene.members(held.name)[:2]
            marked = [each._replace(mark=scene.rng.randrange(1, 1 << 32)) for each in there]
            requests = [ipset_messages.add(held.name, each) for each in marked]
            assert scene.ipset.carry_out(requests) == []


def add_members(scene: XtScene) -> None:
    for held in scene.some_sets():
        number, is_ipv4 = scene.rng.randrange(1, 250), held.family == "IPv4"
        host = f"192.0.2.{number}" if is_ipv4 else f"2001:db8::{number:x}"
        alone = f"{host}/{32 if is_ipv4 else 128}"
        network = "192.0.2.0/24" if is_ipv4 else "2001:db8::/32"
        half = "128.0.0.0/1" if is_ipv4 else "8000::/1"
        member = {
            "hash:ip": Member(host),
            "hash:ip,port": Member(host, 6, number),
            "hash:net,port": Member(scene.rng.choice([network, half]), 17, number),
            "hash:net": Member(network),
            "hash:net,net": Member(alone, other=scene.rng.choice([alone, network])),
            "hash:ip,port,net": Member(host, 6, number, network),
        }[held.kind]
        assert scene.ipset.carry_out([ipset_messages.add(held.name, member)]) == []


def flush_sets(scene: XtScene) -> None:
    requests = [ipset_messages.flush(held.name) for held in scene.some_sets()]
    assert scene.ipset.carry_out(requests) == []


def flush_chains(scene: XtScene) -> None:
    for door, table, chain in _chains(scene):
        door.restore(table, [f":{chain} - [0:0]"])


def change_rules(scene: XtScene) -> None:
    for door, table, chain in _chains(scene)[:3]:
        door.restore(table, [f"-A {chain} -j RETURN"])


def lose_jumps(scene: XtScene) -> None:
    for door, table, chain, rule in _jumps(scene):
        door.restore(table, [f"-D {chain} {rule}"])


def repeat_jumps(scene: XtScene) -> None:
    for door, table, chain, rule in _jumps(scene)[:2]:
        door.restore(table, [f"-A {chain} {rule}"])


def lead_in_elsewhere(scene: XtScene) -> None:
    for door in scene.doors.values():
        if f"{CHAINS}REFUSE" in door.save("filter"):
            door.restore("filter", [f"-A INPUT -j {CHAINS}REFUSE"])


def lose_everything(scene: XtScene) -> None:
    for door, table, chain, rule in _jumps(scene):
        door.restore(table, [f"-D {chain} {rule}"])
    for door, table, chain in _chains(scene):
        door.restore(table, [f":{chain} - [0:0]"])
    for door, table, chain in _chains(scene):
        door.restore(table, [f"-X {chain}"])
    requests = [ipset_messages.destroy(held.name) for held in scene.sets()]
    assert scene.ipset.carry_out(requests) == []


def misuse_names(scene: XtScene) -> None:
    lose_everything(scene)
    for family, prefix in zip(FAMILIES, SETS, strict=True):
        wrong = IpSet(f"{prefix}bound", SetKind.ADDRESS_PORT, family)
        other = IpSet(f"{prefix}services", SetKind.ADDRESS_PORT, family, max_members=7)
        made = [ipset_messages.create(wrong), ipset_messages.create(other)]
        assert scene.ipset.carry_out(made) == []
        scene.doors[family].restore("mangle", [f":{CHAINS}STRANGER - [0:0]"])


def reshape(scene: XtScene) -> None:
    """Sets of another size and with other options take the places of ours."""
    for held in scene.sets():
        if held.name.endswith(("refused", "externals")):
            other = held._replace(name="reshaped", max_members=77, has_marks=False)
            requests = [
                ipset_messages.create(other),
                ipset_messages.swap("reshaped", held.name),
                ipset_messages.destroy("reshaped"),
            ]
            assert scene.ipset.carry_out(requests) == []


def add_strangers(scene: XtScene) -> None:
    for family, prefix in zip(FAMILIES, SETS, strict=True):
        crowd = IpSet(f"{prefix}crowd", SetKind.ADDRESS, family)
        assert scene.ipset.carry_out([ipset_messages.create(crowd)]) == []
        scene.doors[family].restore("nat", [f":{CHAINS}STRANGER - [0:0]"])


OWN_ACTS: Final[tuple[Act, ...]] = (
    lose_members, change_marks, add_members, flush_sets, flush_chains, change_rules, lose_jumps, repeat_jumps,
    lead_in_elsewhere, lose_everything, misuse_names, reshape, add_strangers,
)  # fmt: skip


def _of_ipvs(act: ipvs_vandal.Act) -> Act:
    return lambda scene: act(scene.rest)


ACTS: Final[tuple[Act, ...]] = (*OWN_ACTS, *map(_of_ipvs, ipvs_vandal.ACTS_ON_SERVERS))


def _chains(scene: XtScene) -> list[tuple[Xtables, str, str]]:
    return [
        (door, table, chain)
        for door in scene.doors.values()
        for table in TABLES
        for chain in door.save(table)
        if chain.startswith(CHAINS)
    ]


def _jumps(scene: XtScene) -> list[tuple[Xtables, str, str, str]]:
    return [
        (door, table, name, rule)
        for door in scene.doors.values()
        for table in TABLES
        for name, chain in door.save(table).items()
        for rule in chain.rules
        if not name.startswith(CHAINS) and CHAINS in rule
    ]
