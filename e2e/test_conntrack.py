"""Tracked UDP flows: what becomes of them when endpoints change, with packets and with tables full of flows."""

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pytest

from backends.nftables.backend import NftablesBackend
from backends.null.backend import NullBackend
from e2e import topology
from e2e.client import Conversation
from e2e.living import LIMIT_S, Life, live
from e2e.namespace import Namespace
from e2e.programmed import LAYOUT, default_route, endpoint
from e2e.topology import FAMILIES, Family, Host, World
from e2e.tracked import NUMBERS, Flow, Tracked, tracked
from proxy.conntrack_table import ConntrackTable
from proxy.model import Endpoint, EndpointSlice, Protocol, Service
from tests.fakes.conntrack import packed_end
from tests.model_builders import make_endpoint, make_service, make_service_port, make_slice

both_families = pytest.mark.parametrize("family", FAMILIES)
needs_nftables = pytest.mark.requires("nftables")

PORT, SERVER_PORT = 53, 5353
VIPS = {"IPv4": "10.96.0.10", "IPv6": "fd00:10:96::10"}


# --- packets


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with topology.world(pods=3) as made:
        topology.serve_on(made.pods, f"udp:{SERVER_PORT}")
        with default_route(made):
            yield made


@pytest.fixture
def flows(world: World) -> Iterator[Tracked]:
    with tracked(world.node.namespace) as table:
        table.forget()
        yield table


def nftables() -> NftablesBackend:
    return NftablesBackend(LAYOUT)


def dns(family: Family) -> Service:
    port = make_service_port(
        "default/dns", "dns", protocol="UDP", cluster_ip=VIPS[family], port=PORT
    )
    return make_service("default/dns", port)


def listing(family: Family, *endpoints: Endpoint) -> EndpointSlice:
    return make_slice(
        "dns-1", *endpoints, service="dns", port_name="dns", protocol="UDP", family=family
    )


def on(pod: Host, family: Family) -> Endpoint:
    return endpoint(pod, family, SERVER_PORT)


def leaving(pod: Host, family: Family, *, is_serving: bool) -> Endpoint:
    """The endpoint of a pod that is being deleted."""
    made = on(pod, family)
    return make_endpoint(
        made.address, ready=False, serving=is_serving, terminating=True, is_local=True
    )


def asked(conversation: Conversation) -> str:
    """Who answers, or how that fails."""
    try:
        return conversation.ask().name
    except OSError as error:
        return type(error).__name__


async def answered_by(conversation: Conversation, name: str) -> None:
    """Ask, always from the same port, until that one answers."""
    answers: set[str] = set()
    deadline_s = time.monotonic() + LIMIT_S
    while name not in answers:
        assert time.monotonic() < deadline_s, f"{name} never answered, but {answers}"
        answers.add(await asyncio.to_thread(asked, conversation))


@needs_nftables
@both_families
def test_a_client_that_keeps_its_port_is_moved_on(
    world: World, flows: Tracked, family: Family
) -> None:
    a, b, _ = world.pods

    async def life(node: Life) -> None:
        node.tell_all(dns(family), listing(family, on(a, family)))
        await node.reconciler.is_synced.wait()
        with world.client.converse(VIPS[family], PORT, protocol="udp") as conversation:
            await answered_by(conversation, "a")

            node.tell(listing(family, on(b, family)))
            await answered_by(conversation, "b")

        await node.until(lambda: node.deleted == 1)

    live(world.node.namespace, nftables, life)


@needs_nftables
@both_families
def test_a_flow_begun_before_there_was_a_service_is_served_later(
    world: World, flows: Tracked, family: Family
) -> None:
    a, *_ = world.pods

    async def life(node: Life) -> None:
        node.tell_all()
        await node.reconciler.is_synced.wait()
        with world.client.converse(VIPS[family], PORT, protocol="udp", timeout_s=0.1) as client:
            assert asked(client) == "TimeoutError"
            (flow,) = [each for each in flows.flows() if each.address == VIPS[family]]
            assert flow.endpoint is None

            node.tell(dns(family), listing(family, on(a, family)))
            await answered_by(client, "a")

    live(world.node.namespace, nftables, life)


