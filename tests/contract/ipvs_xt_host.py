"""The host of the ipvs backend whose side rules are in iptables and ipset: as `ipvs_host`, but for these."""

import ipaddress
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

from backends.ipvs.backend import IpvsBackend
from backends.ipvs.belief import Observed
from backends.ipvs.layout import Layout
from backends.ipvs.xt_layout import XtLayout
from backends.ipvs.xt_probing import try_all
from backends.ipvs.xt_side import Numbers, Tools
from backends.kernel import ipset_messages
from backends.kernel.ipset import Ipset
from backends.kernel.ipset_objects import IpSet, Member, SetKind
from backends.kernel.nft_table import Data
from backends.kernel.xtables import Xtables
from backends.kernel.xtables_flavour import Choice
from backends.kernel.xtables_text import Flavour
from proxy.desired import DesiredPort
from proxy.model import FAMILIES, Family, PortKey
from tests.contract.host import AnyBackend
from tests.contract.ipvs_host import (
    LAYOUT,
    IpvsHost,
    MeteredIpvs,
    MeteredLinks,
    OtherThings,
)
from tests.contract.ipvs_vandal import Scene
from tests.contract.ipvs_xt_vandal import ACTS, CHAINS, SETS, TABLES, XtScene, vandalise
from tests.contract.meters import Meter, MeteredIpset, MeteredNft
from tests.fakes.ipvs import IpvsKernel
from tests.fakes.links import LinksKernel
from tests.fakes.netfilter import NetfilterKernel
from tests.fakes.xtables import XtablesKernel

_FOREIGN_RULES: Mapping[str, Sequence[str]] = {
    "nat": (
        ":KUBE-MARK - [0:0]",
        "-A KUBE-MARK -j MARK --or-mark 0x8000",
        "-A PREROUTING -p udp -j KUBE-MARK",
    ),
    "mangle": (":THEIRS - [0:0]", "-A OUTPUT -j THEIRS"),
}
_FOREIGN_SET = IpSet("their-ports", SetKind.PORT, None)
_SERVICES = f"{SETS[0]}services"


class Machine(Protocol):
    """Where doors lead."""

    def door(self, flavour: Flavour, family: Family) -> Xtables: ...

    def entered(self) -> AbstractContextManager[None]: ...

    def numbers(self, flavour: Flavour) -> Numbers: ...

    def probe(self, choice: Choice, layout: Layout) -> None: ...


class FakeMachine:
    """Tables and sets on paper. Nftables is there, too, and to be left alone."""

    def __init__(self) -> None:
        self.netfilter, self.links, self.ipvs = (
            NetfilterKernel(),
            LinksKernel(),
            IpvsKernel(),
        )
        sets = self.netfilter.ipset
        self.tables = XtablesKernel(sets.has, sets.references)

    @contextmanager
    def entered(self) -> Iterator[None]:
        with self.netfilter.entered(), self.links.entered(), self.ipvs.entered():
            yield

    def door(self, flavour: Flavour, family: Family) -> Xtables:
        return self.tables.door(flavour, family)

    def numbers(self, flavour: Flavour) -> Numbers:
        return _FakeNumbers(self.tables, flavour)

    def probe(self, choice: Choice, _layout: Layout) -> None:
        other = FakeMachine()
        doors = {family: other.door(choice.flavour, family) for family in FAMILIES}
        with other.entered():
            try_all(doors, Ipset, _layout)


class _FakeNumbers:
    def __init__(self, kernel: XtablesKernel, flavour: Flavour) -> None:
        self._kernel = kernel
        self._flavour = flavour

    def look(self) -> object:
        if self._flavour is Flavour.NFT:
            return self._kernel.generation
        return [
            (len(rules), sum(map(len, rules)))
            for family in FAMILIES
            for table in TABLES
            for rules in self._kernel.chains(self._flavour, family, table).values()
        ]

    def close(self) -> None:
        """Nothing is open."""


class MeteredXtables(Xtables):
    """A door behind which a program is a system call, that writes something if it is told to."""

    def __init__(self, door: Xtables, meter: Meter) -> None:
        super().__init__(door.programs)
        self._door = door
        self._meter = meter

    def restore(self, table: str, lines: Sequence[str]) -> None:
        self._meter.count(len(lines), len(lines))
        self._door.restore(table, lines)

    def save(self, table: str) -> Any:
        return self._door.save(table)

    def close(self) -> None:
        self._door.close()


