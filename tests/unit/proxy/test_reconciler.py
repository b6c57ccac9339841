"""The reconciler: when it writes for the first time, and how changes reach the kernel."""

import asyncio
import contextlib
import logging
import threading

import pytest

from backends.null.backend import NullObserved, NullPlan
from proxy import batches, reconciler
from proxy.backend import Drift
from proxy.desired import Desired
from proxy.model import Service
from proxy.sources.events import Delete, ObjectKind, Synced
from tests.daemon import Daemon, listed, make_daemon
from tests.model_builders import (
    make_endpoint,
    make_key,
    make_node,
    make_service,
    make_service_port,
    make_slice,
)

A, B = "10.1.0.1:80", "10.1.0.2:80"
WEB, API = make_key("default/web"), make_key("default/api")


def service(name: str, number: int = 10, *, port: int = 80) -> Service:
    return make_service(name, make_service_port(cluster_ip=f"10.96.0.{number}", port=port))


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    return make_daemon(monkeypatch)


def programmed(daemon: Daemon) -> list[str]:
    """Return the addresses behind default/web in the kernel."""
    return [e.address for e in daemon.backend.kernel[WEB].internal]


@pytest.mark.parametrize("kind", ["Service", "EndpointSlice"])
def test_nothing_is_read_or_written_before_every_kind_was_listed(
    daemon: Daemon, kind: ObjectKind
) -> None:
    async def life() -> None:
        daemon.tell(make_service(), make_slice(), *listed(but=kind))
        await daemon.pass_s(3600.0)
        daemon.tell(make_service(resource_version="2"))
        await daemon.pass_s(1.0)
        assert (daemon.backend.observed_at, daemon.backend.applied) == ([], [])

        daemon.tell(Synced(kind))
        await daemon.pass_s()
        assert daemon.backend.applied == [[WEB]]

    daemon.live(life)


def test_a_node_that_cannot_be_read_is_waited_for_half_a_minute(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    async def life() -> None:
        daemon.tell(make_service(), *listed(but="Node"))
        await daemon.pass_s(reconciler.NODE_WAIT_S - 0.1)
        assert daemon.backend.observed_at == []

        await daemon.pass_s(0.2)
        assert daemon.backend.applied == [[WEB]]
        assert daemon.cache.unlisted == {"Node"}

    with caplog.at_level(logging.WARNING):
        daemon.live(life)

    assert "the own Node could not be read" in caplog.text


def test_a_node_that_comes_in_time_is_not_missed(daemon: Daemon) -> None:
    async def life() -> None:
        daemon.tell(make_service(), *listed(but="Node"))
        await daemon.pass_s(10.0)
        daemon.tell(make_node(), Synced("Node"))
        await daemon.pass_s()

        assert daemon.backend.applied == [[WEB]]

    daemon.live(life)


def test_a_node_is_waited_for_since_it_alone_is_missing(daemon: Daemon) -> None:
    """The API server was away for long at a start: it may well answer for the Node last."""

    async def life() -> None:
        daemon.tell(Synced("Service"))
        await daemon.pass_s(reconciler.NODE_WAIT_S + 10.0)
        daemon.tell(make_service(), Synced("EndpointSlice"))
        await daemon.pass_s(reconciler.NODE_WAIT_S - 0.1)
        assert daemon.backend.observed_at == []

        daemon.tell(make_node(), Synced("Node"))
        await daemon.pass_s()
        assert daemon.backend.applied == [[WEB]]

    daemon.live(life)


def test_a_node_that_comes_late_is_heeded(daemon: Daemon) -> None:
    async def life() -> None:
        daemon.tell(
            make_service(),
            make_slice(
                "s-1", make_endpoint(A, zone_hints=["z1"]), make_endpoint(B, zone_hints=["z2"])
            ),
            *listed(but="Node"),
        )
        await daemon.pass_s(reconciler.NODE_WAIT_S + 1.0)
        assert programmed(daemon) == [A, B]

        daemon.tell(make_node(zone="z2"), Synced("Node"))
        await daemon.pass_s()
        assert programmed(daemon) == [B]

    daemon.live(life)


def test_an_empty_cluster_is_programmed_too(daemon: Daemon) -> None:
    """What an earlier run left is removed, and whoever waits for the first round is told."""
    daemon.find_in_kernel(make_service())

    async def life() -> None:
        daemon.tell_all()
        await daemon.pass_s()

        assert daemon.reconciler.is_synced.is_set()
        assert daemon.backend.kernel == {}

    daemon.live(life)


def test_what_is_there_already_is_adopted_without_a_write(daemon: Daemon) -> None:
    objects = (make_service(), make_slice("s-1", make_endpoint(A)))
    daemon.find_in_kernel(*objects)

    async def life() -> None:
        daemon.tell_all(*objects)
        await daemon.pass_s()

        assert daemon.reconciler.is_synced.is_set()
        assert daemon.backend.applied == []
        assert daemon.reconciler.operations == 0

    daemon.live(life)


def test_leftovers_are_removed_after_everything_else_is_in_place(daemon: Daemon) -> None:
    daemon.find_in_kernel(make_service())

    async def life() -> None:
        daemon.tell_all(service("default/api"))
        await daemon.pass_s()

        assert daemon.backend.applied == [[API], [WEB]]
        assert set(daemon.backend.kernel) == {API}
        assert daemon.reconciler.operations == 2

    daemon.live(life)


def test_leftovers_among_many_are_looked_for_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconciler, "PRUNED_AT_ONCE", 0)
    daemon = Daemon()
    daemon.find_in_kernel(service("default/old"))
    prune, walked_by = daemon.backend.prune, list[int]()

    def prune_and_tell(desired: Desired, observed: NullObserved) -> NullPlan:
        walked_by.append(threading.get_ident())
        return prune(desired, observed)

    monkeypatch.setattr(daemon.backend, "prune", prune_and_tell)
    daemon.tell_all(service("default/web"))

    async def main() -> None:
        task = asyncio.create_task(daemon.reconciler.run())
        async with asyncio.timeout(60):
            while [*daemon.backend.kernel] != [WEB]:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())

    [thread] = walked_by
    assert thread != threading.get_ident()


