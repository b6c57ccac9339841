"""The host of the iptables backend, of either flavour: fakes of its tables and of ipset, or the kernel's in a network namespace.

Both are reached through the same doors, so everything but the replies is the same.
"""

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from backends.iptables.backend import IptablesBackend, Tools
from backends.iptables.belief import Observed
from backends.iptables.layout import JUMPS, IptablesSettings, Layout
from backends.iptables.model import TABLES, Table
from backends.iptables.names import list_chain
from backends.iptables.render import render_port
from backends.iptables.sets import affinity_set, fixed_sets
from backends.kernel import ipset_messages
from backends.kernel.ipset import Ipset
from backends.kernel.ipset_objects import IpSet, Member, SetKind
from backends.kernel.xtables import Xtables
from backends.kernel.xtables_flavour import Choice
from backends.kernel.xtables_text import Flavour
from proxy.desired import DesiredPort
from proxy.model import FAMILIES, Family, PortKey
from tests.contract.host import AnyBackend
from tests.contract.iptables_machine import FakeMachine, Machine
from tests.contract.iptables_reader import Tables, programmed
from tests.contract.iptables_vandal import ACTS, Scene, vandalise
from tests.contract.meters import Meter, MeteredHost, MeteredIpset
from tests.data_plane import Behaviour, Connection, wanted_addresses, wanted_hairpins
from tests.fakes.xtables import BUILT_IN
from tests.work_counter import Visits, watch

LAYOUT = Layout(
    IptablesSettings(families=FAMILIES, cluster_cidrs=("10.244.0.0/16", "fd00:10:244::/48"))
)
_OURS = ("SLICEPROXY-", "sliceproxy4-", "sliceproxy6-")
_FOREIGN_RULES: Mapping[Table, Sequence[str]] = {
    "nat": (
        ":KUBE-MARK - [0:0]",
        "-A KUBE-MARK -j MARK --or-mark 0x8000",
        "-A PREROUTING -p udp -j KUBE-MARK",
        "-A POSTROUTING -p udp -j RETURN",
    ),
    "filter": (":KUBE-FIREWALL - [0:0]", "-A INPUT -j KUBE-FIREWALL"),
}
_FOREIGN_SET = IpSet("their-ports", SetKind.PORT, None)


class MeteredXtables(Xtables):
    """A door behind which a program is a system call. Chains and jumps are what is written, not each rule."""

    def __init__(self, door: Xtables, meter: Meter) -> None:
        super().__init__(door.programs)
        self._door = door
        self._meter = meter

    def restore(self, table: str, lines: Sequence[str]) -> None:
        written = [line for line in lines if not line.startswith("-A SLICEPROXY-")]
        self._meter.count(len(written), len(written))
        with self._meter.writing() as is_done:
            if is_done:
                self._door.restore(table, lines)

    def save(self, table: str) -> Any:
        self._meter.count(1, 0)
        return self._door.save(table)

    def chain_names(self, table: str) -> list[str]:
        self._meter.count(1, 0)
        return self._door.chain_names(table)

    def has_comment(self, table: str, chain: str, comment: str) -> bool:
        self._meter.count(1, 0)
        return self._door.has_comment(table, chain, comment)

    def remove_commented(self, table: str, chain: str, comment: str) -> int:
        self._meter.count(1, 1)
        with self._meter.writing() as is_done:
            return self._door.remove_commented(table, chain, comment) if is_done else 0