class XtIpvsHost(IpvsHost):
    """One flavour on one machine."""

    def __init__(self, machine: Machine, flavour: Flavour, closing: ExitStack) -> None:
        super().__init__(machine.entered, OtherThings(), closing)
        self._machine = machine
        self._flavour = flavour
        self._closing = closing
        self._doors = {family: machine.door(flavour, family) for family in FAMILIES}
        with machine.entered():
            self._ipset = closing.enter_context(Ipset())
        self._layout = XtLayout(LAYOUT.settings)

    def start(self) -> AnyBackend:
        meter = Meter()
        backend = IpvsBackend(
            LAYOUT,
            open_nft=lambda: self._opened(lambda: MeteredNft(meter)),
            open_ipvs=lambda: self._opened(lambda: MeteredIpvs(meter)),
            open_links=lambda: self._opened(lambda: MeteredLinks(meter)),
            tools=self._tools(meter),
            side="iptables",
            now_s=self._clock(),
        )
        self._count(backend, meter)
        self._closing.callback(backend.close)
        return backend

    def _tools(self, meter: Meter) -> Tools:
        def find(_: Sequence[Family]) -> Choice:
            doors = {family: MeteredXtables(door, meter) for family, door in self._doors.items()}
            return Choice(self._flavour, doors, {})

        return Tools(
            find=find,
            open_ipset=lambda: self._opened(lambda: MeteredIpset(meter)),
            open_numbers=lambda flavour, _: self._machine.numbers(flavour),
            probe=self._machine.probe,
        )

    def check_extras(self, observed: Observed, desired: Mapping[PortKey, DesiredPort]) -> None:
        """Members are read here once more, so that nobody has to trust who wrote them."""
        super().check_extras(observed, desired)
        for family, prefix in zip(FAMILIES, SETS, strict=True):
            facts = observed.tables[family]
            assert _told(self._listed(prefix), family) == {
                name: dict(elements) for name, elements in facts.elements.items() if elements
            }

    def _listed(self, prefix: str) -> dict[str, list[Member]]:
        names = [state.set.name for state in self._ipset.list_sets()]
        return {
            name.removeprefix(prefix): [m for piece in self._ipset.members(name) for m in piece]
            for name in names
            if name.startswith(prefix)
        }

    def is_noticed(self, before: Any, after: Any) -> bool:
        """The kernel tells how many members a set has, and of tables at least when there are more or fewer rules."""
        for family in FAMILIES:
            _, _, chains, sets, elements = before[0][family]
            _, _, chains_now, sets_now, elements_now = after[0][family]
            counts, counts_now = (
                {name: len(each) for name, each in those.items()}
                for those in (elements, elements_now)
            )
            lengths, lengths_now = (
                {name: len(each.comments) for name, each in those.items()}
                for those in (chains, chains_now)
            )
            if (lengths, sets, counts) != (lengths_now, sets_now, counts_now):
                return not _is_hidden(elements, elements_now)
        return False

    @property
    def kinds_of_disturbances(self) -> int:
        return len(ACTS)

    def disturb(self, seed: int, *, kind: int | None = None) -> None:
        rest: Scene = self._admin._replace(rng=random.Random(seed))
        scene = XtScene(self._ipset, self._doors, rest)
        vandalise(scene, ACTS if kind is None else (ACTS[kind],))

    def plant_foreign(self) -> None:
        super().plant_foreign()
        for door in self._doors.values():
            for table, lines in _FOREIGN_RULES.items():
                door.restore(table, lines)
        port = ipset_messages.add(_FOREIGN_SET.name, Member(port=80))
        assert self._ipset.carry_out([ipset_messages.create(_FOREIGN_SET), port]) == []

    def foreign(self) -> object:
        rules, sets = self._everything()
        theirs = [line for line in rules if CHAINS not in line]
        servers, addresses, listed = super().foreign()
        # what nftables has of iptables, ours among it, is in the rules
        tables = {key: content for key, content in listed.items() if key[1] not in TABLES}
        others = [each for each in sets if not each[0].startswith(SETS)]
        return servers, addresses, tables, theirs, others

    def own(self) -> object:
        rules, sets = self._everything()
        ours = [line for line in rules if CHAINS in line]
        return super().own() or ours or [each for each in sets if each[0].startswith(SETS)]

    def _everything(self) -> tuple[list[str], list[tuple[str, list[Member]]]]:
        rules = [
            f"{family} {table} {name} {rule}"
            for family, door in self._doors.items()
            for table in TABLES
            for name, chain in door.save(table).items()
            # a table that nobody had used has its own chains from then on
            for rule in (*([""] if chain.policy is None else []), *chain.rules)
        ]
        sets = [
            (state.set.name, sorted([m for p in self._ipset.members(state.set.name) for m in p]))
            for state in self._ipset.list_sets()
        ]
        return rules, sorted(sets)

    def limit(self, room: int) -> None:
        self._resize(len([m for piece in self._ipset.members(_SERVICES) for m in piece]) + room)

    def lift_limit(self) -> None:
        self._resize(1 << 20)

    def _resize(self, size: int) -> None:
        made = IpSet("resized", SetKind.ADDRESS_PORT, "IPv4", max_members=size)
        there = [member for piece in self._ipset.members(_SERVICES) for member in piece]
        requests = [
            ipset_messages.create(made),
            *[ipset_messages.add("resized", member) for member in there],
            ipset_messages.swap("resized", _SERVICES),
            ipset_messages.destroy("resized"),
        ]
        assert self._ipset.carry_out(requests) == []


