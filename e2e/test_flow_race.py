"""Law L5 under the heaviest load one machine can make: tens of thousands of new flows a second, thousands of changes.

Where test_race.py watches connections from end to end, here the kernel counts: what came to the node for the service,
what left the look-up translated, what was refused. What is missing was dropped; what kept its address went through
untranslated, and conntrack would remember that for good.
"""

import itertools
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from backends.nftables.model import REFUSE, TABLE
from e2e import topology
from e2e.manifests import until
from e2e.namespace import TopologyError
from e2e.programmed import Programmed, endpoint
from e2e.topology import CLUSTER_CIDRS, FAMILIES, Addresses, Family, World
from proxy.desired import DesiredPort, Frontend, FrontendKind
from tests.desired_strategies import make_desired
from tests.effort import examples, patience_s

pytestmark = pytest.mark.requires("nftables")

RACE_S = patience_s(1.2)
SLOWEST_S = 20 * RACE_S
ENOUGH_FLOWS = examples(2_000)
ENOUGH_CHANGES = examples(500)
SINKS = range(8001, 8005)
PREFIXES = Addresses("10.244.1.", "fd00:10:244:1::")
_NARROW = Addresses("10.244.1.0/24", "fd00:10:244:1::/64")
_WIDE = Addresses(*CLUSTER_CIDRS)
_WIDER = Addresses("10.0.0.0/8", "fd00::/16")
_ELSEWHERE = Addresses("192.0.2.0/24", "2001:db8::/32")
_PROGRAM = [sys.executable, "-I", "-S", str(Path(__file__).with_name("flood.py"))]
_COUNTERS = """
    table inet watch {
        counter came { }
        counter escaped { }
        counter translated { }
        chain before {
            type filter hook prerouting priority -150
            ct state new ip daddr 10.96.0.0/16 counter name came
            ct state new ip6 daddr fd00:10:96::/112 counter name came
        }
        chain after {
            type filter hook prerouting priority -50
            ip daddr 10.96.0.0/16 counter name escaped
            ip6 daddr fd00:10:96::/112 counter name escaped
            ct state new ct original ip daddr 10.96.0.0/16 ip daddr != 10.96.0.0/16 counter name translated
            ct state new ct original ip6 daddr fd00:10:96::/112 ip6 daddr != fd00:10:96::/112 counter name translated
        }
    }
"""

# How an earlier version had source ranges, in steps such that the VIP is limited throughout.
_EARLIER = """
    add map IP sliceproxy firewall { type ADDRESS . inet_proto . inet_service : verdict; }
    add set IP sliceproxy vip-sources { type ADDRESS . ADDRESS . inet_proto . inet_service; }
    add set IP sliceproxy ranges-0123456789abcdef-01234567 { type ADDRESS; flags interval; }
    add element IP sliceproxy ranges-0123456789abcdef-01234567 { RANGE }
    add chain IP sliceproxy firewall-0123456789abcdef
    add rule IP sliceproxy firewall-0123456789abcdef IP saddr @ranges-0123456789abcdef-01234567 return
    add rule IP sliceproxy firewall-0123456789abcdef IP saddr . IP daddr . meta l4proto . th dport @vip-sources return
    add rule IP sliceproxy firewall-0123456789abcdef drop
    THEN
    add element IP sliceproxy firewall { VIP . udp . 80 : jump firewall-0123456789abcdef }
    THEN
    flush chain IP sliceproxy external-ip
    add rule IP sliceproxy external-ip IP daddr . meta l4proto . th dport vmap @firewall comment "source ranges"
    add rule IP sliceproxy external-ip IP daddr . meta l4proto . th dport vmap @externals comment "by port"
    THEN
    flush chain IP sliceproxy sources
    delete chain IP sliceproxy sources
    flush set IP sliceproxy guarded
    delete set IP sliceproxy guarded
"""
_REFUSING = [[word, TABLE, REFUSE] for word in ("ip", "ip6")]

Pool = Sequence[int]