def test_the_first_batches_hold_what_everything_else_needs(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "ENDPOINTS_AT_ONCE", 1)  # a batch for each

    async def life() -> None:
        daemon.tell_all(
            service("a/elsewhere", 1),
            service("a/here", 2),
            make_slice("s-1", make_endpoint(A, is_local=True), namespace="a", service="here"),
            service("kube-system/dns", 3, port=53),
            service("default/kubernetes", 4, port=443),
        )
        await daemon.pass_s()

        assert [str(key.name) for batch in daemon.backend.applied for key in batch] == [
            "default/kubernetes",
            "kube-system/dns",
            "a/here",
            "a/elsewhere",
        ]

    daemon.live(life)


@pytest.mark.parametrize(("is_rebuild_due", "sizes"), [(False, [1, 1, 2]), (True, [4])])
def test_batches_are_bounded_by_endpoints_unless_all_is_made_anew(
    daemon: Daemon,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_rebuild_due: bool,
    sizes: list[int],
) -> None:
    monkeypatch.setattr(batches, "ENDPOINTS_AT_ONCE", 3)
    daemon.backend.is_rebuild_due = is_rebuild_due

    async def life() -> None:
        large = [make_endpoint(f"10.1.0.{n}:80", is_local=True) for n in range(1, 4)]
        daemon.tell_all(
            *(service(f"default/{name}", number) for number, name in enumerate("abcd")),
            make_slice("a-1", *large, service="a"),
            make_slice("b-1", *large, service="b"),
        )
        await daemon.pass_s()

        assert [len(batch) for batch in daemon.backend.applied] == sizes

    daemon.live(life)


def test_batches_are_larger_where_a_commit_is_only_worth_it_then(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "ENDPOINTS_AT_ONCE", 1)
    monkeypatch.setattr(NullObserved, "worth_a_commit", property(lambda self: len(self.ports)))

    async def life() -> None:
        daemon.tell_all(*[service(f"a/s{number}") for number in range(8)])
        await daemon.pass_s()

        assert [len(batch) for batch in daemon.backend.applied] == [1, 1, 2, 4]

    daemon.live(life)


def test_an_address_has_a_new_owner_before_the_old_one_loses_it(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "ENDPOINTS_AT_ONCE", 1)

    def asking(name: str, number: int, created: str) -> Service:
        port = make_service_port(
            name, cluster_ip=f"10.96.0.{number}", external_ips=("203.0.113.1",)
        )
        return make_service(name, port, created=created)

    async def life() -> None:
        daemon.tell_all(asking("default/younger", 1, "2026"), service("default/aside", 3))
        await daemon.pass_s()
        daemon.backend.applied.clear()
        daemon.tell(
            make_slice("younger-1", make_endpoint(A), service="younger"),
            service("default/aside", 4),
            asking("default/older", 2, "2025"),
        )
        await daemon.pass_s()

        names = [key.name.name for (key,) in daemon.backend.applied]
        assert names == ["aside", "older", "younger"]

    daemon.live(life)


def test_a_change_is_programmed_at_once_and_journalled(daemon: Daemon) -> None:
    async def life() -> None:
        daemon.tell_all(make_service(), service("default/api", 11))
        await daemon.pass_s(100.0)
        daemon.backend.applied.clear()
        daemon.backend.apply_s = 0.5

        received_s = daemon.now_s
        daemon.tell(make_slice("s-1", make_endpoint(A), resource_version="7"))
        await daemon.pass_s(1.0)

        assert programmed(daemon) == [A]
        assert daemon.backend.applied == [[WEB]]
        entry = list(daemon.reconciler.journal)[-1]
        assert (entry.key, str(entry.cause), entry.error) == (
            WEB,
            "EndpointSlice default/s-1@7",
            "",
        )
        assert entry.received_s == received_s
        assert entry.planned_s == pytest.approx(received_s, abs=0.01)
        assert entry.acknowledged_s == pytest.approx(received_s + 0.5, abs=0.01)

    daemon.live(life)


