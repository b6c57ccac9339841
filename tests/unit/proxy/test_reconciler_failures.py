"""The reconciler when the kernel is out of reach or something has a defect, and what that may not cost."""

from collections.abc import Mapping, Set

import pytest

from backends.null.backend import NullObserved, NullPlan
from proxy.backend import Applied
from proxy.cache import Merged
from proxy.desired import DesiredState
from proxy.model import Family, NodeInfo, PortKey, Service, ServiceName, SlicePort
from tests.daemon import Daemon, make_daemon
from tests.fakes.backend import FakeBackend, unreachable
from tests.model_builders import (
    make_endpoint,
    make_key,
    make_service,
    make_service_port,
    make_slice,
)

A, B = "10.1.0.1:80", "10.1.0.2:80"
WEB, API, DB = make_key("default/web"), make_key("default/api"), make_key("default/db")


def service(name: str, number: int) -> Service:
    return make_service(name, make_service_port(cluster_ip=f"10.96.0.{number}"))


THREE = (service("default/web", 1), service("default/api", 2), service("default/db", 3))


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    return make_daemon(monkeypatch)


def test_a_kernel_out_of_reach_is_tried_less_and_less_often(daemon: Daemon) -> None:
    daemon.backend.failure = unreachable()

    async def life() -> None:
        started_s = daemon.now_s
        daemon.tell_all(make_service())
        at = []
        for _ in range(1000):
            before = daemon.reconciler.schedule.failures
            await daemon.pass_s(0.01)
            if daemon.reconciler.schedule.failures != before:
                at.append(round(daemon.now_s - started_s, 1))

        assert at == [0.0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3]
        assert "No buffer space available" in daemon.reconciler.last_error

    daemon.live(life)


def test_changes_do_not_hurry_the_retry(daemon: Daemon) -> None:
    daemon.backend.failure = unreachable()

    async def life() -> None:
        daemon.tell_all(make_service())
        for number in range(100):
            await daemon.pass_s(0.01)
            daemon.tell(make_slice("s-1", make_endpoint(f"10.1.0.{number}:80")))

        assert daemon.reconciler.schedule.failures == 4

    daemon.live(life)


def test_everything_is_programmed_once_the_kernel_answers(daemon: Daemon) -> None:
    daemon.backend.failure = unreachable()

    async def life() -> None:
        received_s = daemon.now_s
        daemon.tell_all(*THREE)
        await daemon.pass_s(1.0)
        daemon.backend.failure = None
        await daemon.pass_s(60.0)

        assert set(daemon.backend.kernel) == {WEB, API, DB}
        assert daemon.reconciler.last_error == ""
        assert daemon.reconciler.schedule.failures == 0
        assert {entry.received_s for entry in daemon.reconciler.journal} == {received_s}

    daemon.live(life)


def test_after_a_failed_transaction_belief_is_formed_anew(daemon: Daemon) -> None:
    async def life() -> None:
        daemon.tell_all(*THREE)
        await daemon.pass_s(1.0)
        assert len(daemon.backend.observed_at) == 1

        daemon.backend.failure = unreachable()
        received_s = daemon.now_s
        daemon.tell(make_slice("s-1", make_endpoint(A), resource_version="7"))
        await daemon.pass_s(0.01)
        daemon.backend.tamper(API)  # nobody knows what became of the transaction
        daemon.backend.failure = None
        await daemon.pass_s(1.0)

        assert len(daemon.backend.observed_at) == 2
        assert set(daemon.backend.kernel) == {WEB, API, DB}
        assert [e.address for e in daemon.backend.kernel[WEB].internal] == [A]
        (entry,) = [e for e in daemon.reconciler.journal if e.cause.resource_version == "7"]
        assert entry.received_s == received_s

    daemon.live(life)


def test_a_change_has_waited_since_it_was_first_received(daemon: Daemon) -> None:
    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s(1.0)
        daemon.backend.failure = unreachable()
        received_s = daemon.now_s
        daemon.tell(make_slice("s-1", make_endpoint(A)))
        await daemon.pass_s(0.01)
        daemon.tell(make_slice("s-1", make_endpoint(B)))
        daemon.backend.failure = None
        await daemon.pass_s(1.0)

        last = list(daemon.reconciler.journal)[-1]
        assert (last.key, last.received_s) == (WEB, received_s)
        assert [e.address for e in daemon.backend.kernel[WEB].internal] == [B]

    daemon.live(life)