class Counts(NamedTuple):
    """Packets of new flows to a service: those that came to the node, and what became of them."""

    came: int
    escaped: int
    translated: int
    refused: int

    @property
    def dropped(self) -> int:
        return self.came - self.escaped - self.translated - self.refused


class Race(NamedTuple):
    changes: int
    took_s: float
    counts: Counts

    def __str__(self) -> str:
        came, escaped, translated, refused = self.counts
        return (
            f"{self.changes / self.took_s:.0f} changes/s, {came / self.took_s:.0f} flows/s for {self.took_s:.1f} s: "
            f"{came} flows, {translated} translated, {refused} refused, {self.counts.dropped} dropped, {escaped} untranslated"
        )


class Ground:
    """A node with services, pods that swallow datagrams, and a pod that sends them."""

    def __init__(self, world: World, data_plane: Programmed) -> None:
        self._world = world
        self._data_plane = data_plane
        self._numbers = itertools.count(10)

    def race(self, family: Family, pools: Sequence[Pool]) -> Race:
        """Put one pool after the other behind a service, over and over, while flows begin."""
        vip = self._next_vip(family)
        return self._race(family, vip, [[self._service(vip, pool, family)] for pool in pools])

    def race_of_owners(self, family: Family) -> Race:
        """Have a frontend change hands between two services, over and over, while flows begin."""
        vip = self._next_vip(family)
        one, other = (f"default/{name}-{vip}" for name in ("one", "other"))
        pools = {one: [0, 1], other: [2, 1, 3]}
        states = [
            [
                self._service(vip, pools[owner], family, name=owner),
                self._service(None, pools[loser], family, name=loser),
            ]
            for owner, loser in ((one, other), (other, one))
        ]
        return self._race(family, vip, states)

    def race_of_policies(
        self, family: Family, kind: FrontendKind, policies: Sequence["Policy"]
    ) -> Race:
        """Have a service change its policies, over and over, while flows from a pod of this node begin."""
        vip = self._next_vip(family)
        states = [[self._with_policy(vip, family, kind, policy)] for policy in policies]
        return self._race(family, vip, states)

    def race_of_ranges(self, family: Family) -> Race:
        """Have a service get source ranges it never had, one after the other, while flows begin that all of them let in."""
        vip, pods = self._next_vip(family), CLUSTER_CIDRS[FAMILIES.index(family)]
        others = Addresses("192.0.{}.{}/32", "2001:db8::{:x}:{:x}/128").of(family)
        policies = (
            Policy(ranges=(pods, others.format(*divmod(number, 250))))
            for number in itertools.count(1)
        )
        states = (self._with_policy(vip, family, "LoadBalancer", policy) for policy in policies)
        self._data_plane.put(next(states))
        before = self._counts()
        with self._flows(family, vip):
            begun_s, changes = time.monotonic(), 0
            while self._goes_on(begun_s, before):
                self._data_plane.put(next(states))
                changes += 1
            took_s = time.monotonic() - begun_s
        return Race(changes, took_s, self._since(before))

    def race_of_versions(self, family: Family, ranges: Addresses) -> Race:
        """Have a service with source ranges taken over from an earlier version, over and over, while flows begin."""
        vip = self._next_vip(family)
        self._data_plane.put(
            self._with_policy(vip, family, "LoadBalancer", Policy(ranges=(ranges.of(family),)))
        )
        self._data_plane.take_over()  # what counts refusals goes now
        words = {"IP": "ip" if family == "IPv4" else "ip6", "ADDRESS": f"{family.lower()}_addr"}
        words |= {"VIP": vip, "RANGE": ranges.of(family)}
        script = re.sub(r"\b(IP|ADDRESS|VIP|RANGE)\b", lambda word: words[word[0]], _EARLIER)
        before = self._counts()
        with self._flows(family, vip):
            begun_s, changes = time.monotonic(), 0
            while self._goes_on(begun_s, before):
                for step in script.split("THEN"):
                    self._world.node.namespace.run(["nft", "-f", "-"], stdin=step)
                self._data_plane.take_over()
                changes += 1
            took_s = time.monotonic() - begun_s
        race = Race(changes, took_s, self._since(before))
        self.count_refusals()
        return race

    def _with_policy(
        self, vip: str, family: Family, kind: FrontendKind, policy: "Policy"
    ) -> DesiredPort:
        sinks = list(itertools.product(SINKS, self._world.pods[1:]))[:5]
        here = itertools.repeat(policy.has_local)
        inner = kind == "ClusterIP"
        return make_desired(
            f"default/at-{vip}",
            *[
                endpoint(pod, family, port, is_local=yes)
                for (port, pod), yes in zip(sinks, here, strict=False)
            ],
            protocol="UDP",
            cluster_ip=vip if inner else None,
            family=family,
            outer=() if inner else (Frontend(kind, vip, 80),),
            external_local=policy.is_local and not inner,
            internal_local=policy.is_local and inner,
            source_ranges=policy.ranges,
            affinity_timeout_s=60 if policy.is_sticky else None,
        )

    def _next_vip(self, family: Family) -> str:
        number = next(self._numbers)
        return Addresses(f"10.96.0.{number}", f"fd00:10:96::{number:x}").of(family)

    def _race(self, family: Family, vip: str, states: Sequence[list[DesiredPort]]) -> Race:
        self._data_plane.put(*states[0])
        before = self._counts()
        with self._flows(family, vip):
            begun_s = time.monotonic()
            changes = self._data_plane.flip(
                [*states[1:], states[0]],
                RACE_S,
                at_least=ENOUGH_CHANGES,
                is_enough=lambda: self._since(before).came >= ENOUGH_FLOWS,
            )
            took_s = time.monotonic() - begun_s
        return Race(changes, took_s, self._since(before))

    def _goes_on(self, begun_s: float, before: Counts) -> bool:
        """Whether a race is to go on: for its time, and on a slow machine until there were enough flows."""
        took_s = time.monotonic() - begun_s
        return took_s < RACE_S or (took_s < SLOWEST_S and self._since(before).came < ENOUGH_FLOWS)

    def observe(self, family: Family, vip: str) -> Counts:
        """What becomes of flows to an address while nothing changes."""
        before = self._counts()
        with self._flows(family, vip):
            until(lambda: self._since(before).came, "flows come")
        return self._since(before)

    def put(self, port: DesiredPort) -> None:
        self._data_plane.put(port)

    def _since(self, before: Counts) -> Counts:
        return Counts(*[now - then for now, then in zip(self._counts(), before, strict=True)])

    def _service(
        self, vip: str | None, pool: Pool, family: Family, *, name: str = ""
    ) -> DesiredPort:
        sinks = list(itertools.product(SINKS, self._world.pods[1:]))
        chosen = [sinks[number] for number in pool]
        return make_desired(
            name or f"default/at-{vip}",
            *[endpoint(pod, family, port) for port, pod in chosen],
            protocol="UDP",
            cluster_ip=vip,
            family=family,
        )

    @contextmanager
    def _flows(self, family: Family, vip: str) -> Iterator[None]:
        pod = self._world.pods[0].namespace
        program = pod.popen([*_PROGRAM, PREFIXES.of(family), vip, "80"], stderr=subprocess.PIPE)
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        program.stdin.write("go\n")
        program.stdin.flush()
        try:
            yield
        finally:
            _, complaint = program.communicate(timeout=60)
            if program.returncode != 0:
                raise TopologyError(f"the flows ended: {complaint}")

    def count_refusals(self) -> None:
        """Have our own chain count what is refused: its ICMP errors would be limited by the kernel."""
        self._data_plane.put(self._service("10.96.0.9", [], "IPv4"))
        for chain in _REFUSING:
            self._world.node.namespace.run(["nft", "insert", "rule", *chain, "counter"])

    def _counts(self) -> Counts:
        node = self._world.node.namespace
        listed = node.run(["nft", "list", "counters", "table", "inet", "watch"])
        found = dict(re.findall(r"counter (\w+) \{\s*packets (\d+)", listed))
        refusing = "".join([node.run(["nft", "list", "chain", *chain]) for chain in _REFUSING])
        refused = sum(map(int, re.findall(r"counter packets (\d+)", refusing)))
        came, escaped, translated = (int(found[name]) for name in Counts._fields[:-1])
        return Counts(came, escaped, translated, refused)


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with topology.world(pods=4) as world:
        for pod in world.pods[1:]:
            # they answer, but to addresses nobody has
            pod.serve(*[f"udp:{port}" for port in SINKS])
        world.node.namespace.run(["nft", "-f", "-"], stdin=_COUNTERS)
        with Programmed(world.node) as data_plane:
            made = Ground(world, data_plane)
            made.count_refusals()
            yield made