def test_operations_and_transactions_are_counted(daemon: Daemon) -> None:
    async def life() -> None:
        daemon.tell_all(make_service(), service("default/api", 11))
        await daemon.pass_s()
        daemon.tell(Delete("Service", "default", "api"))
        await daemon.pass_s()

        assert (daemon.reconciler.operations, daemon.reconciler.transactions) == (3, 2)
        assert set(daemon.backend.kernel) == {WEB}

    daemon.live(life)


def test_news_without_a_change_cause_no_work(daemon: Daemon) -> None:
    async def life() -> None:
        daemon.tell_all(make_service(), make_slice("s-1", make_endpoint(A)))
        await daemon.pass_s()
        daemon.backend.applied.clear()

        daemon.tell(make_service(resource_version="9"), make_slice("s-1", make_endpoint(A)))
        daemon.tell(make_slice("s-2"))  # the placeholder of a service without pods
        await daemon.pass_s(1.0)

        assert daemon.backend.applied == []

    daemon.live(life)


def test_changes_during_a_transaction_collapse_into_the_next(daemon: Daemon) -> None:
    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s()
        daemon.backend.applied.clear()
        daemon.backend.apply_s = 1.0

        daemon.tell(make_slice("s-1", make_endpoint(A)))
        await daemon.pass_s(0.5)
        for number in range(10):
            daemon.tell(make_slice("s-1", make_endpoint(f"10.1.0.{number}:80")))
            await daemon.pass_s(0.01)
        await daemon.pass_s(5.0)

        assert daemon.backend.applied == [[WEB], [WEB]]
        assert programmed(daemon) == ["10.1.0.9:80"]

    daemon.live(life)


def test_the_minimum_interval_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = make_daemon(monkeypatch, min_interval_s=10.0)

    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s()

        daemon.tell(make_slice("s-1", make_endpoint(A)))
        await daemon.pass_s(9.0)
        assert programmed(daemon) == []
        await daemon.pass_s(1.1)
        assert programmed(daemon) == [A]

    daemon.live(life)


def test_others_may_run_while_many_changes_are_described(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "SLICE_S", -1.0)  # every service takes too long
    turns: list[int] = []

    async def others() -> None:
        while True:
            await asyncio.sleep(0)
            turns.append(len(daemon.desired.ports))

    async def life() -> None:
        task = asyncio.create_task(others())
        daemon.tell_all(*(service(f"default/{number}", number) for number in range(20)))
        await daemon.pass_s()
        task.cancel()

        assert set(range(1, 20)) <= set(turns)

    daemon.live(life)


def test_what_came_while_others_ran_is_not_lost(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "SLICE_S", -1.0)

    async def life() -> None:
        daemon.tell_all(*(service(f"default/{number}", number) for number in range(20)))
        for number in range(20):
            await asyncio.sleep(0)
            daemon.tell(make_slice(f"s-{number}", make_endpoint(A), service=str(number)))
        await daemon.pass_s()

        assert len(daemon.backend.kernel) == 20
        assert all(len(port.internal) == 1 for port in daemon.backend.kernel.values())

    daemon.live(life)


def test_what_somebody_else_changed_is_planned_again(daemon: Daemon) -> None:
    async def life() -> None:
        daemon.tell_all(make_service(), service("default/api", 11))
        await daemon.pass_s()
        daemon.backend.applied.clear()
        daemon.backend.tamper(WEB)
        daemon.reconciler.observed.ports.pop(WEB)

        daemon.reconciler.repair([Drift(key=WEB, what="gone")])
        await daemon.pass_s()

        assert daemon.backend.applied == [[WEB]]
        assert list(daemon.reconciler.journal)[-1].cause.kind == "repair"

    daemon.live(life)


def test_a_drift_of_no_service_port_has_everything_read_anew(daemon: Daemon) -> None:
    async def life() -> None:
        daemon.tell_all(make_service(), service("default/api", 11))
        await daemon.pass_s()
        daemon.backend.tamper(WEB)

        daemon.reconciler.repair([Drift(key=None, what="a shared chain")])
        await daemon.pass_s()

        assert len(daemon.backend.observed_at) == 2
        assert set(daemon.backend.kernel) == {WEB, API}

    daemon.live(life)


def test_the_data_plane_stays_when_the_daemon_ends(daemon: Daemon) -> None:
    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s()

    daemon.live(life)

    assert set(daemon.backend.kernel) == {WEB}