@needs_nftables
@both_families
def test_a_flow_begun_while_there_were_no_endpoints_is_served_later(
    world: World, flows: Tracked, family: Family
) -> None:
    a, b, _ = world.pods

    async def life(node: Life) -> None:
        node.tell_all(dns(family), listing(family, on(a, family)))
        await node.reconciler.is_synced.wait()
        with world.client.converse(VIPS[family], PORT, protocol="udp") as client:
            await answered_by(client, "a")
            await node.programmed(listing(family))
            with world.client.converse(VIPS[family], PORT, protocol="udp") as late:
                await answered_by(late, "ConnectionRefusedError")
                assert asked(client) == "a", "nowhere to go: the flow is left alone"

                node.tell(listing(family, on(b, family)))
                await answered_by(late, "b")
                await answered_by(client, "b")

    live(world.node.namespace, nftables, life)


@needs_nftables
@both_families
def test_a_flow_stays_with_a_terminating_endpoint_for_as_long_as_that_serves(
    world: World, flows: Tracked, family: Family
) -> None:
    a, b, _ = world.pods

    async def life(node: Life) -> None:
        node.tell_all(dns(family), listing(family, on(a, family)))
        await node.reconciler.is_synced.wait()
        with world.client.converse(VIPS[family], PORT, protocol="udp") as conversation:
            await answered_by(conversation, "a")

            await node.programmed(
                listing(family, leaving(a, family, is_serving=True), on(b, family))
            )
            with world.client.converse(VIPS[family], PORT, protocol="udp") as other:
                await answered_by(other, "b")
            assert asked(conversation) == "a"
            assert node.deleted == 0

            node.tell(listing(family, leaving(a, family, is_serving=False), on(b, family)))
            await answered_by(conversation, "b")

    live(world.node.namespace, nftables, life)


# --- a table full of flows

SERVICES, ENTRIES, CHANGES = 40, 10_000, 4
HOST: Mapping[Family, str] = {"IPv4": "172.18.0.1", "IPv6": "fd00:172:18::1"}
End = tuple[str, int]


class Described(NamedTuple):
    """A service in plain words, and by the words of the documentation what of its flows is stale."""

    number: int
    family: Family
    protocol: Protocol
    node_port: int
    serving: frozenset[End]

    @property
    def fronts(self) -> set[End]:
        found = {(self.vip, PORT), (self.external, PORT)}
        return found | ({(HOST[self.family], self.node_port)} if self.node_port else set())

    @property
    def vip(self) -> str:
        return _address(self.family, "10.96.0.{}", "fd00:10:96::{:x}", self.number)

    @property
    def external(self) -> str:
        return _address(self.family, "192.0.2.{}", "2001:db8::{:x}", self.number)

    def is_stale(self, flow: Flow) -> bool:
        """Of a flow to one of its frontends."""
        return (
            self.protocol == "UDP"
            and flow.protocol == "udp"
            and bool(self.serving)
            and flow.endpoint not in self.serving
        )

    def objects(self) -> tuple[Service, EndpointSlice]:
        port = make_service_port(
            protocol=self.protocol,
            cluster_ip=self.vip,
            port=PORT,
            node_port=self.node_port,
            external_ips=(self.external,),
        )
        endpoints = [make_endpoint(_written(end)) for end in sorted(self.serving)]
        # one that every service lists, and that does not serve
        idle = make_endpoint(_written(_pod(self.family, 1)), ready=False, serving=False)
        made = make_slice(
            f"s{self.number}",
            *endpoints,
            idle,
            service=f"s{self.number}",
            protocol=self.protocol,
            family=self.family,
        )
        return make_service(f"default/s{self.number}", port), made


def _address(family: Family, v4: str, v6: str, number: int) -> str:
    return (v4 if family == "IPv4" else v6).format(number)


def _pod(family: Family, number: int, port: int = SERVER_PORT) -> End:
    return _address(family, "10.244.0.{}", "fd00:10:244::{:x}", number), port


def _written(end: End) -> str:
    ip, port = end
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _some_pods(rng: random.Random, family: Family) -> frozenset[End]:
    count = rng.choice([0, 1, 2, 4])
    return frozenset(
        _pod(family, rng.randint(2, 6), rng.choice([SERVER_PORT, 53])) for _ in range(count)
    )


