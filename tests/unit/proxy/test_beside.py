"""Two backends as one: each is told its own part, what both say is put together, and the first is what the mode is."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

import pytest

from proxy.backend import Backend, Draining, Figure, Held
from proxy.beside import Beside, at_localhost
from proxy.desired import Desired, Frontend
from proxy.desired_node import DesiredNode
from proxy.errors import KernelError
from proxy.localhost import Localhost
from proxy.model import PortKey
from tests.desired_strategies import make_desired
from tests.fakes.backend import FakeBackend, unreachable
from tests.model_builders import make_key

T = TypeVar("T")

PLAIN, OPEN = make_key("default/plain"), make_key("default/open")
NODE_PORT = Frontend("NodePort", None, 30080)


class Part(FakeBackend):
    """A backend that can be asked for its end, and counts something."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.said: list[str] = []

    async def probe(self) -> None:
        self.said.append("probe")

    async def prepare(self) -> None:
        self.said.append("prepare")

    async def cleanup(self) -> int:
        return 2

    async def drain(self, deadline_s: float) -> int:
        self.said.append(f"drain {deadline_s:g}")
        return 3

    def figures(self) -> tuple[Figure, ...]:
        return (Figure(name="connections", text="Those there are.", values={"": 1}),)

    def close(self) -> None:
        self.said.append("close")


class Both:
    def __init__(self) -> None:
        self.first, self.second = Part("nftables"), Part("userspace")
        self.backend = Beside(
            self.first,
            self.second,
            Localhost(("IPv4", "IPv6")),
        )
        self.observed: Any = run(self.backend.observe())
        ports = {
            PLAIN: make_desired("default/plain"),
            OPEN: make_desired("default/open", outer=(NODE_PORT,)),
        }
        self.ports = ports
        self.desired = Desired(ports, DesiredNode())

    def program(self, keys: Iterable[PortKey]) -> Any:
        plan = self.backend.plan(self.desired, self.observed, list(keys))
        return run(self.backend.apply(plan, self.observed))

    def held(self, keys: list[PortKey] | None) -> list[Held]:
        async def read() -> list[Held]:
            return [h async for h in self.backend.read_back(self.desired, self.observed, keys)]

        return asyncio.run(read())


@pytest.fixture
def both() -> Both:
    return Both()


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def test_each_is_told_its_own_part(both: Both) -> None:
    applied = both.program([PLAIN, OPEN])

    assert both.first.kernel.keys() == {PLAIN, OPEN}
    assert both.second.kernel.keys() == {OPEN}
    assert both.second.kernel[OPEN].frontends == (NODE_PORT,)
    assert (applied.operations, applied.transactions) == (2, 1)


def test_to_assume_a_plan_is_to_believe_what_it_would_lead_both_to(both: Both) -> None:
    plan = both.backend.plan(both.desired, both.observed, [PLAIN, OPEN])

    applied = both.backend.assume(plan, both.observed)

    assert (applied.operations, applied.transactions) == (2, 1)
    assert both.first.kernel == both.second.kernel == {}
    assert not both.backend.plan(both.desired, both.observed, [PLAIN, OPEN])
    assert not both.backend.prune(both.desired, both.observed)


def test_without_the_second_the_first_is_assumed_all_the_same(both: Both) -> None:
    both.observed.second = None

    plan = both.backend.plan(both.desired, both.observed, [PLAIN, OPEN])

    assert both.backend.assume(plan, both.observed).operations == 2


def test_what_goes_goes_from_both(both: Both) -> None:
    both.program([PLAIN, OPEN])
    del both.ports[OPEN]

    both.program([OPEN])

    assert both.first.kernel.keys() == {PLAIN}
    assert both.second.kernel == {}


def test_a_plan_for_nothing_is_empty_and_one_for_either_is_not(both: Both) -> None:
    assert not both.backend.plan(both.desired, both.observed, [])
    both.program([PLAIN, OPEN])
    del both.ports[OPEN]
    both.observed.first.ports.clear()  # as if only the second had something left

    plan = both.backend.plan(both.desired, both.observed, [OPEN])

    assert plan
    assert plan.describe()[-1] == f"forget {OPEN}"


def test_leftovers_of_both_are_pruned(both: Both) -> None:
    both.program([PLAIN, OPEN])
    both.ports.clear()

    run(both.backend.apply(both.backend.prune(both.desired, both.observed), both.observed))

    assert (both.first.kernel, both.second.kernel) == ({}, {})


def test_a_plan_for_nobody_is_one_for_both(both: Both) -> None:
    assert both.backend.plan(both.desired, both.observed, []).second is not None


def test_who_cannot_be_served_by_either_is_told(both: Both) -> None:
    both.first.refused, both.second.refused = {PLAIN: "no room"}, {OPEN: "no room, either"}

    failed = both.program([PLAIN, OPEN]).failed

    assert failed == {PLAIN: "no room", OPEN: "no room, either"}


def test_the_second_is_not_asked_about_changes_that_do_not_concern_it(both: Both) -> None:
    both.program([PLAIN, OPEN])

    assert both.backend.plan(both.desired, both.observed, [PLAIN]).second is None
    assert both.backend.plan(both.desired, both.observed, [OPEN]).second is not None
    del both.ports[OPEN]
    both.program([OPEN])
    assert both.observed.served == set()
    assert both.backend.plan(both.desired, both.observed, [OPEN]).second is None


