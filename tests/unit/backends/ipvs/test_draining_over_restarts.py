"""What a restart changes of graceful termination: nothing."""

import asyncio
from pathlib import Path

import pytest

from backends.ipvs.belief import DRAIN_S
from backends.ipvs.deadlines import load
from backends.ipvs.draining import LOOK_S
from backends.kernel.ipvs_objects import ServerId
from proxy.desired import DesiredPort, Frontend
from tests.desired_strategies import make_desired
from tests.unit.backends.ipvs.drained import BOTH, BUSY, IDLE, NONE, ONLY_B, SERVER, A, B, Clock
from tests.unit.backends.ipvs.driving import Kernel, Process

NODE_PORT = Frontend("NodePort", None, 30080)


class Node:
    """A kernel on which processes follow each other, with one clock and one file. Who is not told to stop was killed."""

    def __init__(self, file: Path) -> None:
        self.kernel, self.clock, self.file = Kernel(), Clock(), file
        self.process = Process(self.kernel)

    def start(self, *ports: DesiredPort, drain_s: float = DRAIN_S) -> None:
        self.process = Process(
            self.kernel, deadlines_file=self.file, drain_s=drain_s, now_s=self.clock
        )
        self.observe(*ports)

    def observe(self, *ports: DesiredPort) -> None:
        asyncio.run(self.process.adopt(*ports))

    def stop(self) -> None:
        self.process.backend.close()

    def program(self, *ports: DesiredPort) -> None:
        asyncio.run(self.process.program(*ports))

    def look(self, *ports: DesiredPort, after_s: float = 0.0) -> None:
        self.clock.now_s += after_s
        asyncio.run(self.process.look(*ports))

    def keep_busy(self, *places: str, server: ServerId = SERVER) -> None:
        for place in places:
            self.kernel.ipvs.count(server, place.partition(":")[0], 80, BUSY)

    def start_draining(self, *, drain_s: float = DRAIN_S) -> None:
        """Have one of two endpoints go, which has connections."""
        self.start(BOTH, drain_s=drain_s)
        self.keep_busy(A)
        self.program(ONLY_B)

    def written(self) -> int:
        """Of how many destinations the file says until when they may drain."""
        return len(load(self.file))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "run" / "draining.json")


def test_a_restart_goes_on_where_the_last_process_was(node: Node) -> None:
    node.start_draining()
    node.stop()

    node.clock.now_s += DRAIN_S - 1
    node.start(ONLY_B)
    assert node.kernel.destinations(SERVER) == {B: (1, IDLE), A: (0, BUSY)}
    node.look(ONLY_B)
    assert A in node.kernel.destinations(SERVER)

    node.look(ONLY_B, after_s=1)
    assert A not in node.kernel.destinations(SERVER)


def test_without_the_file_a_restart_begins_the_time_anew(node: Node) -> None:
    node.start_draining()
    node.file.write_text("rubbish")

    node.clock.now_s += DRAIN_S
    node.start(ONLY_B)
    node.look(ONLY_B)

    assert A in node.kernel.destinations(SERVER)


def test_of_many_changes_within_a_second_the_first_and_the_last_are_written(node: Node) -> None:
    node.start(BOTH)
    node.keep_busy(A, B)
    assert not node.file.exists()

    node.program(ONLY_B)
    assert node.written() == 1
    node.clock.now_s += LOOK_S / 2
    node.program(NONE)
    assert node.written() == 1
    node.look(NONE)
    assert node.written() == 2

    node.file.unlink()
    node.look(NONE, after_s=LOOK_S)
    assert not node.file.exists()  # nothing new
    node.program(ONLY_B)
    assert node.written() == 1


def test_a_restart_with_a_longer_time_gives_nobody_more_and_with_a_shorter_one_less(
    node: Node,
) -> None:
    left: list[float] = []
    node.start_draining(drain_s=100.0)
    for drain_s in (1000.0, 40.0):
        node.stop()
        node.clock.now_s += 10
        node.start(ONLY_B, drain_s=drain_s)
        draining = node.process.observed.draining[SERVER]
        left += [until_s - node.clock.now_s for until_s in draining.values()]

    assert left == [90.0, 40.0]


def test_who_was_wanted_again_over_a_restart_has_all_the_time_later(node: Node) -> None:
    node.start_draining()
    for _ in range(2):  # one finds it draining and wanted again, one finds the file only
        node.stop()
        node.start(BOTH)

    node.clock.now_s += DRAIN_S - 1
    node.program(ONLY_B)
    node.look(ONLY_B, after_s=DRAIN_S - 1)

    assert node.kernel.destinations(SERVER)[A] == (0, BUSY)


def test_what_was_not_written_yet_is_when_the_process_ends(node: Node) -> None:
    node.start_draining()
    node.keep_busy(B)
    node.program(NONE)
    assert node.written() == 1

    node.stop()

    assert node.written() == 2


def test_what_was_not_written_yet_is_not_forgotten_by_a_new_observation(node: Node) -> None:
    node.start_draining()
    node.keep_busy(B)
    node.program(NONE)

    node.clock.now_s += 100
    node.observe(NONE)

    assert set(node.process.observed.draining[SERVER].values()) == {1000.0 + DRAIN_S}


def test_connections_of_a_frontend_that_is_gone_go_on_over_a_restart(node: Node) -> None:
    node.start(make_desired("default/web", A, outer=(NODE_PORT,)))
    (by_mark,) = [server for server in node.process.observed.servers if server.mark]
    node.keep_busy(A, server=by_mark)
    inner = make_desired("default/web", A)
    node.program(inner)
    assert node.kernel.destinations(by_mark) == {A: (0, BUSY)}

    node.stop()
    node.clock.now_s += DRAIN_S - 1
    node.start(inner)
    assert node.kernel.destinations(by_mark) == {A: (0, BUSY)}

    node.look(inner, after_s=1)
    assert by_mark not in node.process.observed.servers
    assert SERVER in node.process.observed.servers


def test_a_service_that_is_deleted_while_no_process_runs_leaves_nothing_that_drains(
    node: Node,
) -> None:
    node.start(ONLY_B)
    node.keep_busy(B)
    node.program(NONE)
    node.stop()

    node.start()

    assert not node.process.observed.servers
    assert not node.process.observed.bound
