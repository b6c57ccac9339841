"""Graceful termination: who drains, for how long, and what a restart changes of that (nothing)."""

import asyncio
from pathlib import Path

import pytest

from backends.ipvs.belief import DRAIN_S
from backends.kernel.ipvs_objects import Load, ServerId
from tests.desired_strategies import make_desired
from tests.unit.backends.ipvs.driving import Kernel, Process

SERVER = ServerId("IPv4", "TCP", "10.96.0.10", 80)
A, B = "10.1.0.1:80", "10.1.0.2:80"
IDLE, BUSY = Load(0, 0, 0), Load(3, 0, 0)
BOTH, ONLY_B, NONE = (
    make_desired("default/web", A, B),
    make_desired("default/web", B),
    make_desired(),
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def test_a_destination_with_connections_gets_weight_0_and_stays_until_they_end(
    kernel: Kernel,
) -> None:
    async def run() -> None:
        process = Process(kernel)
        await process.adopt(BOTH)
        kernel.ipvs.count(SERVER, "10.1.0.1", 80, BUSY)

        applied = await process.program(ONLY_B)
        assert applied.again_s is not None
        assert kernel.destinations(SERVER) == {B: (1, IDLE), A: (0, BUSY)}

        assert (await process.look(ONLY_B)).again_s is not None
        assert A in kernel.destinations(SERVER)

        kernel.ipvs.count(SERVER, "10.1.0.1", 80, IDLE)
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


def test_a_restart_goes_on_where_the_last_process_was(kernel: Kernel, tmp_path: Path) -> None:
    async def run() -> None:
        clock, file = Clock(), tmp_path / "run" / "draining.json"
        first = Process(kernel, deadlines_file=file, now_s=clock)
        await first.adopt(BOTH)
        kernel.ipvs.count(SERVER, "10.1.0.1", 80, BUSY)
        await first.program(ONLY_B)
        first.backend.close()

        clock.now_s += DRAIN_S - 1
        second = Process(kernel, deadlines_file=file, now_s=clock)
        await second.adopt(ONLY_B)
        assert kernel.destinations(SERVER) == {B: (1, IDLE), A: (0, BUSY)}
        await second.look(ONLY_B)
        assert A in kernel.destinations(SERVER)

        clock.now_s += 1
        await second.look(ONLY_B)
        assert A not in kernel.destinations(SERVER)

    asyncio.run(run())


def test_without_the_file_a_restart_begins_the_time_anew(kernel: Kernel, tmp_path: Path) -> None:
    async def run() -> None:
        clock, file = Clock(), tmp_path / "draining.json"
        first = Process(kernel, deadlines_file=file, now_s=clock)
        await first.adopt(BOTH)
        kernel.ipvs.count(SERVER, "10.1.0.1", 80, BUSY)
        await first.program(ONLY_B)
        file.write_text("rubbish")

        clock.now_s += DRAIN_S
        second = Process(kernel, deadlines_file=file, now_s=clock)
        await second.adopt(ONLY_B)
        await second.look(ONLY_B)
        assert A in kernel.destinations(SERVER)

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