class Policy(NamedTuple):
    is_local: bool = False
    has_local: bool = True
    is_sticky: bool = False
    ranges: tuple[str, ...] = ()


@pytest.mark.parametrize("family", topology.FAMILIES)
@pytest.mark.parametrize(
    ("kind", "policies"),
    [
        pytest.param(
            "ExternalIP",
            [Policy(has_local=False), Policy(is_local=True, has_local=False)],
            id="external policy, none local",
        ),
        pytest.param(
            "ExternalIP", [Policy(), Policy(is_local=True)], id="external policy, all local"
        ),
        pytest.param("ClusterIP", [Policy(), Policy(is_local=True)], id="internal policy"),
        pytest.param("ClusterIP", [Policy(), Policy(is_sticky=True)], id="affinity"),
        pytest.param(
            "ExternalIP",
            [
                Policy(has_local=False),
                Policy(has_local=False, is_sticky=True),
                Policy(has_local=False, is_sticky=True, is_local=True),
                Policy(has_local=False, is_local=True),
            ],
            id="affinity and external policy",
        ),
    ],
)
def test_flows_of_a_pod_are_served_whatever_becomes_of_the_policies(
    ground: Ground, family: Family, kind: FrontendKind, policies: Sequence[Policy]
) -> None:
    result = ground.race_of_policies(family, kind, policies)

    print(result)
    assert_it_was_a_race(result)
    assert result.counts.refused == 0, result
    assert (result.counts.escaped, result.counts.dropped) == (0, 0), result


