"""What a restart changes of graceful termination: nothing."""

import asyncio
from pathlib import Path

import pytest

from backends.ipvs.belief import DRAIN_S
from backends.ipvs.deadlines import load
from backends.ipvs.draining import LOOK_S
from proxy.desired import Frontend
from tests.desired_strategies import make_desired
from tests.unit.backends.ipvs.drained import BOTH, BUSY, IDLE, NONE, ONLY_B, SERVER, A, B, Clock
from tests.unit.backends.ipvs.driving import Kernel, Process

NODE_PORT = Frontend("NodePort", None, 30080)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


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


def test_of_many_changes_within_a_second_the_first_and_the_last_are_written(
    kernel: Kernel, tmp_path: Path
) -> None:
    file = tmp_path / "draining.json"

    async def run() -> None:
        clock = Clock()
        process = Process(kernel, deadlines_file=file, now_s=clock)
        await process.adopt(BOTH)
        for address in ("10.1.0.1", "10.1.0.2"):
            kernel.ipvs.count(SERVER, address, 80, BUSY)
        assert not file.exists()

        await process.program(ONLY_B)
        assert len(load(file)) == 1
        clock.now_s += LOOK_S / 2
        await process.program(NONE)
        assert len(load(file)) == 1
        await process.look(NONE)
        assert len(load(file)) == 2

        file.unlink()
        clock.now_s += LOOK_S
        await process.look(NONE)
        assert not file.exists()  # nothing new
        await process.program(ONLY_B)
        assert len(load(file)) == 1

    asyncio.run(run())


def test_a_restart_with_a_longer_time_gives_nobody_more_and_with_a_shorter_one_less(
    kernel: Kernel, tmp_path: Path
) -> None:
    async def run() -> None:
        clock, file = Clock(), tmp_path / "draining.json"
        left: list[float] = []
        process = Process(kernel, deadlines_file=file, drain_s=100.0, now_s=clock)
        await process.adopt(BOTH)
        kernel.ipvs.count(SERVER, "10.1.0.1", 80, BUSY)
        await process.program(ONLY_B)
        for drain_s in (1000.0, 40.0):
            process.backend.close()
            clock.now_s += 10
            process = Process(kernel, deadlines_file=file, drain_s=drain_s, now_s=clock)
            await process.adopt(ONLY_B)
            left += [
                until_s - clock.now_s for until_s in process.observed.draining[SERVER].values()
            ]
        assert left == [90.0, 40.0]

    asyncio.run(run())


def test_who_was_wanted_again_over_a_restart_has_all_the_time_later(
    kernel: Kernel, tmp_path: Path
) -> None:
    async def run() -> None:
        clock, file = Clock(), tmp_path / "draining.json"
        process = Process(kernel, deadlines_file=file, now_s=clock)
        await process.adopt(BOTH)
        kernel.ipvs.count(SERVER, "10.1.0.1", 80, BUSY)
        await process.program(ONLY_B)
        for _ in range(2):  # one finds it draining and wanted again, one finds the file only
            process.backend.close()
            process = Process(kernel, deadlines_file=file, now_s=clock)
            await process.adopt(BOTH)

        clock.now_s += DRAIN_S - 1
        await process.program(ONLY_B)
        clock.now_s += DRAIN_S - 1
        await process.look(ONLY_B)
        assert kernel.destinations(SERVER)[A] == (0, BUSY)

    asyncio.run(run())


def test_what_was_not_written_yet_is_when_the_process_ends(kernel: Kernel, tmp_path: Path) -> None:
    async def run() -> None:
        clock, file = Clock(), tmp_path / "draining.json"
        process = Process(kernel, deadlines_file=file, now_s=clock)
        await process.adopt(BOTH)
        for address in ("10.1.0.1", "10.1.0.2"):
            kernel.ipvs.count(SERVER, address, 80, BUSY)
        await process.program(ONLY_B)
        await process.program(NONE)
        assert len(load(file)) == 1

        process.backend.close()
        assert len(load(file)) == 2

    asyncio.run(run())


def test_what_was_not_written_yet_is_not_forgotten_by_a_new_observation(
    kernel: Kernel, tmp_path: Path
) -> None:
    async def run() -> None:
        clock, file = Clock(), tmp_path / "draining.json"
        process = Process(kernel, deadlines_file=file, now_s=clock)
        await process.adopt(BOTH)
        for address in ("10.1.0.1", "10.1.0.2"):
            kernel.ipvs.count(SERVER, address, 80, BUSY)
        await process.program(ONLY_B)
        await process.program(NONE)

        clock.now_s += 100
        await process.adopt(NONE)
        assert set(process.observed.draining[SERVER].values()) == {1000.0 + DRAIN_S}

    asyncio.run(run())


def test_connections_of_a_frontend_that_is_gone_go_on_over_a_restart(
    kernel: Kernel, tmp_path: Path
) -> None:
    async def run() -> None:
        clock, file = Clock(), tmp_path / "draining.json"
        process = Process(kernel, deadlines_file=file, now_s=clock)
        await process.adopt(make_desired("default/web", A, outer=(NODE_PORT,)))
        (by_mark,) = [server for server in process.observed.servers if server.mark]
        kernel.ipvs.count(by_mark, "10.1.0.1", 80, BUSY)
        inner = make_desired("default/web", A)
        await process.program(inner)
        assert kernel.destinations(by_mark) == {A: (0, BUSY)}

        process.backend.close()
        clock.now_s += DRAIN_S - 1
        process = Process(kernel, deadlines_file=file, now_s=clock)
        await process.adopt(inner)
        assert kernel.destinations(by_mark) == {A: (0, BUSY)}

        clock.now_s += 1
        await process.look(inner)
        assert by_mark not in process.observed.servers
        assert SERVER in process.observed.servers

    asyncio.run(run())


def test_a_service_that_is_deleted_while_no_process_runs_leaves_nothing_that_drains(
    kernel: Kernel, tmp_path: Path
) -> None:
    async def run() -> None:
        file = tmp_path / "draining.json"
        process = Process(kernel, deadlines_file=file)
        await process.adopt(ONLY_B)
        kernel.ipvs.count(SERVER, "10.1.0.2", 80, BUSY)
        await process.program(NONE)
        process.backend.close()

        process = Process(kernel, deadlines_file=file)
        await process.adopt()
        assert not process.observed.servers
        assert not process.observed.bound

    asyncio.run(run())
