"""Graceful termination: who drains, for how long, and what is told of it."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from backends.ipvs.belief import DRAIN_S
from backends.ipvs.draining import (
    AT_ONCE,
    INLINE_DESTINATIONS,
    LISTED,
    LOOK_AGAIN_S,
    LOOK_ON_S,
    LOOK_S,
    Draining,
)
from backends.kernel.ipvs import Ipvs, Refusal
from backends.kernel.ipvs_objects import Destination, Load, ServerId
from proxy.desired import DesiredPort
from proxy.metrics import ours
from tests import deployment
from tests.desired_strategies import make_desired
from tests.unit.backends.ipvs.drained import BOTH, BUSY, IDLE, NONE, ONLY_B, SERVER, A, B, Clock
from tests.unit.backends.ipvs.driving import Kernel, Process

NAMES = {"one": "10.96.1.1", "other": "10.96.1.2"}


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def test_a_destination_with_connections_gets_weight_0_and_stays_until_they_end(
    kernel: Kernel,
) -> None:
    async def run() -> None:
        clock = Clock()
        process = Process(kernel, now_s=clock)
        await process.adopt(BOTH)
        kernel.ipvs.count(SERVER, "10.1.0.1", 80, BUSY)

        applied = await process.program(ONLY_B)
        assert applied.again_s is not None
        assert kernel.destinations(SERVER) == {B: (1, IDLE), A: (0, BUSY)}

        assert (await process.look(ONLY_B)).again_s is not None
        assert A in kernel.destinations(SERVER)

        kernel.ipvs.count(SERVER, "10.1.0.1", 80, IDLE)
        clock.now_s += LOOK_AGAIN_S
        assert (await process.look(ONLY_B)).again_s is None
        assert kernel.destinations(SERVER) == {B: (1, IDLE)}

    asyncio.run(run())


def test_inactive_connections_count_as_well(kernel: Kernel) -> None:
    async def run() -> None:
        process = Process(kernel)
        await process.adopt(BOTH)
        kernel.ipvs.count(SERVER, "10.1.0.1", 80, Load(0, 1, 0))
        await process.program(ONLY_B)
        await process.look(ONLY_B)

        assert A in kernel.destinations(SERVER)

    asyncio.run(run())


def test_a_destination_goes_with_its_connections_when_its_time_is_up(kernel: Kernel) -> None:
    async def run() -> None:
        clock = Clock()
        process = Process(kernel, now_s=clock)
        await process.adopt(BOTH)
        kernel.ipvs.count(SERVER, "10.1.0.1", 80, BUSY)
        await process.program(ONLY_B)
        clock.now_s += DRAIN_S - 1
        await process.look(ONLY_B)
        assert A in kernel.destinations(SERVER)

        clock.now_s += 1
        await process.look(ONLY_B)
        assert A not in kernel.destinations(SERVER)

    asyncio.run(run())


def test_a_destination_that_is_wanted_again_gets_its_weight_back(kernel: Kernel) -> None:
    async def run() -> None:
        process = Process(kernel)
        await process.adopt(BOTH)
        kernel.ipvs.count(SERVER, "10.1.0.1", 80, BUSY)
        await process.program(ONLY_B)

        assert (await process.program(BOTH)).again_s is None
        assert kernel.destinations(SERVER) == {B: (1, IDLE), A: (1, BUSY)}
        assert not process.observed.draining

    asyncio.run(run())


@pytest.mark.parametrize("protocol", ["UDP", "SCTP"])
def test_where_nobody_sees_the_end_of_a_connection_a_destination_goes_at_once(
    kernel: Kernel, protocol: str
) -> None:
    async def run() -> None:
        process = Process(kernel)
        both, only_b = (
            make_desired("default/web", *pool, protocol=protocol)  # type: ignore[arg-type] # two of the three
            for pool in ((A, B), (B,))
        )
        await process.adopt(both)
        server = SERVER._replace(protocol=protocol)  # type: ignore[arg-type] # likewise
        kernel.ipvs.count(server, "10.1.0.1", 80, BUSY)

        assert (await process.program(only_b)).again_s is None
        assert list(kernel.destinations(server)) == [B]

    asyncio.run(run())


def test_the_last_destination_drains_while_new_connections_are_refused(kernel: Kernel) -> None:
    async def run() -> None:
        process = Process(kernel)
        await process.adopt(ONLY_B)
        kernel.ipvs.count(SERVER, "10.1.0.2", 80, BUSY)
        await process.program(NONE)

        assert kernel.destinations(SERVER) == {B: (0, BUSY)}
        sets = process.observed.tables["IPv4"].elements
        assert (len(sets["services"]), len(sets["refused"])) == (0, 1)
        kernel.ipvs.count(SERVER, "10.1.0.2", 80, IDLE)
        await process.look(NONE)
        assert SERVER not in process.observed.servers

    asyncio.run(run())


def test_a_service_that_goes_takes_its_virtual_server_with_it(kernel: Kernel) -> None:
    async def run() -> None:
        process = Process(kernel)
        await process.adopt(BOTH)
        kernel.ipvs.count(SERVER, "10.1.0.1", 80, BUSY)
        await process.program(gone=(BOTH.key,))

        assert SERVER not in process.observed.servers
        assert not process.observed.bound

    asyncio.run(run())


def test_how_long_a_destination_may_drain_can_be_set(kernel: Kernel) -> None:
    async def run() -> None:
        clock = Clock()
        process = Process(kernel, drain_s=30.0, now_s=clock)
        await process.adopt(BOTH)
        kernel.ipvs.count(SERVER, "10.1.0.1", 80, BUSY)
        await process.program(ONLY_B)
        clock.now_s += 29
        await process.look(ONLY_B)
        assert A in kernel.destinations(SERVER)

        clock.now_s += 1
        await process.look(ONLY_B)
        assert A not in kernel.destinations(SERVER)

    asyncio.run(run())


def test_the_next_look_is_due_when_the_first_deadline_is(kernel: Kernel) -> None:
    async def run() -> None:
        clock = Clock()
        process = Process(kernel, drain_s=12.0, now_s=clock)
        await process.adopt(BOTH)
        kernel.ipvs.count(SERVER, "10.1.0.1", 80, BUSY)
        assert (await process.program(ONLY_B)).again_s == LOOK_S
        for after_s, again_s in ((LOOK_S, 5.0), (5.0, 5.0), (5.0, 1.0), (1.0, None)):
            clock.now_s += after_s
            assert (await process.look(ONLY_B)).again_s == again_s
        assert A not in kernel.destinations(SERVER)

    asyncio.run(run())


def test_what_begins_to_drain_meanwhile_makes_nobody_else_be_looked_at_sooner(
    kernel: Kernel,
) -> None:
    ports = [make_desired(f"default/{name}", B, cluster_ip=ip) for name, ip in NAMES.items()]
    servers = [ServerId("IPv4", "TCP", ip, 80) for ip in NAMES.values()]

    async def run() -> None:
        clock = Clock()
        process = Process(kernel, now_s=clock)
        await process.adopt(*ports)
        for server in servers:
            kernel.ipvs.count(server, "10.1.0.2", 80, BUSY)
        await process.program(_without_endpoints(ports[0]), ports[1])
        await process.look()
        kernel.ipvs.count(servers[0], "10.1.0.2", 80, IDLE)
        clock.now_s += LOOK_AGAIN_S - 2
        await process.program(*map(_without_endpoints, ports))
        clock.now_s += LOOK_S
        kernel.ipvs.count(servers[1], "10.1.0.2", 80, IDLE)
        assert (await process.look()).again_s == 1.0
        assert list(process.observed.draining) == [servers[0]]

        clock.now_s += 1
        assert (await process.look()).again_s is None
        assert not process.observed.servers

    asyncio.run(run())


def _without_endpoints(port: DesiredPort) -> DesiredPort:
    return make_desired(f"default/{port.key.name.name}", cluster_ip=port.frontends[0].address)


# --- what is told of it


def figures(process: Process) -> dict[str, float]:
    """Numbers by name, and by the value of the label where there is one."""
    return {
        f"{each.name} {value}".rstrip(): number
        for each in process.backend.figures()
        for value, number in each.values.items()
    }


def test_what_drains_and_how_it_ended_is_counted(kernel: Kernel) -> None:
    async def run() -> None:
        clock = Clock()
        process = Process(kernel, now_s=clock)
        await process.adopt(BOTH)
        assert set(figures(process).values()) == {0}
        kernel.ipvs.count(SERVER, "10.1.0.1", 80, Load(3, 2, 0))
        kernel.ipvs.count(SERVER, "10.1.0.2", 80, Load(1, 0, 0))
        await process.program(NONE)
        await process.look(NONE)
        begun = {
            "draining_destinations": 2,
            "draining_connections active": 4,
            "draining_connections inactive": 2,
            "drained_destinations_total idle": 0,
            "drained_destinations_total deadline": 0,
            "cut_connections_total": 0,
        }
        assert figures(process) == begun

        kernel.ipvs.count(SERVER, "10.1.0.2", 80, IDLE)
        clock.now_s += LOOK_AGAIN_S
        await process.look(NONE)
        assert figures(process) == begun | {
            "draining_destinations": 1,
            "draining_connections active": 3,
            "drained_destinations_total idle": 1,
        }

        clock.now_s += DRAIN_S
        await process.look(NONE)
        assert figures(process) == dict.fromkeys(begun, 0) | {
            "drained_destinations_total idle": 1,
            "drained_destinations_total deadline": 1,
            "cut_connections_total": 5,
        }

    asyncio.run(run())


def test_what_is_counted_is_shown_as_metrics() -> None:
    families = list(ours.figures("ipvs", Draining().figures()))

    assert {family.name: family.type for family in families} == {
        "sliceproxy_ipvs_draining_destinations": "gauge",
        "sliceproxy_ipvs_draining_connections": "gauge",
        "sliceproxy_ipvs_drained_destinations": "counter",  # with _total where it is written
        "sliceproxy_ipvs_cut_connections": "counter",
    }
    page = (deployment.ROOT / "docs/debug.md").read_text()
    for family in families:
        assert family.documentation.endswith(".")
        suffix = "_total" if family.type == "counter" else ""
        assert f"`{family.name}{suffix}" in page
        for sample in family.samples:
            assert all(value in page for value in sample.labels.values())


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [each.getMessage() for each in caplog.records if "drain" in each.name]
    caplog.clear()
    return found


def test_when_draining_begins_and_how_it_ends_is_logged_once(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def run() -> None:
        clock = Clock()
        process = Process(kernel, now_s=clock)
        await process.adopt(BOTH)
        kernel.ipvs.count(SERVER, "10.1.0.1", 80, Load(3, 2, 0))
        kernel.ipvs.count(SERVER, "10.1.0.2", 80, Load(0, 1, 0))
        await process.program(NONE)
        clock.now_s += 1
        await process.look(NONE)
        assert sorted(said(caplog)) == [
            "TCP 10.96.0.10:80: 10.1.0.1:80 with 3 active and 2 inactive connections: drains, for 899 s at most",
            "TCP 10.96.0.10:80: 10.1.0.2:80 with 0 active and 1 inactive connections: drains, for 899 s at most",
        ]

        kernel.ipvs.count(SERVER, "10.1.0.2", 80, IDLE)
        for _ in range(2):
            clock.now_s += LOOK_AGAIN_S
            await process.look(NONE)
        assert said(caplog) == [
            "TCP 10.96.0.10:80: 10.1.0.2:80 with 0 active and 0 inactive connections: removed, it has drained"
        ]

        clock.now_s += DRAIN_S
        await process.look(NONE)
        assert said(caplog) == [
            "TCP 10.96.0.10:80: 10.1.0.1:80 with 3 active and 2 inactive connections: removed, its time is up"
        ]

    asyncio.run(run())


def test_who_has_nothing_to_wait_for_goes_without_a_word(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def run() -> None:
        process = Process(kernel)
        await process.adopt(BOTH)
        await process.program(ONLY_B)
        await process.look(ONLY_B)
        assert figures(process)["drained_destinations_total idle"] == 1

    asyncio.run(run())
    assert said(caplog) == []


def test_of_a_roll_out_of_many_not_every_one_is_logged(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    pool = [f"10.1.1.{number}:80" for number in range(LISTED + 3)]

    async def run() -> None:
        clock = Clock()
        process = Process(kernel, now_s=clock)
        await process.adopt(make_desired("default/web", *pool))
        for place in pool:
            kernel.ipvs.count(SERVER, place.partition(":")[0], 80, BUSY)
        await process.program(NONE)
        await process.look(NONE)

        *lines, last = said(caplog)
        assert (len(lines), last) == (LISTED, "and 3 more that drain or have drained")

        for place in pool[:-1]:
            kernel.ipvs.count(SERVER, place.partition(":")[0], 80, IDLE)
        clock.now_s += DRAIN_S
        await process.look(NONE)
        assert said(caplog)[0].endswith("removed, its time is up")

    asyncio.run(run())


def test_where_much_drains_it_is_looked_at_in_parts_all_of_which_count(kernel: Kernel) -> None:
    ports = [
        make_desired(f"default/web-{number}", B, cluster_ip=f"10.96.1.{number}")
        for number in range(2 * AT_ONCE + 1)
    ]

    async def run() -> None:
        clock = Clock()
        process = Process(kernel, now_s=clock)
        await process.adopt(*ports)
        servers = list(process.observed.servers)
        for server in servers:
            kernel.ipvs.count(server, "10.1.0.2", 80, BUSY)
        await process.program(*map(_without_endpoints, ports))
        pauses = [(await process.look()).again_s for _ in range(3)]
        assert pauses == [LOOK_ON_S, LOOK_ON_S, LOOK_AGAIN_S]
        assert figures(process)["draining_connections active"] == len(ports) * BUSY.active

        for server in servers:
            kernel.ipvs.count(server, "10.1.0.2", 80, IDLE)
        clock.now_s += LOOK_AGAIN_S
        for left in (AT_ONCE + 1, 1, 0):
            await process.look()
            assert len(process.observed.servers) == left
        assert figures(process)["draining_connections active"] == 0

    asyncio.run(run())


class Slow(Ipvs):
    """Remembers in which threads destinations were listed and messages sent."""

    def __init__(self) -> None:
        super().__init__()
        self.is_main: list[bool] = []

    def list_destinations(self, server: ServerId) -> list[tuple[Destination, Load]]:
        self._note()
        return super().list_destinations(server)

    def carry_out(self, messages: Sequence[bytes]) -> list[Refusal]:
        self._note()
        return super().carry_out(messages)

    def _note(self) -> None:
        self.is_main.append(threading.current_thread() is threading.main_thread())


@pytest.mark.parametrize(("more", "is_inline"), [(0, True), (2, False)])
def test_many_destinations_are_looked_at_and_removed_without_holding_the_event_loop(
    kernel: Kernel, more: int, is_inline: bool
) -> None:
    pool = [f"10.1.1.{number}:80" for number in range(INLINE_DESTINATIONS + more)]

    async def run() -> None:
        process = Process(kernel)
        await process.adopt(make_desired("default/web", *pool))
        kernel.ipvs.count(SERVER, "10.1.1.0", 80, BUSY)
        await process.program(NONE)
        doors = process.backend._opened
        with kernel.entered():
            watched = Slow()
        doors[0].ipvs.close()
        doors[0] = doors[0]._replace(ipvs=watched)

        await process.look(NONE)

        assert list(kernel.destinations(SERVER)) == [pool[0]]
        assert watched.is_main == [is_inline] * 2  # of the look, and of the removal
        process.backend.close()

    asyncio.run(run())