def test_leftovers_the_kernel_will_not_remove_are_tried_again(daemon: Daemon) -> None:
    daemon.find_in_kernel(make_service("default/db"))
    daemon.backend.refused[DB] = "busy"

    async def life() -> None:
        daemon.tell_all(make_service("default/web"))
        await daemon.pass_s()
        daemon.backend.refused.clear()
        await daemon.pass_s(120.0)

        assert set(daemon.backend.kernel) == {WEB}

    daemon.live(life)


class _Defective(DesiredState):
    """Fails the first times it describes default/api."""

    def __init__(self, *, times: int = 1) -> None:
        super().__init__()
        self._times_left = times

    def update(
        self,
        name: ServiceName,
        service: Service | None,
        merged: Mapping[tuple[Family, SlicePort], Merged],
        node: NodeInfo,
    ) -> Set[PortKey]:
        if name.name == "api" and self._times_left > 0:
            self._times_left -= 1
            raise ValueError("a defect")
        return super().update(name, service, merged, node)


def test_a_defect_met_on_one_service_costs_no_other_its_change(daemon: Daemon) -> None:
    daemon.reconciler.desired = _Defective()

    async def life() -> None:
        daemon.tell_all(*THREE)
        await daemon.pass_s(1.0)

        assert {WEB, DB} <= set(daemon.backend.kernel)

    daemon.live(life)


def test_a_service_that_could_not_be_described_is_tried_again(daemon: Daemon) -> None:
    daemon.reconciler.desired = _Defective()

    async def life() -> None:
        daemon.tell_all(*THREE)
        await daemon.pass_s(60.0)

        assert API in daemon.backend.kernel

    daemon.live(life)


def test_what_could_not_be_described_has_waited_since_it_was_first_received(
    daemon: Daemon,
) -> None:
    daemon.reconciler.desired = _Defective()

    async def life() -> None:
        received_s = daemon.now_s
        daemon.tell_all(
            *THREE, make_slice("s-1", make_endpoint(A), service="api", triggered_s=7.0)
        )
        await daemon.pass_s(0.01)
        daemon.tell(make_slice("s-1", make_endpoint(B), service="api", triggered_s=8.0))
        await daemon.pass_s(1.0)

        (entry,) = [e for e in daemon.reconciler.journal if e.key == API]
        assert (entry.received_s, entry.triggered_s) == (received_s, 7.0)

    daemon.live(life)


def test_a_service_that_can_never_be_described_does_not_stop_the_others(daemon: Daemon) -> None:
    daemon.reconciler.desired = _Defective(times=1000)

    async def life() -> None:
        daemon.tell_all(*THREE)
        await daemon.pass_s(60.0)

        assert set(daemon.backend.kernel) == {WEB, DB}

    daemon.live(life)


def test_a_leftover_that_cannot_be_removed_delays_no_change(daemon: Daemon) -> None:
    daemon.find_in_kernel(make_service("default/db"))
    daemon.backend.refused[DB] = "busy"

    async def life() -> None:
        daemon.tell_all(make_service("default/web"))
        await daemon.pass_s(60.0)
        daemon.tell(make_slice("s-1", make_endpoint(A)))
        await daemon.pass_s(1.0)

        assert [e.address for e in daemon.backend.kernel[WEB].internal] == [A]

    daemon.live(life)


class _Stubborn(FakeBackend):
    """Fails whenever leftovers are to be removed."""

    def __init__(self) -> None:
        super().__init__()
        self.pruned_at: list[float] = []

    async def apply(self, plan: NullPlan, observed: NullObserved) -> Applied:
        if DB in plan.changes:
            self.pruned_at.append(self._touch())
            raise unreachable()
        return await super().apply(plan, observed)


def test_when_the_kernel_fails_over_leftovers_it_is_asked_ever_less_often(daemon: Daemon) -> None:
    backend = daemon.reconciler.backend = daemon.backend = _Stubborn()
    daemon.find_in_kernel(make_service("default/db"))

    async def life() -> None:
        started_s = daemon.now_s
        daemon.tell_all(make_service("default/web"))
        await daemon.pass_s(20.0)

        assert [round(at - started_s) for at in backend.pruned_at] == [0, 1, 3, 7, 15]
        assert set(backend.kernel) == {WEB, DB}

    daemon.live(life)