def test_no_flow_gets_past_source_ranges_while_they_are_replaced(ground: Ground) -> None:
    ranges = [("192.0.2.0/24",), ("198.51.100.0/24", "192.0.2.0/25")]
    result = ground.race_of_policies(
        "IPv4", "LoadBalancer", [Policy(ranges=ranges[0]), Policy(ranges=ranges[1])]
    )

    print(result)
    assert_it_was_a_race(result)
    assert result.counts.dropped == result.counts.came, result


@pytest.mark.parametrize("family", topology.FAMILIES)
def test_flows_from_within_all_source_ranges_are_served_while_those_are_replaced(
    ground: Ground, family: Family
) -> None:
    result = ground.race_of_ranges(family)

    print(result)
    assert result.counts.came >= ENOUGH_FLOWS, result
    assert (result.counts.escaped, result.counts.dropped) == (0, 0), result


@pytest.mark.parametrize("family", topology.FAMILIES)
@pytest.mark.parametrize(
    "ranges",
    [
        pytest.param([_NARROW, _WIDE], id="narrow and wide"),
        pytest.param([_WIDER, _NARROW, _WIDE], id="three lengths"),
        pytest.param([None, _WIDE], id="some and none"),
    ],
)
def test_flows_are_served_while_another_range_lets_them_in_each_time(
    ground: Ground, family: Family, ranges: Sequence[Addresses | None]
) -> None:
    policies = [Policy(ranges=(each.of(family),) if each is not None else ()) for each in ranges]
    result = ground.race_of_policies(family, "LoadBalancer", policies)

    print(result)
    assert_it_was_a_race(result)
    assert (result.counts.escaped, result.counts.dropped) == (0, 0), result


