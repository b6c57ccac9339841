"""No connection is lost while the rules change under it: law L5 of proxy/backend.py, watched from a pod.

The planner's transactions are committed in a tight loop, thousands of times a second, so that the instants between
two look-ups of one packet are hit. All endpoints keep listening throughout: any of them may answer, but one
must, and no packet may leave the node under the service's own address.
"""

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from e2e import topology
from e2e.client import Answer, Failure, Timed
from e2e.processes import Load
from e2e.programmed import Programmed, Stray, default_route, endpoint
from e2e.topology import FAMILIES, Addresses, Family, Host, World
from proxy.desired import DesiredPort
from proxy.model import Endpoint, Protocol
from tests.desired_strategies import make_desired
from tests.effort import examples, patience_s

pytestmark = pytest.mark.requires("nftables")

PROTOCOLS: tuple[Protocol, ...] = ("TCP", "UDP")
RACE_S = patience_s(1.5)
RATE = 600.0  # new connections a second, of each protocol
# of each protocol and family, on a machine that is busy with other things
ENOUGH_CONNECTIONS = examples(100)
ENOUGH_FLIPS = examples(1000)  # some 10,000 a second where nothing else runs
_NUMBERS = itertools.count(10)

Pool = tuple[int, ...]  # numbers of servers


@dataclass(frozen=True)
class Ground:
    """A client and nine servers: three ports on each of three pods."""

    data_plane: Programmed
    client: Host
    servers: list[tuple[Host, int]]
    stray: Stray

    def ports(self, vips: Addresses, pool: Pool, families: Sequence[Family]) -> list[DesiredPort]:
        """A service in these families and both protocols, with these servers behind it."""
        return [
            make_desired(
                f"default/at-{vips.v4}",
                *self._endpoints(pool, family),
                protocol=protocol,
                cluster_ip=vips.of(family),
            )
            for family in families
            for protocol in PROTOCOLS
        ]

    def _endpoints(self, pool: Pool, family: Family) -> list[Endpoint]:
        return [endpoint(host, family, port) for host, port in map(self.servers.__getitem__, pool)]


@dataclass(frozen=True)
class Race:
    """What came of the connections while the rules changed."""

    flips: int
    took_s: float
    seen: dict[str, list[Timed]]
    strayed: int

    @property
    def failures(self) -> Counter[Failure]:
        """How connections failed, and how many."""
        return Counter(
            timed.outcome
            for each in self.seen.values()
            for timed in each
            if isinstance(timed.outcome, Failure)
        )

    def __str__(self) -> str:
        connections = ", ".join(f"{len(each)} over {name}" for name, each in self.seen.items())
        failed = {failure.value: count for failure, count in self.failures.items()}
        return (
            f"{self.flips} flips in {self.took_s:.2f} s ({self.flips / self.took_s:.0f}/s); {connections};"
            f" failed: {failed or 'none'}; untranslated: {self.strayed}"
        )


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with topology.world(pods=4) as made:
        yield made


@pytest.fixture(scope="module")
def ground(world: World) -> Iterator[Ground]:
    client, *pods = world.pods
    numbers = range(8001, 8004)
    topology.serve_on(pods, *[f"{protocol}:{n}" for protocol in ("tcp", "udp") for n in numbers])
    with default_route(world) as stray, Programmed(world.node) as data_plane:
        servers = [(pod, number) for number in numbers for pod in pods]
        yield Ground(data_plane, client, servers, stray)


