"""That packets meet what was asked for, whatever states followed each other in whatever order, and at every moment between."""

import random
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from backends.iptables.model import IptablesPlan
from backends.iptables.plan import plan
from backends.iptables.prune import prune
from proxy.desired_node import DesiredNode
from proxy.model import FAMILIES, Family, PortKey
from tests.desired_strategies import Ports, random_states, seeds, whole
from tests.effort import examples
from tests.fakes.packets import PASSED, Fate, Fates, Packet
from tests.unit.backends.iptables.oracle import endpoints_behind, expected, is_as_expected, packets
from tests.unit.backends.iptables.planning import BOTH, World

NODE = DesiredNode(service_cidrs=("10.96.0.0/16", "fd00:10:96::/112"))
RESTRICTED = DesiredNode(node_port_addresses={"IPv4": ("192.0.2.1",), "IPv6": ()})


def family_of(packet: Packet) -> Family:
    return "IPv6" if ":" in packet.destination else "IPv4"


def some_packets(rng: random.Random, ports: Ports, count: int) -> list[Packet]:
    return [each for family in FAMILIES for each in packets(rng, ports, family, count)]


def wanted(packet: Packet, ports: Ports, node: DesiredNode) -> Fates:
    return expected(packet, ports.values(), node, family_of(packet))


def chunks(rng: random.Random, keys: list[PortKey]) -> list[list[PortKey]]:
    """Divide keys at random."""
    parts: list[list[PortKey]] = [[]]
    for key in rng.sample(keys, len(keys)):
        if rng.random() < 0.3:
            parts.append([])
        parts[-1].append(key)
    return [part for part in parts if part]


class Driven:
    """A world, and what is believed of it."""

    def __init__(self) -> None:
        self.world = World(FAMILIES)
        self.observed = self.world.found()
        self.ports: Ports = {}

    def lead_to(self, rng: random.Random, ports: Ports, node: DesiredNode) -> None:
        keys = [key for key in {**self.ports, **ports} if self.ports.get(key) != ports.get(key)]
        # who has got an address comes before who has lost one
        keys.sort(key=lambda key: key not in ports)
        if rng.random() < 0.7 and keys:
            self.apply(plan(whole(ports, node), self.observed, keys, BOTH))
        else:
            for part in chunks(rng, keys):
                self.apply(plan(whole(ports, node), self.observed, part, BOTH))
        if rng.random() < 0.5:
            self.apply(plan(whole(ports, node), self.observed, [], BOTH))
        self.ports = ports

    def apply(self, planned: IptablesPlan) -> None:
        assert list(self.world.carry_out(planned, self.observed)) == list(planned.steps)

    def prune(self, node: DesiredNode) -> None:
        self.apply(prune(whole(self.ports, node), self.observed, BOTH))

    def leave_nothing(self, node: DesiredNode) -> None:
        self.prune(node)
        while self.observed.is_sweep_due:
            self.apply(plan(whole(self.ports, node), self.observed, [], BOTH))

    def check_belief(self) -> None:
        """What is believed is what is read."""
        found = self.world.found()
        for family, facts in self.observed.facts.items():
            there = found.facts[family]
            assert facts.chains == there.chains
            assert facts.jumps == there.jumps
            assert facts.sets == there.sets
            of_rules = {n for n, made in there.sets.items() if made.timeout_s is not None}
            for name in there.sets.keys() - of_rules:
                assert facts.members.get(name, set()) == there.members[name], name
        for place, tree in self.observed.trees.items():
            assert tree.fronts() == found.trees[place].fronts()

    def state(self) -> object:
        """Return all there is, in an order that says nothing."""
        tables = {
            (family, table): {name: tuple(rules) for name, rules in chains.items()}
            for family in FAMILIES
            for table in ("nat", "filter")
            if (chains := self.world.chains(family, table))
        }
        return tables, self.world.sets, self.world.members