@pytest.mark.parametrize(
    ("first_s", "second_s", "due_s"),
    [(None, None, None), (None, 5.0, 5.0), (2.0, None, 2.0), (2.0, 5.0, 2.0), (5.0, 2.0, 2.0)],
)
def test_the_earlier_of_two_looks_is_due(
    both: Both, first_s: float | None, second_s: float | None, due_s: float | None
) -> None:
    both.first.again_s, both.second.again_s = first_s, second_s

    assert both.program([PLAIN, OPEN]).again_s == due_s


def test_what_the_mode_has_regained_is_told(both: Both) -> None:
    both.first.regained, both.second.regained = (PLAIN,), (OPEN,)

    assert both.program([PLAIN, OPEN]).regained == (PLAIN,)


def test_differences_of_both_are_found(both: Both) -> None:
    both.program([PLAIN, OPEN])
    assert not both.backend.has_foreign_change(both.observed)
    both.second.tamper(OPEN)

    assert both.backend.has_foreign_change(both.observed)
    both.first.tamper(PLAIN)
    drifts = run(both.backend.verify(both.observed))

    assert [each.key for each in drifts] == [PLAIN, OPEN]


def test_that_the_mode_is_out_of_reach_is_told(both: Both) -> None:
    both.first.failure = unreachable()

    with pytest.raises(KernelError):
        both.program([OPEN])


def test_that_the_second_is_out_of_reach_costs_localhost_only_until_it_can_be_had_again(
    both: Both, caplog: pytest.LogCaptureFixture
) -> None:
    both.second.failure = unreachable()
    assert both.program([PLAIN, OPEN]).failed == {}
    assert both.first.kernel.keys() == {PLAIN, OPEN}
    assert not both.backend.has_foreign_change(both.observed)
    both.first.tamper(PLAIN)
    assert [each.key for each in run(both.backend.verify(both.observed))] == [PLAIN]
    (rest,) = [each for each in both.held(None) if each.key is None]
    assert "No buffer space" in rest.differences[0]
    assert caplog.text.count("NodePorts at localhost cannot be served for now: ") == 1

    both.observed = run(both.backend.observe())
    assert both.program([PLAIN]).failed == {}
    assert not both.backend.prune(both.desired, both.observed)
    assert [each.values[""] for each in both.backend.figures() if "served" in each.name] == [0.0]
    both.second.failure = None
    (drift,) = run(both.backend.verify(both.observed))
    assert drift.key is None
    both.observed = run(both.backend.observe())
    both.program([OPEN])
    assert both.second.kernel.keys() == {OPEN}


def test_a_second_that_cannot_be_compared_is_left_out_as_well(both: Both) -> None:
    both.program([PLAIN, OPEN])
    both.second.failure = unreachable()

    assert run(both.backend.verify(both.observed)) == []
    del both.ports[OPEN]
    assert both.program([OPEN]).failed == {}
    assert both.first.kernel.keys() == {PLAIN}


def test_what_both_hold_is_shown_together_and_told_apart(both: Both) -> None:
    both.program([PLAIN, OPEN])
    both.second.kernel.clear()
    both.second.kernel[OPEN] = make_desired("default/open", cluster_ip=None, outer=(NODE_PORT,))

    plain, opened = both.held([PLAIN, OPEN])

    assert all(not line.startswith("localhost: ") for line in plain.lines)
    assert [line for line in opened.lines if line.startswith("localhost: NodePort")]
    assert opened.lines[0].startswith("ClusterIP")
    assert {each.key for each in both.held(None)} >= {PLAIN, OPEN, None}
    keys = [each.key for each in both.held(None)]
    assert len(keys) == len(set(keys))


def test_what_only_the_second_holds_is_shown(both: Both) -> None:
    both.program([PLAIN, OPEN])
    both.first.kernel.pop(OPEN)
    both.observed.first.ports.pop(OPEN)

    (opened,) = [each for each in both.held(None) if each.key == OPEN]

    assert all(line.startswith("localhost: ") for line in opened.lines)


def test_the_mode_is_that_of_the_first(both: Both) -> None:
    run(both.backend.probe())
    run(both.backend.prepare())

    assert both.backend.name == "nftables"
    assert (both.first.said, both.second.said) == (["probe", "prepare"], [])
    assert {each.name: each.values[""] for each in both.backend.figures()} == {
        "connections": 1.0,
        "localhost_served": 1.0,
        "localhost_connections": 1.0,
    }


def test_the_second_has_connections_to_let_end(both: Both) -> None:
    assert isinstance(both.backend, Draining)
    assert run(both.backend.drain(5.0)) == 3
    assert (both.first.said, both.second.said) == ([], ["drain 5"])


def test_both_are_cleaned_up_and_closed(both: Both) -> None:
    assert run(both.backend.cleanup()) == 4
    both.backend.close()

    assert (both.first.said, both.second.said) == (["close"], ["close"])


def test_whatever_one_of_them_needs_is_needed(both: Both) -> None:
    observed = both.observed
    assert (observed.is_rebuild_due, observed.worth_a_commit) == (False, 0)
    observed.second.worth_a_commit = 7
    observed.first.is_rebuild_due = True

    assert (observed.is_rebuild_due, observed.worth_a_commit) == (True, 7)


def test_which_families_are_served_at_localhost_is_known(both: Both) -> None:
    assert at_localhost(both.backend) == ("IPv4", "IPv6")
    assert at_localhost(both.first) == ()


def test_it_is_a_backend() -> None:
    backend: Backend[Any, Any] = Both().backend

    assert backend.name
    assert run(backend.retire()).again_s is None
    assert not isinstance(FakeBackend(), Draining)
