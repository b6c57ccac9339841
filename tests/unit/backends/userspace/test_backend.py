"""The backend around engine and kernel. The laws are contract tests; here is what they do not ask for."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from backends.userspace.backend import RETRY_S, TAKEN_RETRY_S, UPGRADE_S, UserspaceBackend
from backends.userspace.engine import Engine
from backends.userspace.model import ROUTE_PROTOCOL, Place
from backends.userspace.settings import ForwarderSettings
from proxy.backend import Applied
from proxy.beside import at_localhost
from proxy.desired import DesiredPort, Frontend
from proxy.desired_node import DesiredNode
from proxy.errors import KernelError
from proxy.listeners import Listeners
from proxy.model import PortKey
from proxy.netlink.fib import Route
from tests.contract.driving import adopt
from tests.contract.meters import Meter
from tests.contract.userspace_host import (
    FakeEngine,
    FakeUserspaceGround,
    UserspaceHost,
    World,
)
from tests.desired_strategies import desired_state, make_desired, many_services, whole
from tests.fakes.routes import RoutesKernel
from tests.unit.proxy.config.loading import settings_of


def run(test: Callable[[UserspaceHost], Coroutine[Any, Any, None]]) -> None:
    with FakeUserspaceGround().fresh() as host:
        asyncio.run(test(host))


def test_it_is_made_of_the_settings_alone_and_closed_unused() -> None:
    backend = UserspaceBackend.from_settings(settings_of())

    assert backend.name == "userspace"
    assert at_localhost(backend) == ("IPv4", "IPv6")
    assert [sum(figure.values.values()) for figure in backend.figures()] == [0.0] * 6
    backend.close()


def test_node_ports_are_at_localhost_from_the_first_plan_on_and_go_with_the_service() -> None:
    async def test() -> None:
        kernel = RoutesKernel()
        with kernel.entered():
            made = FakeEngine(World(), Meter(), ForwarderSettings(), None)
            backend = UserspaceBackend(
                ForwarderSettings(localhost=("IPv4",)), make_engine=lambda _, __: made
            )
            with contextlib.closing(backend):
                port = make_desired(
                    "default/web", "10.1.0.1:80", outer=(Frontend("NodePort", None, 30080),)
                )
                observed = await adopt(backend, desired_state(port))
                await backend.apply(backend.prune(whole(desired_state(port)), observed), observed)
                assert not backend.plan(whole(desired_state(port)), observed, [port.key])
                assert Place("IPv4", "TCP", "127.0.0.1", 30080) in made.listening()
                gone = backend.prune(whole({}), observed)
                assert not (await backend.apply(gone, observed)).failed
                assert made.listening() == {}

    asyncio.run(test())


def test_a_port_that_is_taken_at_localhost_is_none_of_the_mode_and_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    here = Place("IPv4", "TCP", "127.0.0.1", 30080)
    port = make_desired("default/web", "10.1.0.1:80", outer=(Frontend("NodePort", None, 30080),))
    other = make_desired("default/other", "10.1.0.2:80")
    ports = desired_state(port, other)

    async def test() -> None:
        world = World()
        with RoutesKernel().entered():
            made = FakeEngine(world, Meter(), ForwarderSettings(), None)
            backend = UserspaceBackend(
                ForwarderSettings(localhost=("IPv4",)), make_engine=lambda _, __: made
            )
            with contextlib.closing(backend):
                observed = await backend.observe()

                async def program(
                    *keys: PortKey, of: dict[PortKey, DesiredPort] = ports, is_taken: bool = True
                ) -> float | None:
                    if is_taken:
                        world.taken.add(here)
                    plan = backend.plan(whole(of), observed, keys)
                    applied = await backend.apply(plan, observed)
                    assert not applied.failed
                    return applied.again_s

                assert await program(port.key) == RETRY_S
                assert await program() == RETRY_S
                assert await program(other.key) == RETRY_S
                told = "is not served at localhost, trying again: listen at TCP 127.0.0.1:30080"
                assert caplog.text.count(told) == 1
                held = [each async for each in backend.read_back(whole(ports), observed, ports)]
                refused = f"cannot listen at {here} for now"
                assert [refused in each.lines for each in held] == [True, False]
                assert here in world.taken, "no reason to try again whom that does not concern"

                assert await program(is_taken=False) == RETRY_S  # now they leave
                assert await program(is_taken=False) is None
                assert here in made.listening()
                assert "default/web (TCP, IPv4) is served at localhost now" in caplog.text

                made.stop(here)
                observed.listen(here, None)
                assert await program(port.key) == RETRY_S
                assert await program(port.key, of={other.key: other}) is None
                assert made.listening().keys() == observed.listening.keys()

    asyncio.run(test())


def test_a_place_that_is_taken_is_tried_again_every_second_while_the_process_before_may_run() -> (
    None
):
    port = make_desired("default/web", "10.1.0.1:80", cluster_ip="127.0.0.99", port=39083)
    desired, passed = whole(desired_state(port)), Listeners()

    async def test() -> None:
        with (
            RoutesKernel().entered(),
            contextlib.closing(UserspaceBackend(ForwarderSettings(), passed)) as backend,
        ):
            observed = await backend.observe()

            async def program(*keys: PortKey) -> Applied:
                return await backend.apply(backend.plan(desired, observed, keys), observed)

            with socket.create_server(("127.0.0.99", 39083)):
                applied = await program(port.key)
                assert "another program listens" in applied.failed[port.key]
                assert (applied.again_s, observed.refused) == (None, {})
                passed.met_s = time.monotonic()
                for keys in ([port.key], []):
                    applied = await program(*keys)
                    assert "another program listens" in applied.failed[port.key]
                    assert applied.again_s == TAKEN_RETRY_S <= 1
                passed.met_s -= UPGRADE_S
                assert (await program()).again_s is None
                assert not backend.plan(desired, observed, [])
                passed.met_s += UPGRADE_S
                assert (await program(port.key)).again_s == TAKEN_RETRY_S
            applied = await program()
            assert (applied.failed, applied.again_s) == ({}, None)
            assert applied.regained == (port.key,)
            assert not backend.plan(desired, observed, [port.key])
            assert [str(place) for place in observed.listening] == ["TCP 127.0.0.99:39083"]

    asyncio.run(test())


def test_what_fails_for_another_reason_waits_as_other_refusals_do() -> None:
    async def test(host: UserspaceHost) -> None:
        backend = host.start()
        observed = await adopt(backend, {})
        host.limit(0)
        ports = many_services(1)

        applied = await backend.apply(backend.plan(whole(ports), observed, list(ports)), observed)

        assert (list(applied.failed), applied.again_s) == (list(ports), None)
        assert not observed.refused

    run(test)


def test_what_cannot_be_forwarded_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def test(host: UserspaceHost) -> None:
        backend = host.start()
        ports = desired_state(make_desired("default/web", "10.1.0.1:80", protocol="SCTP"))
        observed = await adopt(backend, ports)
        changed = desired_state(make_desired("default/web", "10.1.0.2:80", protocol="SCTP"))
        await backend.apply(backend.plan(whole(changed), observed, list(changed)), observed)

    run(test)
    assert caplog.text.count("is not served: mode userspace forwards TCP and UDP") == 1


def test_one_frontend_that_is_taken_leaves_the_others_served() -> None:
    async def test(host: UserspaceHost) -> None:
        backend = host.start()
        observed = await adopt(backend, {})
        port = make_desired(
            "default/web", "10.1.0.1:80", outer=(Frontend("ExternalIP", "203.0.113.1", 80),)
        )
        host.occupy(port)

        ports = desired_state(port)
        applied = await backend.apply(backend.plan(whole(ports), observed, list(ports)), observed)

        assert "another program listens" in applied.failed[port.key]
        assert [place.address for place in observed.listening] == ["203.0.113.1"]

    run(test)


def test_a_refused_route_is_its_service_ports_failure_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = "10.96.0.2/32"

    def change(self: RoutesKernel, kind: int, route: Any) -> int:
        return 1 if route.cidr == refused else real(self, kind, route)

    real = RoutesKernel._change
    monkeypatch.setattr(RoutesKernel, "_change", change)

    async def test(host: UserspaceHost) -> None:
        backend, ports = host.start(), many_services(3)
        observed = await backend.observe()

        applied = await backend.apply(backend.plan(whole(ports), observed, list(ports)), observed)

        assert [str(key.name) for key in applied.failed] == ["default/s2"]
        assert sorted(observed.routes) == ["10.96.0.1", "10.96.0.3"]
        assert host.state(await backend.observe()) == host.state(observed)

    run(test)


def test_giving_way_removes_the_addresses() -> None:
    async def test(host: UserspaceHost) -> None:
        backend = host.start()
        await adopt(backend, many_services(3))

        retired = await backend.retire()

        assert (retired.removed, retired.again_s) == (("3 routes",), None)
        assert not host.own()
        assert (await backend.retire()).removed == ()

    run(test)


def test_what_somebody_does_to_addresses_of_this_host_is_noticed() -> None:
    async def test() -> None:
        kernel = RoutesKernel()
        with kernel.entered():
            backend = UserspaceBackend(ForwarderSettings())
            with contextlib.closing(backend):
                observed = await backend.observe()
                assert not backend.has_foreign_change(observed)
                kernel.add("eth1", "", "192.0.2.1")
                assert backend.has_foreign_change(observed)
                assert await backend.verify(observed) == []
                assert observed.host == {"192.0.2.1"}

    asyncio.run(test())


class HearingEngine(Engine):
    """Remembers which addresses of this host it was told."""

    def __init__(self) -> None:
        super().__init__(ForwarderSettings())
        self.told: list[frozenset[str]] = []

    def set_here(self, host: frozenset[str], ranges: tuple[str, ...]) -> None:
        super().set_here(host, ranges)
        self.told.append(host)


def test_addresses_are_no_foreign_change_where_none_is_listened_at_but_the_nodes_own() -> None:
    async def test() -> None:
        kernel, engine = RoutesKernel(), HearingEngine()
        with kernel.entered():
            backend = UserspaceBackend(ForwarderSettings(), make_engine=lambda _, __: engine)
            with contextlib.closing(backend):
                observed = await backend.observe()
                node = DesiredNode(node_port_addresses={"IPv4": ("127.0.0.1",), "IPv6": ()})
                await backend.apply(backend.plan(whole({}, node), observed, []), observed)
                host = observed.host
                assert not backend.has_foreign_change(observed)
                assert observed.host is host, "or each plan from now on compares them"
                kernel.add("eth1", "", "192.0.2.1")
                assert not backend.has_foreign_change(observed)
                assert observed.host == engine.told[-1] == {"192.0.2.1"}
                kernel.add("eth2", "", "192.0.2.2")
                assert await backend.verify(observed) == []
                assert observed.host == engine.told[-1] == {"192.0.2.1", "192.0.2.2"}

    asyncio.run(test())


def test_node_ports_follow_an_address_with_the_next_plan_at_the_latest() -> None:
    async def test() -> None:
        kernel = RoutesKernel()
        kernel.add("eth0", "", "127.0.0.8")
        with kernel.entered():
            backend = UserspaceBackend(ForwarderSettings())
            port = make_desired(
                "default/web", "10.1.0.1:80", outer=(Frontend("NodePort", None, 39081),)
            )
            ports = desired_state(port)
            with contextlib.closing(backend):
                observed = await backend.observe()
                await backend.apply(backend.plan(whole(ports), observed, list(ports)), observed)
                kernel.add("eth1", "", "192.0.2.1")
                kernel.put(Route("local", "10.96.7.7/32", ROUTE_PROTOCOL))
                other = make_desired(
                    "default/other", "10.1.0.1:80", cluster_ip="127.0.0.99", port=39082
                )
                ports[other.key] = other

                plan = backend.plan(whole(ports), observed, [other.key])
                applied = await backend.apply(plan, observed)
                assert applied.again_s is None  # a route is not as believed, so all is looked at
                assert backend.has_foreign_change(observed)
                assert len(await backend.verify(observed)) == 2

                kernel.add("eth2", "", "192.0.2.2")
                plan = backend.plan(whole(ports), observed, [])
                applied = await backend.apply(plan, observed)
                assert applied.again_s == 0.0
                assert not backend.has_foreign_change(observed)
                later = backend.plan(whole(ports), observed, [])
                assert [str(place) for place, _ in later.listening] == ["TCP 192.0.2.2:39081"]

    asyncio.run(test())


def test_a_kernel_that_is_out_of_reach_is_an_error() -> None:
    async def test(host: UserspaceHost) -> None:
        backend, ports = host.start(), many_services(1)
        observed = await backend.observe()
        plan = backend.plan(whole(ports), observed, list(ports))
        error = KernelError("routes", 110, "no reply")
        with host.failing(backend, error, is_done=False), pytest.raises(KernelError):
            await backend.apply(plan, observed)
        assert observed.serving == {}

    run(test)


def test_draining_without_connections_is_done_at_once() -> None:
    async def test(host: UserspaceHost) -> None:
        backend = host.start()
        assert isinstance(backend, UserspaceBackend)
        assert await backend.drain(1.0) == 0

    run(test)