@pytest.mark.parametrize("family", topology.FAMILIES)
@pytest.mark.parametrize("ranges", [_WIDE, _ELSEWHERE], ids=["let in", "kept out"])
def test_source_ranges_of_an_earlier_version_hold_while_it_is_replaced(
    ground: Ground, family: Family, ranges: Addresses
) -> None:
    result = ground.race_of_versions(family, ranges)

    print(result)
    assert result.counts.came >= ENOUGH_FLOWS, result
    expected = result.counts.came if ranges == _ELSEWHERE else 0
    assert (result.counts.escaped, result.counts.dropped) == (0, expected), result


def assert_it_was_a_race(result: Race) -> None:
    assert result.changes >= ENOUGH_CHANGES, result
    assert result.counts.came >= ENOUGH_FLOWS, result


FIRST = range


@pytest.mark.parametrize(
    ("family", "pools"),
    [
        pytest.param("IPv4", [FIRST(1), FIRST(2)], id="1 and 2"),
        pytest.param("IPv6", [FIRST(1), FIRST(2)], id="1 and 2, IPv6"),
        pytest.param("IPv4", [FIRST(2), FIRST(3)], id="2 and 3"),
        pytest.param("IPv6", [FIRST(4), FIRST(5)], id="4 and 5, IPv6"),
        pytest.param("IPv4", [FIRST(8), FIRST(9)], id="8 and 9"),
        pytest.param("IPv4", [FIRST(3), FIRST(4)], id="3 and 4"),
        pytest.param("IPv4", [FIRST(9), FIRST(10)], id="9 and 10"),
        pytest.param("IPv4", [FIRST(2), FIRST(10)], id="2 and 10"),
        pytest.param("IPv4", [[0], [1]], id="the only one replaced"),
        pytest.param("IPv6", [[0, 1, 2], [0, 3, 2]], id="one of 3 replaced, IPv6"),
        pytest.param("IPv4", [[0, 1, 2, 3, 4], [4, 5], [5, 6, 7, 8]], id="little in common"),
    ],
)
def test_every_new_flow_finds_an_endpoint(
    ground: Ground, family: Family, pools: Sequence[Pool]
) -> None:
    result = ground.race(family, pools)

    print(result)
    assert_it_was_a_race(result)
    assert result.counts.escaped == 0, result
    assert result.counts.refused == 0, result
    assert result.counts.dropped == 0, result


@pytest.mark.parametrize("family", topology.FAMILIES)
def test_a_frontend_that_changes_hands_is_served_throughout(
    ground: Ground, family: Family
) -> None:
    result = ground.race_of_owners(family)

    print(result)
    assert_it_was_a_race(result)
    assert (result.counts.escaped, result.counts.refused, result.counts.dropped) == (0, 0, 0)


@pytest.mark.parametrize("family", topology.FAMILIES)
def test_between_no_endpoint_and_one_every_new_flow_is_translated_or_refused(
    ground: Ground, family: Family
) -> None:
    result = ground.race(family, [[], [0]])

    print(result)
    assert_it_was_a_race(result)
    assert result.counts.escaped == 0, result
    assert result.counts.dropped == 0, result
    assert result.counts.translated > 0, result
    assert result.counts.refused > 0, result


@pytest.mark.parametrize("family", topology.FAMILIES)
def test_the_counters_see_what_no_rule_translates(ground: Ground, family: Family) -> None:
    unknown = Addresses("10.96.200.1", "fd00:10:96::c801").of(family)

    counts = ground.observe(family, unknown)

    assert counts.escaped == counts.came > 0


def test_the_counters_see_what_is_dropped(ground: Ground) -> None:
    vip = "10.96.0.8"
    ground.put(
        make_desired("default/not-here", cluster_ip=vip, protocol="UDP", is_any_usable=True)
    )

    counts = ground.observe("IPv4", vip)

    assert counts.dropped == counts.came > 0