@settings(deadline=None, max_examples=examples(40))
@given(seed=seeds, node=st.sampled_from([DesiredNode(), NODE, RESTRICTED]))
def test_packets_meet_what_is_asked_for(seed: int, node: DesiredNode) -> None:
    rng = random.Random(seed)
    driven = Driven()
    for ports in random_states(seed, 3):
        driven.lead_to(rng, ports, node)
        settled = (
            node
            if driven.observed.node and driven.observed.node.is_settled
            else (structs.replace(node, service_cidrs=()))
        )
        for packet in some_packets(rng, ports, 20):
            found = driven.world.fates(packet)
            assert is_as_expected(found, wanted(packet, ports, settled)), packet
        driven.check_belief()
        assert not (ports and plan(whole(ports, node), driven.observed, list(ports), BOTH))
        if rng.random() < 0.3:
            driven.prune(node)
            driven.check_belief()
            assert not prune(whole(ports, node), driven.observed, BOTH)


@settings(deadline=None, max_examples=examples(30))
@given(seed=seeds)
def test_one_state_has_one_form_whatever_came_before(seed: int) -> None:
    rng = random.Random(seed)
    *before, last = random_states(seed, 3)
    driven, direct = Driven(), Driven()
    for ports in (*before, last):
        driven.lead_to(rng, ports, NODE)
    direct.lead_to(rng, last, NODE)
    for each in (driven, direct):
        each.leave_nothing(NODE)

    assert driven.state() == direct.state()


@settings(deadline=None, max_examples=examples(30))
@given(seed=seeds)
def test_a_new_process_adopts_what_it_finds(seed: int) -> None:
    rng = random.Random(seed)
    first, second = random_states(seed, 2)
    driven = Driven()
    driven.lead_to(rng, first, NODE)
    driven.prune(NODE)

    driven.observed = driven.world.found()
    for part in chunks(rng, list(first)):
        assert not plan(whole(first, NODE), driven.observed, part, BOTH).steps
        driven.apply(plan(whole(first, NODE), driven.observed, part, BOTH))
        for packet in some_packets(rng, first, 5):
            assert is_as_expected(driven.world.fates(packet), wanted(packet, first, NODE))
    assert not prune(whole(first, NODE), driven.observed, BOTH)

    driven.observed, driven.ports = driven.world.found(), second
    for part in chunks(rng, list(second)):
        driven.apply(plan(whole(second, NODE), driven.observed, part, BOTH))
    driven.leave_nothing(NODE)
    direct = Driven()
    direct.lead_to(rng, second, NODE)
    direct.leave_nothing(NODE)
    assert driven.state() == direct.state()


@settings(deadline=None, max_examples=examples(60))
@given(seed=seeds)
def test_between_two_states_a_packet_meets_one_of_them(seed: int) -> None:
    rng = random.Random(seed)
    before, after = random_states(seed, 2)
    after = {key: port for key, port in after.items() if rng.random() < 0.9}
    driven = Driven()
    driven.lead_to(rng, before, NODE)
    driven.leave_nothing(NODE)
    asked = [
        (packet, wanted(packet, before, NODE), wanted(packet, after, NODE))
        for packet in some_packets(rng, {**before, **after}, 30)
    ]

    keys = sorted({**before, **after}, key=lambda key: key not in after)
    for _ in driven.world.carry_out(
        plan(whole(after, NODE), driven.observed, keys, BOTH), driven.observed
    ):
        for packet, old, new in asked:
            found = driven.world.fates(packet)
            check_meanwhile(found, old, new, packet)
            by = {fate.endpoint for fate in found if fate.endpoint}
            assert by <= endpoints_behind(packet, [*before.values(), *after.values()], NODE)


def check_meanwhile(found: Fates, old: Fates, new: Fates, packet: Packet) -> None:
    """Not lost where both would serve, and never let through where neither would."""
    was_served, is_served = is_serving(old), is_serving(new)
    if was_served and is_served:
        assert is_serving(found), (packet, found, old, new)
    assert PASSED not in found or PASSED in old or PASSED in new, (packet, found, old, new)


def is_serving(fates: Mapping[Fate, float]) -> bool:
    return all(fate.kind == "served" for fate in fates)