def race(ground: Ground, pools: Sequence[Pool], families: Sequence[Family]) -> Race:
    """Put one pool after the other, over and over, while connections are made."""
    # an address of its own: conntrack still knows the datagrams of earlier races, whose source ports come again
    number = next(_NUMBERS)
    vips = Addresses(f"10.96.0.{number}", f"fd00:10:96::{number:x}")
    states = [ground.ports(vips, pool, families) for pool in pools]
    ground.data_plane.put(*states[0])
    steps = states[1:] + states[:1]
    if len(families) == 1:
        # a transaction for each protocol: twice as many instants in which something changes
        steps = [[port] for state in steps for port in state]
    before = ground.stray.count()
    with contextlib.ExitStack() as running:
        loads: dict[str, Load] = {}
        for family, protocol in itertools.product(families, PROTOCOLS):
            load = ground.client.load(
                vips.of(family),
                80,
                protocol=protocol.lower(),
                rate=RATE / len(families),
                timeout_s=patience_s(3),
            )
            loads[f"{protocol} {family}"] = running.enter_context(load)
        if pools[0]:
            for load in loads.values():
                load.wait_for_more(1, within_s=patience_s(10))
        begun_s = time.monotonic()
        flips = ground.data_plane.flip(
            steps,
            RACE_S,
            at_least=ENOUGH_FLIPS,
            is_enough=lambda: all(
                len(_begun_since(load.outcomes(), begun_s)) >= ENOUGH_CONNECTIONS
                for load in loads.values()
            ),
        )
        took_s = time.monotonic() - begun_s
        seen = {name: _begun_since(load.stop(), begun_s) for name, load in loads.items()}
    return Race(flips, took_s, seen, ground.stray.count() - before)


def _begun_since(seen: Sequence[Timed], begun_s: float) -> list[Timed]:
    return [timed for timed in seen if timed.started_s >= begun_s]


def assert_it_was_a_race(result: Race) -> None:
    assert result.flips >= ENOUGH_FLIPS, str(result)
    assert all(len(each) >= ENOUGH_CONNECTIONS for each in result.seen.values()), str(result)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packet_that_nothing_translates_is_counted(ground: Ground, family: Family) -> None:
    before = ground.stray.count()
    unknown = {"IPv4": "10.96.0.1", "IPv6": "fd00:10:96::1"}[family]

    outcome = ground.client.ask(unknown, 80, protocol="udp", timeout_s=0.1)

    assert outcome is Failure.TIMEOUT
    assert ground.stray.count() == before + 1


@pytest.mark.parametrize(
    ("families", "pools"),
    [
        pytest.param(["IPv4"], [(0,), (0, 1)], id="1 and 2"),
        pytest.param(["IPv6"], [(0,), (0, 1)], id="1 and 2, IPv6"),
        pytest.param(["IPv4"], [(0, 1), (0, 1, 2)], id="2 and 3"),
        pytest.param(["IPv6"], [(0, 1), (0, 1, 2)], id="2 and 3, IPv6"),
        pytest.param(["IPv4"], [(0, 1, 2), (0, 1, 2, 3)], id="3 and 4"),
        pytest.param(["IPv4"], [(0, 1, 2, 3), (0, 1, 2, 3, 4)], id="4 and 5"),
        pytest.param(["IPv4"], [tuple(range(8)), tuple(range(9))], id="8 and 9"),
        pytest.param(["IPv4"], [(0, 1, 2), (0, 3, 2)], id="one of 3 replaced"),
        pytest.param(["IPv4"], [(0,), (1,)], id="the only one replaced"),
        pytest.param(
            FAMILIES,
            [(0, 1, 2, 3, 4), (4, 5), (5, 6, 7, 8)],
            id="pools without much in common, both families",
        ),
    ],
)
def test_no_connection_is_lost_while_endpoints_come_and_go(
    ground: Ground, families: Sequence[Family], pools: list[Pool]
) -> None:
    result = race(ground, pools, families)

    print(result)
    assert not result.failures, str(result)
    assert result.strayed == 0, str(result)
    assert_it_was_a_race(result)
    assert names(result) == {host.name for pool in pools for host, _ in serving(ground, pool)}


def serving(ground: Ground, pool: Pool) -> list[tuple[Host, int]]:
    return [ground.servers[number] for number in pool]


def names(result: Race) -> set[str]:
    outcomes = [timed.outcome for each in result.seen.values() for timed in each]
    return {outcome.name for outcome in outcomes if isinstance(outcome, Answer)}


@pytest.mark.parametrize("family", FAMILIES)
def test_between_no_endpoint_and_one_connections_are_answered_or_refused(
    ground: Ground, family: Family
) -> None:
    result = race(ground, [(), (0,)], [family])

    print(result)
    assert result.failures.keys() == {Failure.REFUSED}, str(result)
    assert result.strayed == 0, str(result)
    assert names(result) == {ground.servers[0][0].name}
    assert_it_was_a_race(result)