def _is_hidden(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether elements may have changed with as many members as before: ranges are several members each."""
    ranges = {"allowed", "service-cidrs"}
    changed = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
    return bool(changed) and changed <= ranges


def _told(sets: Mapping[str, Iterable[Member]], family: Family) -> dict[str, dict[bytes, Data]]:
    """Elements by what members there are, read without the code that wrote them."""
    found: dict[str, dict[bytes, Data]] = {}
    for name, members in sets.items():
        elements: dict[bytes, Data] = {}
        for member in members:
            key, data = _element(name, member, family)
            assert data == elements.get(key, data)
            elements[key] = data
        if name == "allowed":
            elements = dict.fromkeys(_ranges(elements))
        if name == "service-cidrs":
            elements = dict.fromkeys(_bounds(elements))
        if elements:
            found[name] = elements
    return found


def _element(name: str, member: Member, family: Family) -> tuple[bytes, Data]:
    address, protocol, port, other, mark = member
    data = None if mark is None else mark.to_bytes(4, "little")
    frontend = bytes([protocol, 0, 0, 0, *port.to_bytes(2, "big"), 0, 0]) if protocol else b""
    if name.startswith("nodeport") and protocol:
        halves = {"IPv4": ("0.0.0.0/1", "128.0.0.0/1"), "IPv6": ("::/1", "8000::/1")}
        assert address in halves[family]
        return frontend, data
    if name == "service-cidrs":
        return _range(address), None
    if name == "allowed":
        return _packed(address) + frontend + b"|" + _range(other), None
    second = _packed(other) if other else b""
    return _packed(address) + frontend + second, data


def _packed(text: str) -> bytes:
    network = ipaddress.ip_network(text)
    assert network.num_addresses == 1
    return network.network_address.packed


def _range(text: str) -> bytes:
    network = ipaddress.ip_network(text)
    return network.network_address.packed + network.broadcast_address.packed


def _merged(ranges: Iterable[bytes]) -> Iterator[tuple[int, int, int]]:
    """First and last address of ranges that touch each other, and the width of addresses."""
    merged: list[list[int]] = []
    width = 0
    for each in sorted(ranges):
        width = len(each) // 2
        first, last = int.from_bytes(each[:width]), int.from_bytes(each[width:])
        if merged and first <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    for first, last in merged:
        yield first, last, width


def _ranges(found: Iterable[bytes]) -> Iterator[bytes]:
    by_frontend: dict[bytes, list[bytes]] = {}
    for each in found:
        to, ranges = _split(each)
        by_frontend.setdefault(to, []).append(ranges)
    for to, ranges_of in by_frontend.items():
        for first, last, width in _merged(ranges_of):
            yield first.to_bytes(width) + to + last.to_bytes(width) + to


def _split(element: bytes) -> tuple[bytes, bytes]:
    """Where the frontend ends: 4 + 8 or 16 + 8 bytes of it."""
    length = 12 if len(element) == 12 + 1 + 8 else 24
    assert element[length : length + 1] == b"|"
    return element[:length], element[length + 1 :]


def _bounds(found: Iterable[bytes]) -> Iterator[bytes]:
    for first, last, width in _merged(found):
        yield first.to_bytes(width) + b"\0"
        if last + 1 < 1 << (8 * width):
            yield (last + 1).to_bytes(width) + b"\1"


class FakeXtIpvsGround:
    """Hosts of one flavour on the fakes."""

    def __init__(self, flavour: Flavour) -> None:
        self._flavour = flavour

    @contextmanager
    def fresh(self) -> Iterator[IpvsHost]:
        with ExitStack() as closing:
            yield XtIpvsHost(FakeMachine(), self._flavour, closing)
