"""The sweeper beside the reconciler: when it looks, at what, and that nothing is forgotten."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from msgspec import structs

from proxy import conntrack_sweeper, reconciler
from proxy.backend import Drift
from proxy.conntrack_sweeper import (
    CREDIT_S,
    EVERYTHING_S,
    EVERYTHING_SHARE,
    MOST_CHANGED,
    SHARE,
    Sweeper,
)
from proxy.errors import KernelError
from proxy.model import Endpoint, EndpointSlice, Family, Service
from proxy.netlink.conntrack import Entry
from proxy.sources.events import Delete
from tests.daemon import make_daemon
from tests.fakes.backend import FakeBackend
from tests.fakes.conntrack import FakeFlows, make_entry
from tests.model_builders import (
    make_endpoint,
    make_key,
    make_service,
    make_service_port,
    make_slice,
)

A, B, C = "10.1.0.1:53", "10.1.0.2:53", "10.1.0.3:53"
VIP, EXTERNAL = "10.96.0.10:53", "192.0.2.1:53"
DNS = make_key("default/dns", protocol="UDP")
SOON_S = 0.01


class Node:
    """Reconciler and sweeper, and the flows of some clients."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, listening: tuple[str, ...] = ()) -> None:
        self.daemon = make_daemon(monkeypatch)
        monkeypatch.setattr(conntrack_sweeper, "time", self.daemon.clock)
        monkeypatch.setattr(reconciler, "PRUNED_AT_ONCE", 10_000)  # a thread has another clock
        self.flows = FakeFlows()
        self.sweeper = Sweeper(self.daemon.reconciler, self.flows, listening)
        self.daemon.reconciler.on_round = self.sweeper.on_round

    def live(self, life: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def both() -> None:
            sweeping = asyncio.create_task(self.sweeper.run())
            living = asyncio.create_task(life())
            try:
                await asyncio.wait([sweeping, living], return_when=asyncio.FIRST_COMPLETED)
                for task in (sweeping, living):
                    if task.done():
                        task.result()
            finally:
                sweeping.cancel()
                living.cancel()
                await asyncio.gather(sweeping, living, return_exceptions=True)

        self.daemon.live(both)

    def flow(self, source: str | None, destination: str = VIP, client: int = 1) -> Entry:
        """Have a client's flow tracked."""
        made = make_entry(destination, source, client=client)
        self.flows.entries.add(made)
        return made

    async def tell(self, *news: Service | EndpointSlice | Delete) -> None:
        """Tell, and wait until what follows has happened."""
        self.daemon.tell(*news)
        await self.daemon.pass_s(SOON_S)

    async def start(self, *news: Service | EndpointSlice) -> None:
        self.daemon.tell_all(*news)
        await self.daemon.pass_s(SOON_S)

    @property
    def deleted(self) -> int:
        return sum(each.deleted for each in self.sweeper.families.values())


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(monkeypatch)


def dns(*external: str, node_port: int = 0, name: str = "default/dns") -> Service:
    port = make_service_port(
        name, protocol="UDP", port=53, external_ips=external, node_port=node_port
    )
    return make_service(name, port)


def listing(*endpoints: str | Endpoint, service: str = "dns") -> EndpointSlice:
    listed = [make_endpoint(each) if isinstance(each, str) else each for each in endpoints]
    return make_slice(f"{service}-1", *listed, service=service, protocol="UDP", family="IPv4")


def idle(address: str) -> Endpoint:
    return make_endpoint(address, ready=False, serving=False, terminating=True)


def lingering(address: str) -> Endpoint:
    return make_endpoint(address, ready=False, terminating=True)


# --- what goes


def test_at_start_whatever_is_stale_goes(node: Node) -> None:
    stale, live_, foreign = node.flow(C), node.flow(A, client=2), node.flow(C, "10.96.0.99:53")

    async def life() -> None:
        await node.start(dns(), listing(A, B))

        assert node.flows.entries == {live_, foreign}
        assert node.deleted == 1
        assert stale not in node.flows.entries

    node.live(life)


def test_nothing_goes_before_everything_was_programmed(node: Node) -> None:
    node.flow(C)

    async def life() -> None:
        await node.tell(dns(), listing(A))
        await node.daemon.pass_s(EVERYTHING_S * 2)

        assert node.flows.sweeps == []

    node.live(life)


def test_flows_to_an_endpoint_that_goes_go_with_it(node: Node) -> None:
    async def life() -> None:
        await node.start(dns("192.0.2.1"), listing(A, B))
        node.flow(A)
        node.flow(A, EXTERNAL)
        stays = node.flow(B)

        await node.tell(listing(B))

        assert node.flows.entries == {stays}

    node.live(life)


def test_flows_stay_while_their_endpoint_serves_although_new_ones_go_elsewhere(node: Node) -> None:
    async def life() -> None:
        await node.start(dns(), listing(A))
        stays = node.flow(A)
        await node.tell(listing(lingering(A), B))
        assert node.flows.entries == {stays}

        await node.tell(listing(idle(A), B))  # which changes nothing in the data plane
        assert node.flows.entries == set()

    node.live(life)


def test_so_it_is_when_the_proxy_began_after_that(node: Node) -> None:
    node.flow(A)

    async def life() -> None:
        await node.start(dns(), listing(lingering(A), B))
        assert len(node.flows.entries) == 1

        await node.tell(listing(idle(A), B))
        assert node.flows.entries == set()

    node.live(life)


def test_what_was_sent_while_there_were_no_endpoints_goes_as_soon_as_there_are_some(
    node: Node,
) -> None:
    async def life() -> None:
        await node.start(dns(), listing(A))
        await node.tell(listing())
        bound, untranslated = node.flow(A), node.flow(None, client=2)
        await node.daemon.pass_s(EVERYTHING_S * 2)
        assert node.flows.entries == {bound, untranslated}

        await node.tell(listing(B))
        assert node.flows.entries == set()

    node.live(life)


def test_what_was_sent_before_an_address_was_ours_goes(node: Node) -> None:
    async def life() -> None:
        await node.start(dns(), listing(A))
        node.flow(None, EXTERNAL)

        await node.tell(dns("192.0.2.1"))
        assert node.flows.entries == set()

    node.live(life)


def test_flows_of_a_service_that_is_gone_stay_until_another_has_its_address(node: Node) -> None:
    async def life() -> None:
        await node.start(dns(), listing(A))
        node.flow(A)

        await node.tell(Delete("Service", "default", "dns"))
        await node.daemon.pass_s(EVERYTHING_S * 2)
        assert len(node.flows.entries) == 1

        await node.tell(dns(name="default/other"), listing(B, service="other"))
        assert node.flows.entries == set()

    node.live(life)


def test_a_service_that_was_gone_for_a_moment_is_looked_through_anew(node: Node) -> None:
    async def life() -> None:
        await node.start(dns(), listing(A))
        await node.tell(Delete("Service", "default", "dns"))
        node.flow(None)

        await node.tell(dns())
        assert node.flows.entries == set()

    node.live(life)


def test_so_is_one_that_was_gone_while_it_rested(node: Node) -> None:
    async def life() -> None:
        await node.start(dns(), listing(A, B))
        node.flows.cpu_s = CREDIT_S * 1.5
        await node.tell(listing(A))  # after which it rests
        node.flows.cpu_s = 0.0
        await node.tell(Delete("Service", "default", "dns"))
        node.flow(None)
        await node.tell(dns())

        await node.daemon.pass_s(CREDIT_S / SHARE)
        assert node.flows.entries == set()

    node.live(life)


def test_what_was_repaired_is_looked_through_for_what_went_by_meanwhile(node: Node) -> None:
    async def life() -> None:
        await node.start(dns(), listing(A))
        node.flow(None)

        node.daemon.backend.tamper(DNS)
        await node.daemon.pass_s(2.0)
        assert node.daemon.verifier.repairs == 1
        assert node.flows.entries == set()

    node.live(life)


def test_node_ports_are_swept_on_the_addresses_of_this_host(node: Node) -> None:
    async def life() -> None:
        await node.start(dns(node_port=30053), listing(A))
        node.flow(B, "172.18.0.1:30053")
        other = node.flow(B, "172.18.0.2:30053")
        await node.daemon.pass_s(EVERYTHING_S * 2)
        assert len(node.flows.entries) == 2

        node.sweeper.on_addresses(frozenset({"172.18.0.1"}))
        await node.daemon.pass_s(SOON_S)
        assert node.flows.entries == {other}

        sweeps = len(node.flows.sweeps)
        node.sweeper.on_addresses(frozenset({"172.18.0.1"}))
        await node.daemon.pass_s(SOON_S)
        assert len(node.flows.sweeps) == sweeps, "no news"

    node.live(life)


@pytest.mark.parametrize("families", [(), ("IPv4",)], ids=["by rules", "by a listener"])
def test_flows_through_a_node_port_at_localhost_go_with_their_endpoint_or_have_a_listener(
    node: Node, families: tuple[Family, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBackend, "at_localhost", families, raising=False)

    async def life() -> None:
        await node.start(dns(node_port=30053), listing(A, B))
        node.flow(A, "127.0.0.1:30053")
        listened = node.flow(None, "127.0.0.1:30053", client=2)

        await node.tell(listing(B))
        await node.daemon.pass_s(EVERYTHING_S * 2)

        assert node.flows.entries == ({listened} if families else set())

    node.live(life)


def test_flows_to_listeners_stay_but_not_those_that_an_earlier_mode_translated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Node(monkeypatch, listening=("fake",))
    node.flow(C)
    listened = node.flow(None, client=2)

    async def life() -> None:
        await node.start(dns(), listing(A))
        await node.daemon.pass_s(EVERYTHING_S * 2)

        assert node.flows.entries == {listened}
        assert node.deleted == 1

    node.live(life)


def test_what_was_sent_while_there_were_no_endpoints_goes_although_it_rested_then(
    node: Node,
) -> None:
    async def life() -> None:
        await node.start(dns(), listing(A, B))
        node.flows.cpu_s = CREDIT_S * 1.5
        await node.tell(listing(A))  # after which it rests
        node.flows.cpu_s = 0.0
        await node.tell(listing())
        node.flow(None)
        await node.tell(listing(A))

        await node.daemon.pass_s(CREDIT_S / SHARE)
        assert node.flows.entries == set()

    node.live(life)


def test_flows_through_an_address_that_another_had_meanwhile_go_although_it_rested_then(
    node: Node,
) -> None:
    def older(*external: str) -> Service:
        port = make_service_port("default/old", protocol="UDP", port=53, external_ips=external)
        port = structs.replace(port, cluster_ip="10.96.0.11")
        return make_service("default/old", port, created="2020-01-01T00:00:00Z")

    async def life() -> None:
        await node.start(dns("192.0.2.1"), listing(A, B), older(), listing(C, service="old"))
        node.flows.cpu_s = CREDIT_S * 1.5
        await node.tell(listing(A))  # after which it rests
        node.flows.cpu_s = 0.0
        await node.tell(older("192.0.2.1"))
        node.flow(C, EXTERNAL)
        await node.tell(older())

        await node.daemon.pass_s(CREDIT_S / SHARE)
        assert node.flows.entries == set()

    node.live(life)


# --- when it looks


def test_the_links_of_pods_that_come_and_go_are_no_reason(node: Node) -> None:
    async def life() -> None:
        await node.start(dns(node_port=30053), listing(A))
        node.sweeper.on_addresses(frozenset({"172.18.0.1"}))
        await node.daemon.pass_s(SOON_S)
        sweeps = len(node.flows.sweeps)

        node.sweeper.on_addresses(frozenset({"172.18.0.1", "fe80::1"}))
        await node.daemon.pass_s(SOON_S)
        node.sweeper.on_addresses(frozenset({"172.18.0.1"}))
        await node.daemon.pass_s(SOON_S)
        node.sweeper.on_addresses(frozenset())
        await node.daemon.pass_s(SOON_S)

        assert len(node.flows.sweeps) == sweeps

    node.live(life)


def test_nothing_is_asked_without_udp(node: Node) -> None:
    async def life() -> None:
        await node.start(make_service(), make_slice("web-a", make_endpoint(A)))
        await node.tell(make_slice("web-a", make_endpoint(B)))
        await node.daemon.pass_s(EVERYTHING_S * 3)

        assert node.flows.sweeps == []

    node.live(life)


def test_endpoints_that_only_come_are_no_reason(node: Node) -> None:
    async def life() -> None:
        await node.start(dns(), listing(A))
        sweeps = len(node.flows.sweeps)

        await node.tell(listing(A, B))
        assert len(node.flows.sweeps) == sweeps

    node.live(life)


def test_everything_is_looked_through_once_a_period(node: Node) -> None:
    async def life() -> None:
        await node.start(dns(), listing(A))
        node.flow(None)  # of which nobody is told
        await node.daemon.pass_s(EVERYTHING_S - 1)
        assert node.deleted == 0

        await node.daemon.pass_s(2)
        assert node.deleted == 1
        assert len(node.flows.sweeps) == 2

    node.live(life)


def test_in_the_long_run_it_takes_no_more_than_its_share(node: Node) -> None:
    async def life() -> None:
        await node.start(dns(), listing(A))
        node.flows.cpu_s = 0.04
        began_s, sweeps, cpu_s = node.daemon.now_s, len(node.flows.sweeps), node.sweeper.cpu_s
        for number in range(400):
            await node.tell(listing(A if number % 2 else B))
            await node.daemon.pass_s(0.1 - SOON_S)
        took_s = node.daemon.now_s - began_s

        assert node.sweeper.cpu_s - cpu_s < took_s * SHARE + CREDIT_S + 0.04
        assert len(node.flows.sweeps) - sweeps > 0.9 * (took_s * SHARE + CREDIT_S) / 0.04

    node.live(life)


def test_after_a_quiet_time_some_changes_are_looked_at_at_once_however_large_the_table(
    node: Node,
) -> None:
    async def life() -> None:
        await node.start(dns(), listing(A, B, C))
        node.flows.cpu_s = CREDIT_S / 4
        for gone, left in ((A, [B, C]), (B, [C]), (C, [A])):
            node.flow(gone)
            await node.tell(listing(*left))
            assert node.flows.entries == set()

    node.live(life)


def test_looking_through_everything_now_and_then_holds_no_change_up(node: Node) -> None:
    node.flows.cpu_s = 2.0

    async def life() -> None:
        await node.start(dns(), listing(A))
        node.flows.cpu_s = 0.0
        node.flow(A)
        await node.tell(listing(B))
        assert node.flows.entries == set()
        assert len(node.flows.sweeps) == 2

        await node.daemon.pass_s(2.0 / EVERYTHING_SHARE - 1.0)
        assert len(node.flows.sweeps) == 2
        await node.daemon.pass_s(1.0)
        assert len(node.flows.sweeps) == 3

    node.live(life)


def test_what_came_and_went_while_it_rested_is_not_forgotten(node: Node) -> None:
    async def life() -> None:
        await node.start(dns(), listing(A))
        node.flows.cpu_s = CREDIT_S * 1.5
        await node.tell(listing(B))  # after which it rests
        node.flows.cpu_s = 0.0
        await node.tell(listing(C))
        node.flow(C)
        await node.tell(listing(A))
        assert node.deleted == 0

        await node.daemon.pass_s(CREDIT_S / SHARE)
        assert node.flows.entries == set()

    node.live(life)


def test_a_round_that_changes_very_much_has_everything_looked_through(node: Node) -> None:
    ports = [
        make_service_port(
            f"default/s{n}", protocol="UDP", port=53, cluster_ip=f"10.96.{n >> 8}.{n & 255}"
        )
        for n in range(1, MOST_CHANGED + 3)
    ]
    services = [make_service(str(port.key.name.service), port) for port in ports]
    slices = [listing(A, service=service.name.name) for service in services]

    async def life() -> None:
        await node.start(*services, *slices)
        node.flow(A, "10.96.0.1:53")
        node.flow(None, "10.96.0.2:53")

        await node.tell(*[listing(B, service=service.name.name) for service in services])
        await node.daemon.pass_s(1.0)
        assert node.flows.entries == set()

    node.live(life)


# --- trouble


def test_what_could_not_be_done_is_done_later(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async def life() -> None:
        await node.start(dns(), listing(A))
        node.flow(A)
        node.flows.failure = KernelError("netlink dump", 1, "Operation not permitted")
        await node.tell(listing(B))
        await node.daemon.pass_s(10.0)
        assert node.sweeper.failures == 4, "after 1, 2, 4 and 8 seconds"
        assert "Operation not permitted" in node.sweeper.last_error

        node.flows.failure = None
        await node.daemon.pass_s(8.0)
        assert node.flows.entries == set()
        assert node.sweeper.last_error == ""

    node.live(life)

    said = [r.message for r in caplog.records if r.levelno == logging.ERROR]
    assert said == [
        "stale UDP flows stay for now: netlink dump: Operation not permitted (errno 1)"
    ]


def test_a_failed_first_sweep_is_repeated_as_a_whole(node: Node) -> None:
    node.flow(None)
    node.flows.failure = KernelError("netlink dump", 1, "Operation not permitted")

    async def life() -> None:
        await node.start(dns(), listing(A))
        node.flows.failure = None
        await node.daemon.pass_s(2.0)
        assert node.flows.entries == set()

    node.live(life)


def test_so_is_every_sweep_of_everything(node: Node) -> None:
    async def life() -> None:
        await node.start(dns(), listing(A))
        node.flows.failure = KernelError("netlink dump", 1, "Operation not permitted")
        node.daemon.reconciler.repair([Drift(key=None, what="a shared chain")])
        await node.daemon.pass_s(SOON_S)
        node.flow(None)

        node.flows.failure = None
        await node.daemon.pass_s(2.0)
        assert node.flows.entries == set()

    node.live(life)


def test_what_would_not_go_is_tried_again(node: Node) -> None:
    async def life() -> None:
        await node.start(dns(), listing(A))
        node.flow(A)
        node.flows.trouble = "Operation not permitted"
        await node.tell(listing(B))
        assert (node.sweeper.failures, node.deleted) == (1, 0)

        node.flows.trouble = ""
        await node.daemon.pass_s(2.0)
        assert node.flows.entries == set()

    node.live(life)


def test_flows_that_began_before_a_change_was_programmed_are_not_forgotten(node: Node) -> None:
    """The cache knows that an endpoint has gone, the kernel does not: new flows go there still."""

    async def life() -> None:
        await node.start(dns(), listing(A, B))
        await node.tell(listing(A, B, C))
        node.daemon.backend.apply_s = 1.0
        node.daemon.tell(listing(B))
        await node.daemon.pass_s(0.5)
        node.sweeper.on_addresses(frozenset({"172.18.0.1"}))  # everything is looked through
        await node.daemon.pass_s(0.2)
        node.flow(A)

        await node.daemon.pass_s(1.0)
        assert node.flows.entries == set()

    node.live(life)


def test_a_failed_round_loses_nothing(node: Node) -> None:
    async def life() -> None:
        await node.start(dns(), listing(A))
        node.flow(A)
        node.daemon.backend.failure = KernelError("commit", 16, "Device or resource busy")
        await node.tell(listing(B))
        assert len(node.flows.entries) == 1

        node.daemon.backend.failure = None
        await node.daemon.pass_s(10.0)
        assert node.flows.entries == set()

    node.live(life)


def test_durations_and_deletions_are_counted_by_family(node: Node) -> None:
    async def life() -> None:
        await node.start(dns(), listing(A))
        node.flow(A)
        node.flows.cpu_s = 0.002
        await node.tell(listing(B))

        families = node.sweeper.families
        assert (families["IPv4"].deleted, families["IPv6"].deleted) == (1, 0)
        assert families["IPv4"].durations.cumulative()[-1] == 2
        assert families["IPv4"].durations.sum == pytest.approx(0.002)
        assert node.sweeper.sweeps == 2
        assert families["IPv6"].durations.cumulative()[-1] == 0

    node.live(life)