def random_service(rng: random.Random, number: int) -> Described:
    family = rng.choice(FAMILIES)
    return Described(
        number,
        family,
        rng.choice(["UDP", "UDP", "UDP", "TCP"]),
        rng.choice([0, 30000 + number]),
        _some_pods(rng, family),
    )


def random_flow(rng: random.Random, number: int, services: Sequence[Described]) -> Flow:
    """A flow from a client of its own to something like a frontend, or to something else."""
    near = rng.choice(services)
    family = near.family
    foreign = _address(family, "198.51.100.{}", "2001:db8:1::{:x}", rng.randint(1, 9))
    address, port = rng.choice(
        [
            *near.fronts,
            (near.vip, PORT + 1),
            (HOST[family], 30000 + near.number),
            (foreign, 30000 + near.number),
            (foreign, PORT),
        ]
    )
    endpoint = _pod(family, rng.randint(1, 8), rng.choice([SERVER_PORT, 53]))
    client = _address(family, "10.{0}.1.1", "fd00:1::{0:x}", number % 200 + 1)
    return Flow(
        client,
        1024 + number,
        address,
        port,
        rng.choice([None, endpoint, endpoint]),
        rng.choice(["udp", "udp", "udp", "tcp"]),
        rng.choice([0] * 9 + [7]),
    )


@pytest.mark.parametrize("seed", range(2))
def test_exactly_the_stale_flows_go_whatever_else_is_tracked(seed: int) -> None:
    rng = random.Random(seed)
    services = [random_service(rng, number) for number in range(1, SERVICES + 1)]
    flows = {random_flow(rng, number, services) for number in range(ENTRIES)}

    async def life(node: Life) -> None:
        node.sweeper.on_addresses(frozenset(HOST.values()))
        node.tell_all(*[each for service in services for each in service.objects()])
        left, is_first = flows, True
        for _ in range(CHANGES + 1):
            if not is_first:
                chosen = rng.sample(range(SERVICES), rng.choice([1, 1, 2, 8]))
                for index in chosen:
                    services[index] = services[index]._replace(
                        serving=_some_pods(rng, services[index].family)
                    )
                    node.tell(services[index].objects()[1])
            owners = {front: each for each in services for front in each.fronts}
            stale = {
                flow
                for flow in left
                if (owner := owners.get((flow.address, flow.port))) and owner.is_stale(flow)
            }
            left = left - stale
            goal = len(flows) - len(left)
            await node.until(lambda goal=goal: node.deleted >= goal)  # type: ignore[misc]
            assert await asyncio.to_thread(table.flows) == left
            assert not is_first or stale
            is_first = False

    with Namespace("tracked") as namespace, tracked(namespace) as table:
        table.add(flows)
        assert table.flows() == flows
        live(namespace, NullBackend, life)


@both_families
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_of_many_flows_exactly_the_untranslated_to_some_destinations_are_forgotten(
    family: Family, protocol: str
) -> None:
    clients = {"IPv4": "192.0.2.1", "IPv6": "2001:db8::1"}
    kept, gone = VIPS[family], _address(family, "10.96.0.{}", "fd00:10:96::{:x}", 11)
    made = {
        Flow(clients[family], client_port, vip, port, to, each)
        for client_port in range(1024, 1224)
        for vip, port in ((kept, PORT), (gone, PORT), (gone, PORT + 1))
        for to in (_pod(family, 2), None)
        for each in ("udp", "tcp")
        if (client_port % 2 == 0) == (to is None)
    }
    with Namespace("forgetting") as namespace, tracked(namespace) as table:
        table.add(made)
        with namespace.entered(), contextlib.closing(ConntrackTable()) as flows:
            ends: dict[bytes, tuple[bytes, ...]] = {packed_end(_written((gone, PORT))): ()}
            assert flows.forget(family, ends, NUMBERS[protocol]) == 100

        meant = {
            each for each in made if each[2:5] == (gone, PORT, None) and each.protocol == protocol
        }
        assert table.flows() == made - meant