class IptablesHost(MeteredHost):
    """One flavour on one machine."""

    calls_at_most = 24

    def __init__(self, machine: Machine, flavour: Flavour, closing: ExitStack) -> None:
        super().__init__()
        self._machine = machine
        self._flavour = flavour
        self._closing = closing
        with machine.entered():
            self._ipset = closing.enter_context(Ipset())
        self._doors = {family: machine.door(flavour, family) for family in FAMILIES}
        self._scene = Scene(self._ipset, self._doors, random.Random())

    def start(self) -> AnyBackend:
        machine, flavour, meter = self._machine, self._flavour, Meter()

        def find(_: Sequence[Family]) -> Choice:
            doors = {family: MeteredXtables(door, meter) for family, door in self._doors.items()}
            return Choice(flavour, doors, {})

        def open_ipset() -> Ipset:
            with machine.entered():
                return MeteredIpset(meter)

        tools = Tools(
            find=find,
            open_ipset=open_ipset,
            open_canary=lambda *_: machine.open_canary(flavour),
            probe=lambda choice: machine.probe(choice, open_ipset),
            route_localhost=lambda: None,
        )
        backend = IptablesBackend(LAYOUT, tools)
        self._count(backend, meter)
        self._closing.callback(backend.close)
        return backend

    def behaviour(
        self, observed: Observed, *, leave_out: Collection[Connection] = ()
    ) -> Behaviour:
        """Belief knows rules by their mark only, so they are read from the kernel."""
        tables = {
            family: Tables(self._rules(family, "nat"), self._rules(family, "filter"))
            for family in FAMILIES
        }
        members: dict[str, Collection[Member]] = {
            name: facts.members.get(name, ())
            for facts in observed.facts.values()
            for name in facts.sets
        }
        return programmed(tables, members, leave_out)

    def _rules(self, family: Family, table: Table) -> dict[str, list[str]]:
        saved = self._doors[family].save(table)
        return {name: [] for name in BUILT_IN[table]} | {
            name: list(chain.rules) for name, chain in saved.items()
        }

    async def read_back(self, backend: AnyBackend, observed: Observed) -> Any:
        return await backend.observe()

    def state(self, observed: Observed) -> Any:
        return {
            family: (
                {table: dict(chains) for table, chains in facts.chains.items()},
                {table: set(jumps) for table, jumps in facts.jumps.items()},
                dict(facts.sets),
                {name: set(members) for name, members in facts.members.items() if members},
                {
                    name: tree.fronts()
                    for (of, name), tree in observed.trees.items()
                    if of == family
                },
            )
            for family, facts in observed.facts.items()
        }

    def is_noticed(self, before: Any, after: Any) -> bool:
        """The kernel tells how many members a set has, and of nftables that something was committed.

        Of a legacy table it tells how many entries there are. How many bytes they take is not known from a belief.
        """
        for family, each in before.items():
            for name, made in each[2].items():
                found = after[family][2].get(name)
                counts = [len(state[family][3].get(name, ())) for state in (before, after)]
                if made.timeout_s is None and (found is None or found.kind != made.kind):
                    return True
                if made.timeout_s is None and counts[0] != counts[1]:
                    return True
        if self._flavour is Flavour.NFT:
            return any(before[family][:2] != after[family][:2] for family in before)
        return _entries(before) != _entries(after)

    def watch(self, observed: Observed, visits: Visits) -> None:
        names = ("rendered", "references", "owners", "asking")
        _watch_in(vars(observed), names, visits)
        for facts in observed.facts.values():
            _watch_in(facts.chains, TABLES, visits)
            _watch_in(vars(facts), ("sets", "members"), visits)
        for tree in observed.trees.values():
            _watch_in(vars(tree), ("_targets", "_nodes"), visits)

    def check_extras(self, observed: Observed, desired: Mapping[PortKey, DesiredPort]) -> None:
        for family, facts in observed.facts.items():
            ours = [
                render_port(port, LAYOUT) for key, port in desired.items() if key.family == family
            ]
            sets = fixed_sets(family) | {
                name: affinity_set(family, name) for each in ours for name in each.rendered.sets
            }
            assert facts.sets == sets
            for table in TABLES:
                chains = {chain.name: chain.state for chain in LAYOUT.chains(family, table)}
                if table == "nat":
                    chains |= {chain.name: chain.state for each in ours for chain in each.chains}
                    trees = [tree for (of, _), tree in observed.trees.items() if of == family]
                    grown = {name for tree in trees for name in tree.chains()}
                    assert facts.chains[table].keys() - chains.keys() == grown
                assert {n: facts.chains[table].get(n) for n in chains} == chains
                jumps = {(jump.chain, jump.mark) for jump in JUMPS[table]}
                assert facts.jumps[table].keys() == jumps
        assert self._addresses(observed, "cluster-ips") == wanted_addresses(desired)
        external = wanted_addresses(desired, are_external=True)
        assert self._addresses(observed, "external-ips") == external
        assert self._addresses(observed, "hairpin") == wanted_hairpins(desired)

    def _addresses(self, observed: Observed, name: str) -> set[tuple[Family, str]]:
        return {
            (family, member.address)
            for family, facts in observed.facts.items()
            for member in facts.members.get(f"sliceproxy{family[-1]}-{name}", ())
        }

    @property
    def kinds_of_disturbances(self) -> int:
        return len(ACTS)

    def disturb(self, seed: int, *, kind: int | None = None) -> None:
        scene = self._scene._replace(rng=random.Random(seed))
        vandalise(scene, ACTS if kind is None else (ACTS[kind],))

    def plant_foreign(self) -> None:
        for door in self._doors.values():
            for table, lines in _FOREIGN_RULES.items():
                door.restore(table, lines)
        port = ipset_messages.add(_FOREIGN_SET.name, Member(port=80))
        assert self._ipset.carry_out([ipset_messages.create(_FOREIGN_SET), port]) == []

    def foreign(self) -> object:
        lines = self._machine.everything(self._flavour)
        return [line for line in lines if not any(name in line for name in _OURS)]

    def own(self) -> object:
        lines = self._machine.everything(self._flavour)
        return [line for line in lines if any(name in line for name in _OURS)]

    def occupy(self, port: DesiredPort) -> None:
        """Have the chain of its endpoints asked where nothing can be translated."""
        name = list_chain(port.key)
        lines = [f":{name} - [0:0]", f"-A POSTROUTING -j {name}"]
        self._doors[port.key.family].restore("nat", lines)

    def limit(self, room: int) -> None:
        there = {member for piece in self._ipset.members(_FRONTENDS) for member in piece}
        self._resize(len(there) + room)

    def lift_limit(self) -> None:
        self._resize(fixed_sets("IPv4")[_FRONTENDS].max_members)

    def _resize(self, size: int) -> None:
        made = fixed_sets("IPv4")[_FRONTENDS]._replace(name="resized", max_members=size)
        there = [member for piece in self._ipset.members(_FRONTENDS) for member in piece]
        requests = [
            ipset_messages.create(made),
            *[ipset_messages.add("resized", member) for member in there],
            ipset_messages.swap("resized", _FRONTENDS),
            ipset_messages.destroy("resized"),
        ]
        assert self._ipset.carry_out(requests) == []


_FRONTENDS = "sliceproxy4-frontends"


def _entries(state: Any) -> object:
    return {
        (family, table): sum([2 + chain.rules for chain in each[0][table].values()])
        + len(each[1][table])
        for family, each in state.items()
        for table in TABLES
    }


class _Watched:
    """Dictionaries as the attributes of an object."""


def _watch_in(owner: dict[Any, Any], names: Sequence[str], visits: Visits) -> None:
    watched = _Watched()
    vars(watched).update({name: owner[name] for name in names})
    watch(watched, visits)
    owner.update(vars(watched))


class FakeIptablesGround:
    """Hosts of one flavour on the fakes."""

    def __init__(self, flavour: Flavour) -> None:
        self._flavour = flavour

    @contextmanager
    def fresh(self) -> Iterator[IptablesHost]:
        with ExitStack() as closing:
            yield IptablesHost(FakeMachine(), self._flavour, closing)
